"""The hub's certificate: made once, renewed with its key, or its owner's, which must be good."""

import base64
import datetime as dt
import hashlib
import ipaddress
import ssl
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cmdop_appliance import certificates
from cmdop_appliance.certificates import given_certificate, key_pin, own_certificate
from cmdop_appliance.errors import StartupError
from tests.support.authority import DAY, NOW, Authority


def parsed(made):
    return x509.load_der_x509_certificate(made.der)


def test_one_is_made_for_every_name_of_this_machine_and_kept(tmp_path):
    folder = tmp_path / "tls"
    made = own_certificate(folder, {"hub.example"})
    found = parsed(made)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dns = set(names.get_values_for_type(x509.DNSName))
    assert {"localhost", "hub.example"} <= dns
    addresses = set(names.get_values_for_type(x509.IPAddress))
    assert {ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")} <= addresses
    assert isinstance(found.public_key().curve, ec.SECP256R1)
    assert found.not_valid_after_utc - dt.datetime.now(dt.UTC) > 3649 * DAY
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert made.is_own
    for path in (folder / "key.pem", folder / "certificate.pem"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert own_certificate(folder, {"hub.example"}).der == made.der


def test_the_pin_is_what_openssl_and_curl_mean_by_it(tmp_path):
    made = own_certificate(tmp_path / "tls", set())
    said = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "tls/certificate.pem", "-noout", "-pubkey"],
        capture_output=True,
        check=True,
    ).stdout
    der = base64.b64decode("".join(said.decode().splitlines()[1:-1]))
    digest = base64.b64encode(hashlib.sha256(der).digest()).decode()
    assert key_pin(made.der) == f"sha256//{digest}"


@pytest.mark.parametrize("why", ["it ends soon", "it lacks a name", "it is gone", "it is damaged"])
def test_one_that_is_made_anew_has_the_key_of_the_old(tmp_path, monkeypatch, why):
    folder, names = tmp_path / "tls", set()
    with monkeypatch.context() as patch:
        if why == "it ends soon":
            patch.setattr(certificates, "_LIFE", 29 * DAY)
        old = own_certificate(folder, names)
    if why == "it lacks a name":
        names = {"hub.example"}
    elif why == "it is gone":
        (folder / "certificate.pem").unlink()
    elif why == "it is damaged":
        (folder / "certificate.pem").write_text("x")
    new = own_certificate(folder, names)
    assert new.der != old.der
    assert key_pin(new.der) == key_pin(old.der)
    assert own_certificate(folder, names).der == new.der


@pytest.mark.parametrize("content", ["", "x", "ed25519"])
def test_a_key_that_the_hub_has_not_made_is_named_and_left_alone(tmp_path, content):
    folder = tmp_path / "tls"
    own_certificate(folder, set())
    if content == "ed25519":
        content = subprocess.run(
            ["openssl", "genpkey", "-algorithm", content],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    (folder / "key.pem").write_text(content)
    with pytest.raises(StartupError, match=r"key\.pem is not what the hub has made"):
        own_certificate(folder, set())
    assert (folder / "key.pem").read_text() == content


def test_a_place_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "tls").touch()
    with pytest.raises(StartupError, match=r"cannot use .*tls: (File exists|Not a directory)"):
        own_certificate(tmp_path / "tls", set())


# ── the owner's ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def owned(tmp_path):
    """The file of a certificate and its key."""
    Authority(tmp_path).server("hub.example")
    return tmp_path / "hub.example.pem"


def apart(owned):
    """The certificate, and the key in a file of its own."""
    key, begin, certificate = owned.read_text().partition("-----BEGIN CERTIFICATE")
    files = owned.with_name("certificate"), owned.with_name("key")
    files[0].write_text(begin + certificate)
    files[1].write_text(key)
    return files


def test_the_owners_is_used_from_one_file_or_two(owned):
    for files in ((owned, ""), apart(owned)):
        made = given_certificate(*map(str, files))
        names = parsed(made).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert names.value.get_values_for_type(x509.DNSName) == ["hub.example"]
        assert not made.is_own
        assert made.context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_what_is_wrong_with_it_is_told_with_the_setting_and_the_file(tmp_path, owned):
    certificate, key = apart(owned)
    other = tmp_path / "other"
    other.mkdir()
    Authority(other).server("hub.example")
    _, other_key = apart(other / "hub.example.pem")
    Authority(tmp_path).server("late", until=NOW - DAY)
    locked = tmp_path / "locked"
    secret = serialization.load_pem_private_key(key.read_bytes(), None)
    locked.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    missing = tmp_path / "missing"
    for files, said in {
        (missing, key): f"certificate: {missing}: no such file",
        (key, key): f"certificate: {key}: it has no PEM certificate",
        (tmp_path / "late.pem", ""): "it is good from",
        (certificate, missing): f"certificate_key: {missing}: no such file",
        (certificate, certificate): f"certificate_key: {certificate}: it has no PEM key",
        (certificate, ""): f"certificate: {certificate}: it has no PEM key",
        (certificate, locked): f"certificate_key: {locked}: it has no PEM key without a passphrase",
        (certificate, other_key): f"certificate_key: {other_key}: it is not the key of",
    }.items():
        with pytest.raises(StartupError) as caught:
            given_certificate(*map(str, files))
        assert caught.value.message.startswith("[server] ")
        assert said in caught.value.message
