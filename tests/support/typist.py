"""A person at a terminal: types, looks at a screen, and comes back when a connection ends.

Speaks the websocket as docs/terminals.md has it, without the SDK. What is typed is sent again until
the hub says that it was taken, within the bounds; the screen is pyte's, fed with what comes.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyte
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from tests.support.appliance import PATIENCE_S, Api, wait_for

PROTOCOL = "cmdop.terminal.v1"
_OFFSET_BYTES = 8
_INPUT_BYTES = 16 * 1024
_UNDER_WAY_BYTES = 64 * 1024  # what is sent beyond is refused
_AGAIN_S = 1.0
_RETRY_S = 0.02
_OVER = (1000, 4400, 4401, 4403, 4404)  # close codes after which there is nothing to come back to


class _Screen(pyte.Screen):
    """A screen that answers what a program asks its terminal, by typing, as every terminal does."""

    def __init__(self, cols: int, rows: int, answer: Callable[[str], None]) -> None:
        super().__init__(cols, rows)
        self.write_process_input = answer

    def select_graphic_rendition(self, *attrs: int, private: bool = False) -> None:
        if not private:  # else it is about keys (xterm's modifyOtherKeys), which pyte takes ill
            super().select_graphic_rendition(*attrs)


class Typist:
    """One viewer of one terminal, through all its connections."""

    def __init__(
        self, api: Api, terminal_id: str, mode: str = "operator", cols: int = 80, rows: int = 24
    ) -> None:
        self.screen = _Screen(cols, rows, self.type)
        self.said: list[dict[str, Any]] = []  # what the hub said beside output
        self.read = bytearray()  # all output so far
        self.end: dict[str, Any] | None = None
        self.close_code: int | None = None
        self.offset: int | None = None  # of the output, where to go on
        self.connections = 0
        self._mode = mode
        self._api = api
        self._terminal_id = terminal_id
        self._stream = pyte.ByteStream(self.screen)
        self._writer = secrets.token_hex(16)
        self._typed = bytearray()  # what the hub has not taken yet
        self._taken = 0  # how much it has
        self._sent = 0
        self._again_at = 0.0  # when what was not taken is sent again
        self._size = {"cols": cols, "rows": rows}
        self._lock = threading.RLock()  # what is shown may ask, and the answer is typed
        self._socket: ClientConnection | None = None
        self._is_leaving = False
        self._thread = threading.Thread(target=self._live, name=f"typist {terminal_id}")

    def type(self, text: str | bytes) -> None:
        """Type; it arrives once, at the latest when hub and machine are back."""
        data = text.encode() if isinstance(text, str) else text
        with self._lock:
            self._typed += data
            self._send_typed()

    def resize(self, cols: int, rows: int) -> None:
        """The window is as large as this from now on."""
        with self._lock:
            self._size = {"cols": cols, "rows": rows}
            self.screen.resize(rows, cols)
            self._send(json.dumps({"type": "resize", **self._size}))

    @property
    def text(self) -> str:
        """The screen, its lines without what is blank behind them."""
        with self._lock:
            return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    @property
    def untaken(self) -> int:
        """Bytes typed that have not arrived yet, as far as is known."""
        with self._lock:
            return len(self._typed)

    def wait_screen(
        self, shows: Callable[[str], object] | str, patience_s: float = PATIENCE_S
    ) -> str:
        """The screen, once it shows this."""
        test = (lambda text: shows in text) if isinstance(shows, str) else shows
        try:
            return wait_for(lambda: self.text if test(self.text) else "", "screen", patience_s)
        except AssertionError as exc:
            raise AssertionError(f"{shows!r} is not on the screen:\n{self.text}") from exc

    def wait_said(self, kind: str) -> dict[str, Any]:
        """The first message of this kind."""
        return wait_for(lambda: next((m for m in self.said if m["type"] == kind), None), kind)

    def wait_end(self) -> dict[str, Any]:
        """What the hub says of the terminal's end."""
        end = wait_for(lambda: self.end, f"{self._terminal_id} ends")
        assert end is not None
        return end

    def start(self) -> None:
        """Sit down."""
        self._thread.start()
        wait_for(lambda: self.connections or self.close_code, "the terminal answers")

    def leave(self) -> None:
        """Hang up; the terminal goes on."""
        self._is_leaving = True
        with suppress(ConnectionClosed, AttributeError):
            self._socket.close()  # type: ignore[union-attr]
        self._thread.join()

    def _live(self) -> None:
        give_up = time.monotonic() + 4 * PATIENCE_S
        while not self._is_leaving and self.close_code not in _OVER:
            with suppress(OSError, InvalidHandshake, TimeoutError, EOFError):
                before = self.connections
                self._converse()
                if self.connections > before:
                    give_up = time.monotonic() + 4 * PATIENCE_S
            if time.monotonic() > give_up:
                return
            time.sleep(_RETRY_S)

    def _converse(self) -> None:
        address = self._api.url.replace("http:", "ws:", 1)
        with connect(
            f"{address}/api/v1/terminals/{self._terminal_id}/socket",
            additional_headers={"Authorization": f"Bearer {self._api.key}"},
            subprotocols=[PROTOCOL],  # type: ignore[list-item]
            open_timeout=PATIENCE_S,
            close_timeout=1,
            compression=None,
        ) as self._socket:
            with self._lock:
                start = {"offset": self.offset, "writer": self._writer, "mode": self._mode}
                self._send(json.dumps({"type": "start", **start, **self._size}))
            try:
                while True:
                    with suppress(TimeoutError):
                        self._hear(self._socket.recv(timeout=_AGAIN_S))
                    self._send_refused()
            except ConnectionClosed:
                pass
            finally:
                closed = self._socket.close_code
                self._socket = None
            self.close_code = closed

    def _hear(self, message: str | bytes) -> None:
        with self._lock:
            if isinstance(message, bytes):
                self.offset = int.from_bytes(message[:_OFFSET_BYTES])
                self.read += message[_OFFSET_BYTES:]
                self._stream.feed(message[_OFFSET_BYTES:])
                return
            said = json.loads(message)
            self.said.append(said)
            match said["type"]:
                case "hello" | "back":
                    self.connections += said["type"] == "hello"
                    self._sent = self._taken
                    self._send_typed()
                case "taken":
                    if said["offset"] > self._taken:
                        del self._typed[: said["offset"] - self._taken]
                        self._taken = said["offset"]
                        self._sent = max(self._sent, self._taken)
                        self._again_at = time.monotonic() + _AGAIN_S
                        self._send_typed()
                case "gap":
                    self.screen.reset()
                    self.offset = said["offset"]
                case "end":
                    self.end = said

    def _send_refused(self) -> None:
        with self._lock:
            if self._sent > self._taken and time.monotonic() >= self._again_at:
                self._sent = self._taken
                self._send_typed()

    def _send_typed(self) -> None:
        if self._sent == self._taken:
            self._again_at = time.monotonic() + _AGAIN_S
        while part := self._typed[self._sent - self._taken : _UNDER_WAY_BYTES][:_INPUT_BYTES]:
            self._send(self._sent.to_bytes(_OFFSET_BYTES) + part)
            self._sent += len(part)

    def _send(self, message: str | bytes) -> None:
        with suppress(ConnectionClosed, OSError):
            if self._socket is not None:
                self._socket.send(message)


@contextmanager
def typist(api: Api, terminal_id: str, **options: Any) -> Iterator[Typist]:
    """A person who sits at a terminal, and leaves it at the end."""
    person = Typist(api, terminal_id, **options)
    person.start()
    try:
        yield person
    finally:
        person.leave()
