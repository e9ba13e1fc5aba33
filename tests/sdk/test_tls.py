"""A hub behind TLS."""

import datetime as dt
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cmdop_appliance.sdk import CmdopError, ConnectionFailed, Untrusted
from tests.sdk.kinds import Client
from tests.sdk.scripted_hub import answer, scripted_hub
from tests.sdk.scripted_machine import KEY, LARGE, Machine

pytestmark = pytest.mark.usefixtures("kind")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with a key and a certificate that it has signed itself, for `localhost`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path_factory.mktemp("tls") / "certificate"
    path.write_bytes(secret + signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def tls(certificate):
    """What a hub shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_calls_and_files_go_both_ways(certificate, tls, local, here, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with (
        scripted_hub(Machine(), tls=tls) as hub,
        Client(hub.url.replace("127.0.0.1", "localhost"), KEY) as client,
    ):
        client.files.upload("mach_1", local, "/f")
        client.files.download("mach_1", "/f", here)
        before = hub.connections
        for _ in range(2):
            assert client.files.stat("mach_1", "/f")["size"] == len(LARGE)
        assert hub.connections == before + 1
    assert here.read_bytes() == LARGE


def test_a_certificate_that_nobody_vouches_for_is_refused(tls):
    with (
        scripted_hub(lambda _: answer({}), tls=tls) as hub,
        Client(hub.url.replace("127.0.0.1", "localhost"), KEY) as client,
        pytest.raises(ConnectionFailed, match="certificate"),
    ):
        client.me()
    assert not hub.asked


def test_who_hangs_up_in_the_midst_of_the_handshake_is_no_hub():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)

        thread = threading.Thread(target=hang_up)
        thread.start()
        with (
            Client("https://{}:{}".format(*listener.getsockname()), KEY) as client,
            pytest.raises(ConnectionFailed, match="cannot reach"),
        ):
            client.me()
        thread.join()


def test_a_hubs_own_certificate_is_good_by_any_name_and_for_no_other(certificate, tls, tmp_path):
    _, begin, text = certificate.read_text().partition("-----BEGIN CERTIFICATE")
    with scripted_hub(lambda _: answer({}), tls=tls) as hub:
        with Client(hub.url, KEY, certificate=begin + text) as client:  # 127.0.0.1: not in it
            client.me()
        asked = len(hub.asked)
        (tmp_path / "none").write_text("none")
        with (
            Client(hub.url, KEY, ca_file=tmp_path / "none") as client,
            pytest.raises(CmdopError, match="no PEM certificate"),
        ):
            client.me()
        with Client(hub.url, KEY) as client, pytest.raises(Untrusted, match="nobody vouches"):
            client.me()
        assert len(hub.asked) == asked
