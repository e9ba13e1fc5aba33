"""Meeting a hub for the first time: whose certificate is it?"""

import socket
import ssl
import sys
from typing import Final

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk.envelope import Address, address_of
from cmdop_appliance.sdk.trust import tls_context

_TIMEOUT_S: Final = 10.0


def meet(url: str, fingerprint: str | None) -> str:
    """The certificate (PEM) that the hub at `url` is to be known by; "": somebody vouches for it.

    `fingerprint` is that of its key; None: whoever sits there is asked, where nobody vouches.

    Raises:
        Failure: nobody is there, it is not the one that is meant, or nobody can be asked.
    """
    address = address_of(url)
    if not address.secure:
        if fingerprint is None:
            return ""
        raise Failure(
            "without TLS there is no key to compare",
            exit_code=failures.USAGE,
            hint=f"cmdop login https://{address.authority}",
        )
    if fingerprint is None:
        try:
            _certificate(address, tls_context(address.trust))
        except ssl.SSLCertVerificationError as exc:
            reason = exc.verify_message
        else:
            return ""
    strange = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    strange.check_hostname = False
    strange.verify_mode = ssl.CERT_NONE
    found = _certificate(address, strange)
    from cmdop_appliance.certificates import key_pin  # 60 ms, which only this costs

    pin = key_pin(found)
    if fingerprint is None:
        _ask(address, pin, reason)
    elif pin != fingerprint:
        raise Failure(
            f"the hub at {address} has another key: {pin}",
            exit_code=failures.NOT_ALLOWED,
            hint="compare it with what the hub says at its start; somebody may be in between",
        )
    return ssl.DER_cert_to_PEM_cert(found)


def _certificate(address: Address, context: ssl.SSLContext) -> bytes:
    """That of whoever answers (DER).

    Raises:
        ssl.SSLCertVerificationError: the context does not trust it.
        Failure: nobody answers, or not in TLS.
    """
    try:
        with (
            socket.create_connection((address.host, address.port), _TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=address.host) as link,
        ):
            certificate = link.getpeercert(binary_form=True)
    except ssl.SSLCertVerificationError:
        raise
    except (OSError, UnicodeError) as exc:
        reason = (getattr(exc, "strerror", None) or str(exc)).lower()
        raise Failure(
            f"cannot reach the hub at {address}: {reason}",
            exit_code=failures.UNREACHABLE,
            hint="is `cmdop serve` running there, and does it speak TLS?",
        ) from exc
    assert certificate is not None  # a server must have one
    return certificate


def _ask(address: Address, pin: str, reason: str) -> None:
    """Have the person say that this is the hub's key.

    Raises:
        Failure: they say that it is not, or nobody can be asked.
    """
    print(visible(f"nobody vouches for the hub at {address}: {reason}"), file=sys.stderr)
    print(f"its key is {pin}", file=sys.stderr)
    if sys.stdin is None or not sys.stdin.isatty():
        raise Failure(
            "the hub's key is not known here",
            exit_code=failures.NOT_ALLOWED,
            hint=f"if it is what the hub says at its start: --fingerprint {pin}",
        )
    print("Is it what the hub says at its start, as TLS key? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("not logged in: the key is not the hub's", exit_code=failures.NOT_ALLOWED)
