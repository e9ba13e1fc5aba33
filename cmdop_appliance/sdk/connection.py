"""One HTTP connection, over http.client."""

import http.client
import select
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from cmdop_appliance.sdk.envelope import Address
from cmdop_appliance.sdk.errors import (
    Away,
    ConnectionFailed,
    Silent,
    UnexpectedAnswer,
    Untrusted,
)
from cmdop_appliance.sdk.pieces import PIECE_BYTES
from cmdop_appliance.sdk.trust import tls_context, untrusted


class Response:
    """The head of an answer, whose body is still to come."""

    def __init__(self, answer: http.client.HTTPResponse, address: Address) -> None:
        self._answer = answer
        self._address = address
        self.status = answer.status
        self.length = answer.length  # of the body, in bytes; None: it ends when it ends

    def header(self, name: str) -> str:
        """What the header says; "" if there is none."""
        return self._answer.headers.get(name, "")

    def read(self) -> bytes:
        """All of the body.

        Raises:
            ConnectionFailed
        """
        with _failures(self._address):
            return self._answer.read()

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives.

        Raises:
            ConnectionFailed: also when nothing arrives for too long.
        """
        while True:
            with _failures(self._address):
                piece = self._answer.read1(PIECE_BYTES)
            if not piece:
                return
            yield piece


class Connection:
    """One connection to a hub, for one request at a time."""

    def __init__(self, address: Address, timeout_s: float, silence_s: float) -> None:
        """`timeout_s`: how long a hub is waited for; `silence_s`: one that has been reached."""
        where = address.host, address.port
        if address.secure:
            context = tls_context(address.trust)
            self._http: http.client.HTTPConnection = http.client.HTTPSConnection(
                *where, timeout=timeout_s, context=context
            )
        else:
            self._http = http.client.HTTPConnection(*where, timeout=timeout_s)
        self._address = address
        self._timeout_s = timeout_s
        self._silence_s = silence_s

    def open(self) -> None:
        """Connect, unless that is done.

        Raises:
            Away, ConnectionFailed
        """
        if not self._is_open:
            with _failures(self._address, sent=False):
                self._http.connect()
                self._http.sock.settimeout(self._silence_s)

    @property
    def _is_open(self) -> bool:
        return self._http.sock is not None

    def close(self) -> None:
        """Close it; it can be opened again."""
        self._http.close()

    def is_stale(self) -> bool:
        """True: the idle connection has bytes or an end to read, so the hub has given it up."""
        if not self._is_open:
            return False
        poll = select.poll()  # select() cannot watch descriptors above 1023
        poll.register(self._http.sock, select.POLLIN)
        return bool(poll.poll(0))

    def send(
        self, method: str, target: str, headers: Mapping[str, str], payload: bytes | None
    ) -> None:
        """Send a request.

        Raises:
            ConnectionFailed
        """
        with _failures(self._address):
            self._http.request(method, target, payload, dict(headers))

    def send_file(
        self, file: Iterable[memoryview] | None, ask_for_life: Callable[[], None]
    ) -> None:
        """Send this as the body, as far as the hub wants it, and wait until it answers.

        Whenever nothing has moved for as long as a hub is waited for, `ask_for_life` is called,
        which raises if there is none.

        Raises:
            ConnectionFailed
        """
        for piece in file or ():  # whose failures are none of the hub's
            if not self._is_taken(piece, ask_for_life):
                break
        self._wait(select.POLLIN, ask_for_life)

    def _is_taken(self, piece: memoryview, ask_for_life: Callable[[], None]) -> bool:
        """Send all of `piece`; False: the hub wants no more, and has said why, or is gone."""
        # Over TLS there may be something to read that is no answer, such as a session ticket.
        answered = 0 if self._address.secure else select.POLLIN
        while piece:
            if self._wait(select.POLLOUT | answered, ask_for_life) & answered:
                return False
            try:
                with _failures(self._address):
                    piece = piece[self._http.sock.send(piece) :]
            except Away:
                return False
        return True

    def _wait(self, events: int, ask_for_life: Callable[[], None]) -> int:
        """The first of `events` to come, as long as the hub is there."""
        poll = select.poll()
        poll.register(self._http.sock, events)
        while not (came := poll.poll(self._timeout_s * 1000)):
            ask_for_life()
        return came[0][1]

    def answer(self) -> Response:
        """The head of the answer.

        Raises:
            ConnectionFailed, UnexpectedAnswer
        """
        with _failures(self._address):
            return Response(self._http.getresponse(), self._address)


@contextmanager
def _failures(address: Address, *, sent: bool = True) -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        kind = Silent if sent else ConnectionFailed
        raise kind(f"the hub at {address} does not answer") from exc
    except ssl.SSLCertVerificationError as exc:
        raise Untrusted(untrusted(str(address), exc)) from exc
    except OSError as exc:
        reason = (exc.strerror or str(exc) or type(exc).__name__).lower()
        raise Away(f"cannot reach the hub at {address}: {reason}", sent=sent) from exc
    except UnicodeError as exc:  # the resolver's word for a host name that cannot be one
        raise ConnectionFailed(f"cannot reach the hub at {address}: no such host") from exc
    except http.client.HTTPException as exc:
        if _is_torn(exc):
            raise Away(f"the hub at {address} broke off its answer") from exc
        raise UnexpectedAnswer(f"what listens at {address} is not a cmdop hub") from exc


def _is_torn(error: http.client.HTTPException) -> bool:
    """True: what came is the beginning of an answer; False: it is none."""
    if isinstance(error, http.client.BadStatusLine):
        return "HTTP/1.1".startswith(str(error)[:8])
    return isinstance(error, http.client.IncompleteRead)
