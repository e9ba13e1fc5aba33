"""Whose releases are taken."""

import base64

import pytest

from cmdop_appliance.identity import Identity
from cmdop_appliance.release import trust

KEY = Identity(bytes(32)).public_key  # the same in each process: parameters are made of it
TEXT = base64.b64encode(KEY).decode()


def test_a_key_is_read_as_it_is_written():
    assert trust.read_key(TEXT) == KEY
    assert trust.trusted_keys([TEXT])[-1] == KEY


@pytest.mark.parametrize("text", ["", "QUJD", TEXT[:-4], TEXT + "AAAA", "é" * 44, f" {TEXT}"])
def test_what_is_no_key_is_refused_and_shown(text):
    with pytest.raises(ValueError, match=r"no Ed25519 public key: 32 bytes in base64"):
        trust.read_key(text)


def test_a_program_trusts_the_keys_it_was_built_with(tmp_path, monkeypatch):
    monkeypatch.setattr(trust.resources, "files", lambda _package: tmp_path)
    assert trust.built_in_keys() == ()
    (tmp_path / "release.pub").write_text(f"# ours\n\n{TEXT}  # since 2026\n")
    assert trust.trusted_keys([]) == (KEY,)
