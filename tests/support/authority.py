"""An authority whose certificates no system trusts."""

import datetime as dt
import ipaddress
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


class Authority:
    """A CA, and what it gave to receivers."""

    def __init__(self, place) -> None:
        self._place = place
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        root = self._build(self._name, self._key).add_extension(
            x509.BasicConstraints(True, 0), True
        )
        self.file = place / "ca.pem"
        self.file.write_bytes(self._signed(root))

    def server(self, *names: str, until: dt.datetime = NOW + DAY) -> ssl.SSLContext:
        """What a receiver with these names speaks TLS with."""
        key = ec.generate_private_key(ec.SECP256R1())
        is_for = [
            x509.IPAddress(ipaddress.ip_address(name)) if name[-1].isdigit() else x509.DNSName(name)
            for name in names
        ]
        built = self._build(x509.Name([]), key, until).add_extension(
            x509.SubjectAlternativeName(is_for), True
        )
        both = self._place / f"{names[0]}.pem"
        both.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + self._signed(built)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(both)
        return context

    def _build(self, subject, key, until=NOW + DAY) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 2 * DAY)
            .not_valid_after(until)
        )

    def _signed(self, built: x509.CertificateBuilder) -> bytes:
        signed = built.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)
