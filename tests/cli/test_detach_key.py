"""The key that leaves a terminal, as terminals tell it."""

import pytest

from cmdop_appliance.cli.detach_key import DEFAULT, detach_key, without_noise


@pytest.mark.parametrize(
    ("spelling", "name", "typed"),
    [
        ("^]", "Ctrl-]", b"\x1d"),
        ("ctrl-x", "Ctrl-X", b"\x18"),
        ("Ctrl+X", "Ctrl-X", b"\x18"),
        ("^\\", "Ctrl-\\", b"\x1c"),
        ("alt-q", "Alt-Q", b"\x1bq"),
        ("alt-.", "Alt-.", b"\x1b."),
    ],
)
def test_a_key_has_a_name_and_is_found_in_what_is_typed(spelling, name, typed):
    key = detach_key(spelling)
    assert key.name == name
    found = key.first(typed)
    assert found is not None
    assert found[0] == typed


@pytest.mark.parametrize(
    "spelling", ["", "x", "^", "^[", "^1", "alt-", "alt-ü", "ctrl-alt-x", "^xy"]
)
def test_what_is_no_key_is_refused(spelling):
    with pytest.raises(ValueError, match="needs a"):
        detach_key(spelling)


@pytest.mark.parametrize(
    "typed",
    [
        b"\x1d",
        b"\x1b[93;5u",  # kitty
        b"\x1b[93;133u",  # with Num Lock
        b"\x1b[93;69:1u",  # with Caps Lock, and that it was pressed
        b"\x1b[93:125:53;5:2;29u",  # with all that there is, and repeated
        b"\x1b[27;5;93~",  # xterm, modifyOtherKeys
        b"\x1bq",
        b"\x1b[113;3u",
        b"\x1b[27;3;113~",
    ],
)
def test_each_way_of_telling_the_usual_keys_is_known(typed):
    found = DEFAULT.first(typed)
    assert found is not None
    assert found[0] == typed


@pytest.mark.parametrize(
    "typed",
    [
        b"]",
        b"q",
        b"\x1b",
        b"\x1bqa",  # Escape, and what was typed behind it, come at once over a slow line
        b"a\x1bq",
        b"\x1b[93;5:3u",  # it was let go
        b"\x1b[93;3u",
        b"\x1b[93u",
        b"\x1b[113;5u",
        b"\x1b[A",
    ],
)
def test_other_keys_are_none_of_them(typed):
    assert DEFAULT.first(typed) is None


def test_what_a_press_brings_beside_itself_is_no_other_key():
    let_go, ctrl = b"\x1b[93;5:3u", b"\x1b[57442;5u\x1b[57442;1:3u"
    assert without_noise(let_go + ctrl) == b""
    assert without_noise(let_go + b"\x1b[93;5u" + ctrl) == b"\x1b[93;5u"
    assert without_noise(b"\x1b[A\x1b[97;5u") == b"\x1b[A\x1b[97;5u"
