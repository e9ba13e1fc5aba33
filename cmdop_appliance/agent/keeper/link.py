"""The keeper's end of its socket: lines in, lines out, and never a wait for the agent."""

import select
import socket
from collections import deque
from collections.abc import Callable, Iterator

from cmdop_appliance.agent.keeper.records import Event, Record, encode

MAX_LINE_BYTES = 1024 * 1024  # a start with its argv, environment and stdin; beyond it: garbage
MAX_OUTBOX_BYTES = 1024 * 1024  # some 4,000 events; an agent that is so far behind must reconnect
_READ_BYTES = 64 * 1024
_SYNC_RECORDS = 256  # told in one go to an agent that connects; there may be 100,000


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
        self.knows_terminals = False  # an agent of the first release would fail over one

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


class Agent:
    """Whoever is connected now, if anybody is."""

    def __init__(
        self, epoll: select.epoll, records: dict[str, Record], on_gone: Callable[[str], None]
    ) -> None:
        """`on_gone` is called with the reason, "" when it simply left."""
        self._epoll = epoll
        self._records = records
        self._on_gone = on_gone
        self._link: Link | None = None
        self._watched = 0

    @property
    def is_connected(self) -> bool:
        """True: somebody listens."""
        return self._link is not None

    def connect(self, connection: socket.socket, hello: Event) -> None:
        """Talk to this one from now on: `hello`, then every record but those of terminals."""
        if self._link is not None:
            self.drop("another agent has connected")
        self._link = link = Link(connection)
        self._watched = select.EPOLLIN
        self._epoll.register(link, self._watched)
        try:
            link.send(encode(hello))
            self._tell_records(link)
        except LinkLost as lost:
            self.drop(str(lost))

    def tell_terminals(self) -> None:
        """It has asked for them: their records, and `ready` once more."""
        if (link := self._link) is None:
            return
        link.knows_terminals = True
        try:
            self._tell_records(link)
        except LinkLost as lost:
            self.drop(str(lost))

    def lines(self, happened: int) -> Iterator[bytes]:
        """What it has sent, until it is gone, after what epoll says of it."""
        if (link := self._link) is None:
            return
        try:
            if happened & select.EPOLLOUT:
                link.flush()
                self._sync(link)
            if happened & ~select.EPOLLOUT:
                link.receive()
        except LinkLost as lost:
            self.drop(str(lost))
        while link.lines and self._link is link:
            yield link.lines.popleft()

    def tell_of(self, command_id: str, event: str) -> None:
        """Tell this event, or, later, the record that says the same."""
        if (link := self._link) is None:
            return
        if self._records[command_id].is_terminal and not link.knows_terminals:
            return
        if link.unsynced is not None:
            link.unsynced.append(command_id)
        else:
            self._tell(event)

    def tell_now(self, event: Event) -> None:
        """Tell what is of no use to somebody who has just come."""
        if self._link is not None and self._link.unsynced is None:
            self._tell(encode(event))

    def drop(self, reason: str) -> None:
        """Hang up."""
        if self._link is None:
            return
        self._link.close()
        self._link = None
        self._on_gone(reason)

    def _tell(self, line: str) -> None:
        if self._link is None:
            return
        try:
            self._link.send(line)
        except LinkLost as lost:
            self.drop(str(lost))
        else:
            self._watch(self._link)

    def _tell_records(self, link: Link) -> None:
        """All of terminals, if it knows them, else all others."""
        link.unsynced = link.unsynced or deque()
        link.unsynced.extend(
            record.id
            for record in self._records.values()
            if record.is_terminal == link.knows_terminals
        )
        self._sync(link)

    def _sync(self, link: Link) -> None:
        for _ in range(_SYNC_RECORDS):
            if not link.unsynced or link.backlog_bytes:
                break
            if (record := self._records.get(link.unsynced.popleft())) is not None:
                link.send(encode(record.as_event()))
        if link.unsynced is not None and not link.unsynced:
            link.unsynced = None
            link.send(encode({"event": "ready"}))
        self._watch(link)

    def _watch(self, link: Link) -> None:
        wanted = select.EPOLLIN
        if link.backlog_bytes or link.unsynced is not None:
            wanted |= select.EPOLLOUT
        if wanted != self._watched:
            self._watched = wanted
            self._epoll.modify(link, wanted)
