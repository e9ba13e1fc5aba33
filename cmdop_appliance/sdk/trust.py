"""Whom TLS takes for the hub: who has a certificate that one of these vouches for."""

import functools
import os
import ssl
from typing import NamedTuple

from cmdop_appliance.sdk.errors import CmdopError


class Trust(NamedTuple):
    """Certificates (PEM); none: the authorities of the system."""

    pem: str = ""
    is_pinned: bool = False  # it is the hub's own, whatever name that is reached by


def trust_in(ca_file: str | os.PathLike[str] | None, certificate: str | None) -> Trust:
    """What `Client` was told, or else what CMDOP_CA_FILE names.

    Raises:
        CmdopError: the file cannot be read.
    """
    if certificate:
        return Trust(certificate, is_pinned=True)
    path = ca_file or os.environ.get("CMDOP_CA_FILE")
    if not path:
        return Trust()
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - pathlib: 5 ms
            return Trust(file.read())
    except OSError as exc:
        raise CmdopError(f"cannot read the certificates in {path}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise CmdopError(f"{path} has no PEM certificate") from None


def tls_context(trust: Trust) -> ssl.SSLContext:
    """What a connection to the hub is made with.

    Raises:
        CmdopError: there is no certificate in what was given.
    """
    return _context_of(trust) if trust.pem else ssl.create_default_context()


@functools.lru_cache(maxsize=8)
def _context_of(trust: Trust) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=trust.pem)
    except (ssl.SSLError, ValueError):
        raise CmdopError("what shall vouch for the hub has no PEM certificate") from None
    # A hub's own certificate vouches for nobody else, so it needs no name to be told by.
    is_own = trust.is_pinned or not context.cert_store_stats()["x509_ca"]
    context.check_hostname = not is_own
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def untrusted(address: str, error: ssl.SSLCertVerificationError) -> str:
    """What whoever answers at `address` lacks."""
    return f"nobody vouches for the hub at {address}: {error.verify_message}"
