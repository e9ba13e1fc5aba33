"""The keeper's end of its socket: lines in, lines out, and never a wait for the agent."""

import socket
from collections import deque

MAX_LINE_BYTES = 1024 * 1024  # a start with its argv, environment and stdin; beyond it: garbage
MAX_OUTBOX_BYTES = 1024 * 1024  # some 4,000 events; an agent that is so far behind must reconnect
_READ_BYTES = 64 * 1024


class LinkLost(Exception):
    """The agent has gone, or must go: the reason is for the log, "" when it simply left."""


class Link:
    """One agent's connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._inbox = bytearray()
        self._outbox = bytearray()
        self.lines: deque[bytes] = deque()  # received and not handled; at most one read's worth
        self.unsynced: deque[str] | None = None  # ids whose record is still to be told

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._connection.fileno()

    @property
    def backlog_bytes(self) -> int:
        """What waits for the agent to read."""
        return len(self._outbox)

    def receive(self) -> None:
        """Read what is there into `lines`. Raises LinkLost at its end or for a line too long."""
        try:
            data = self._connection.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkLost(str(error)) from error
        if not data:
            raise LinkLost
        self._inbox += data
        if b"\n" in data:
            *lines, rest = self._inbox.split(b"\n")
            self.lines.extend(bytes(line) for line in lines)
            self._inbox = rest
        if len(self._inbox) > MAX_LINE_BYTES:
            raise LinkLost(f"a line is longer than {MAX_LINE_BYTES} bytes")

    def send(self, line: str) -> None:
        """Send one line, or keep it for `flush`. LinkLost: the agent reads too slowly."""
        data = line.encode("ascii") + b"\n"
        if not self._outbox:
            data = data[self._sent(data) :]
        self._outbox += data
        if len(self._outbox) > MAX_OUTBOX_BYTES:
            raise LinkLost(f"{MAX_OUTBOX_BYTES} bytes wait for the agent to read them")

    def flush(self) -> None:
        """Send of what waits as much as the socket takes."""
        del self._outbox[: self._sent(self._outbox)]

    def close(self) -> None:
        """Hang up; what was received and not handled is dropped."""
        self._connection.close()

    def _sent(self, data: bytes | bytearray) -> int:
        try:
            return self._connection.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise LinkLost(str(error)) from error
