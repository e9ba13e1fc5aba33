"""A TCP proxy with faults, in a thread of its own, so that synchronous fixtures can use it.

Each connection draws its faults from `seed` and its own number, so they do not depend on how
threads and processes happen to be scheduled. A failing test prints the proxy: its `repr` has the
seed.
"""

import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

import trio

T = TypeVar("T")

How = Literal["reset", "close", "either"]

_READ_BYTES = 64 * 1024
# What is kept of a connection's first bytes for a replay: a handshake and the messages behind it.
_TAKEN_BYTES = 256 * 1024
# A replay ends when the other side closes, or has been silent for this long.
_REPLAY_S = 1.0
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER, socket(7): close() drops what waits and sends RST


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What befalls a connection; ranges are (least, most), drawn anew for each connection."""

    cut_after_s: tuple[float, float] | None = None
    cut_after_bytes: tuple[int, int] | None = None  # in both directions together
    how: How = "either"  # is it cut: RST, FIN both ways, or one of them by chance
    delay_s: tuple[float, float] = (0.0, 0.0)  # drawn for each piece; their order stays
    dribble_bytes: int | None = None  # no piece is larger


class FaultProxy:
    """Carries connections to `target`; what `faults` says holds for those that come later."""

    def __init__(self, target: tuple[str, int], seed: object) -> None:
        self.target = target
        self.faults = Faults()
        self.source = "127.0.0.1"  # from where it connects
        self.address = ("127.0.0.1", 0)
        self.connections = 0  # accepted so far
        self.cuts = 0  # made so far
        self._seed = seed
        self._open: set[_Connection] = set()
        self._passing = trio.Event()
        self._passing.set()
        self._stop = trio.Event()
        self._up = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._last: _Connection | None = None

    def __repr__(self) -> str:
        return f"<FaultProxy seed={self._seed!r} {self.faults}>"

    @property
    def url(self) -> str:
        """Where clients and agents find the target through this proxy."""
        host, port = self.address
        return f"http://{host}:{port}"

    def cut(self, how: How = "either") -> None:
        """End every open connection now."""

        def cut_all() -> None:
            for connection in self._open:
                connection.cut(how)

        self._in_loop(cut_all)

    def freeze(self) -> None:
        """Half-open: from now on nothing passes, and neither side is told."""
        self._in_loop(lambda: setattr(self, "_passing", trio.Event()))

    def thaw(self) -> None:
        """What was held back by `freeze` goes on its way."""
        self._in_loop(lambda: self._passing.set())

    def replay(self) -> bytes:
        """What the target answers, until it closes or is silent, when the last client speaks twice.

        All that client sent so far is sent once more, on a connection of its own.
        """
        assert self._last is not None, "no connection to replay"
        taken = bytes(self._last.taken)
        answer = b""
        with socket.create_connection(self.target, timeout=_REPLAY_S) as copy:
            copy.sendall(taken)
            with suppress(TimeoutError, ConnectionError):
                while piece := copy.recv(_READ_BYTES):
                    answer += piece
        return answer

    def _in_loop(self, change: Callable[[], T]) -> T:
        assert self._token is not None
        return trio.from_thread.run_sync(change, trio_token=self._token)

    # ── in the loop ──────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = listener.socket.getsockname()[:2]
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._carry, [listener])
            self._up.set()
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    async def _carry(self, client: trio.SocketStream) -> None:
        dice = Random(f"{self._seed}/{self.connections}")
        self.connections += 1
        try:
            server = await trio.open_tcp_stream(*self.target, local_address=self.source)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            client.socket.close()
            return
        connection = self._last = _Connection(self, client, server, self.faults, dice)
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._open.discard(connection)
            client.socket.close()
            server.socket.close()


class _Connection:
    """One client's bytes on their way to the target, and the answers."""

    def __init__(
        self,
        proxy: FaultProxy,
        client: trio.SocketStream,
        server: trio.SocketStream,
        faults: Faults,
        dice: Random,
    ) -> None:
        self.taken = bytearray()  # the client's first bytes
        self._proxy = proxy
        self._client = client
        self._server = server
        self._faults = faults
        self._dice = dice
        self._scope = trio.CancelScope()
        self._bytes_left: float = float("inf")
        if faults.cut_after_bytes is not None:
            self._bytes_left = dice.randint(*faults.cut_after_bytes)

    async def run(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                if self._faults.cut_after_s is not None:
                    nursery.start_soon(
                        self._cut_later, self._dice.uniform(*self._faults.cut_after_s)
                    )
                both = trio.Semaphore(0)
                nursery.start_soon(self._pump, self._client, self._server, both)
                nursery.start_soon(self._pump, self._server, self._client, both)
                await both.acquire()
                await both.acquire()
                nursery.cancel_scope.cancel()

    def cut(self, how: How) -> None:
        self._proxy.cuts += 1
        if how == "either":
            how = self._dice.choice(("reset", "close"))
        for stream in (self._client, self._server):
            with suppress(OSError):  # that side has just gone by itself
                if how == "reset":
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
                else:
                    # Before close(2), which sends RST instead of FIN when bytes were not read.
                    stream.socket.shutdown(socket.SHUT_WR)
        self._scope.cancel()

    async def _cut_later(self, after_s: float) -> None:
        await trio.sleep(after_s)
        self.cut(self._faults.how)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, done: trio.Semaphore
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self._receive(source):
                if source is self._client:
                    self.taken += data[: _TAKEN_BYTES - len(self.taken)]
                for piece in _pieces(data, self._faults.dribble_bytes):
                    await trio.sleep(self._dice.uniform(*self._faults.delay_s))
                    await self._pass(piece, sink)
            await self._proxy._passing.wait()
            await sink.send_eof()
        done.release()

    async def _receive(self, source: trio.SocketStream) -> bytes | bytearray:
        try:
            return await source.receive_some(_READ_BYTES)
        except trio.BrokenResourceError:
            self._scope.cancel()  # it was killed with bytes unread: the other one is told, too
            raise

    async def _pass(self, piece: bytes, sink: trio.SocketStream) -> None:
        await self._proxy._passing.wait()
        size = int(min(len(piece), self._bytes_left))
        self._bytes_left -= size
        await sink.send_all(piece[:size])
        if self._bytes_left <= 0:
            self.cut(self._faults.how)
            await trio.sleep_forever()


def _pieces(data: bytes | bytearray, most: int | None) -> Iterator[bytes]:
    step = most or len(data)
    for start in itertools.count(0, step):
        if start >= len(data):
            return
        yield bytes(data[start : start + step])


@contextmanager
def running_proxy(target: tuple[str, int], seed: object = 0) -> Iterator[FaultProxy]:
    """A proxy before `target`, without faults so far; its connections end with it."""
    proxy = FaultProxy(target, seed)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            trio.run(proxy._run)
        except BaseException as exc:  # noqa: BLE001 - raised below, where somebody sees it
            failures.append(exc)
            proxy._up.set()

    thread = threading.Thread(target=run, name="fault proxy", daemon=True)
    thread.start()
    proxy._up.wait()
    try:
        yield proxy
    finally:
        if not failures:
            proxy._in_loop(proxy._stop.set)
        thread.join()
    if failures:
        raise failures[0]
