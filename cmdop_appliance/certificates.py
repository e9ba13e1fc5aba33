"""The hub's certificate for TLS: its owner's, or one that it makes and renews itself."""

import base64
import datetime as dt
import hashlib
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cmdop_appliance.errors import StartupError
from cmdop_appliance.private import write_private

FOLDER: Final = "tls"  # in the data directory: what the hub makes itself
CERTIFICATE_FILE: Final = "certificate.pem"
KEY_FILE: Final = "key.pem"

_LIFE: Final = dt.timedelta(days=3650)
_RENEWED: Final = dt.timedelta(days=30)  # before its end
_BACK: Final = dt.timedelta(days=1)  # the clock of whoever looks may be behind


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a connection of the hub speaks TLS with."""

    context: ssl.SSLContext
    der: bytes
    is_own: bool  # made by the hub: nobody vouches for it


def given_certificate(certificate: str, key: str) -> Certificate:
    """The owner's, from files (PEM); `key` "": it is in the same.

    Raises:
        StartupError: it cannot be used, with the setting and the file that are wrong.
    """
    try:
        found = x509.load_pem_x509_certificates(Path(certificate).read_bytes())[0]
    except OSError as exc:
        raise _wrong("certificate", certificate, f"{exc.strerror}".lower()) from exc
    except ValueError:
        raise _wrong("certificate", certificate, "it has no PEM certificate") from None
    now = dt.datetime.now(dt.UTC)
    if not found.not_valid_before_utc <= now <= found.not_valid_after_utc:
        life = f"{found.not_valid_before_utc:%F %T} to {found.not_valid_after_utc:%F %T} UTC"
        raise _wrong("certificate", certificate, f"it is good from {life} only")
    setting, file = ("certificate_key", key) if key else ("certificate", certificate)
    try:
        private = serialization.load_pem_private_key(Path(file).read_bytes(), None)
    except OSError as exc:
        raise _wrong(setting, file, f"{exc.strerror}".lower()) from exc
    except (ValueError, TypeError):  # TypeError: it has a passphrase
        raise _wrong(setting, file, "it has no PEM key without a passphrase") from None
    if private.public_key() != found.public_key():
        raise _wrong(setting, file, f"it is not the key of {certificate}")
    try:
        context = _context(Path(certificate), Path(file))
    except ssl.SSLError as exc:
        raise _wrong("certificate", certificate, f"TLS cannot use it: {exc.reason}") from exc
    return Certificate(context, found.public_bytes(serialization.Encoding.DER), is_own=False)


def own_certificate(folder: Path, names: Iterable[str]) -> Certificate:
    """The hub's own, made at the first start, in a directory that is made, too.

    `names`: what it must be good for beside this machine's names and addresses, else it is made
    anew; so is one that ends soon. Its key stays: whoever knows the hub by that notices nothing.

    Raises:
        StartupError: the directory cannot be used, or holds something else.
    """
    certificate, key = folder / CERTIFICATE_FILE, folder / KEY_FILE
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not key.exists():
            made = ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            write_private(key, made.decode())
        private = _own_key(key)
        if not _is_good(certificate, private, names):
            built = _built(private, {*names, *_names_of_this_machine()})
            write_private(certificate, built.public_bytes(serialization.Encoding.PEM).decode())
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        der = found.public_bytes(serialization.Encoding.DER)
        return Certificate(_context(certificate, key), der, is_own=True)
    except OSError as exc:
        raise StartupError(f"cannot use {folder}: {exc.strerror}") from exc


def _own_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StartupError(
            f"{path} is not what the hub has made",
            hint="restore it, or remove it: browsers and command lines then learn a new one",
        )
    return key


def key_pin(der: bytes) -> str:
    """`sha256//…`: by which people, cmdop and curl know the key of a certificate (RFC 7469)."""
    public = x509.load_der_x509_certificate(der).public_key()
    info = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"sha256//{base64.b64encode(hashlib.sha256(info).digest()).decode()}"


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A handshake costs less than a millisecond; tickets cost memory, and forward secrecy.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(certificate, key)
    return context


def _is_good(path: Path, key: ec.EllipticCurvePrivateKey, names: Iterable[str]) -> bool:
    """True: the file has a certificate of this key that lasts, and names these."""
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        found.public_key() == key.public_key()
        and dt.datetime.now(dt.UTC) < found.not_valid_after_utc - _RENEWED
        and all(_name(name) in alternative for name in names)
    )


def _built(key: ec.EllipticCurvePrivateKey, names: set[str]) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cmdop hub")])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACK)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([_name(name) for name in sorted(names)]), critical=False
        )
        .add_extension(
            x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .sign(key, hashes.SHA256())
    )


def _names_of_this_machine() -> set[str]:
    """Its names, and the addresses of its interfaces."""
    import psutil  # 10 ms, which only a new certificate costs

    found = {"localhost", "127.0.0.1", "::1"}
    host = socket.gethostname()
    found |= {host} if host.isascii() and host else set()
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family in (socket.AF_INET, socket.AF_INET6):
                found.add(each.address.partition("%")[0])
    return found


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _wrong(setting: str, file: str, reason: str) -> StartupError:
    return StartupError(
        f"[server] {setting}: {file}: {reason}",
        hint='or leave it "": the hub then makes its own certificate',
    )
