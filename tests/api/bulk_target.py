"""The bulk routes as the product serves them, over real sockets, and a machine that is scripted."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import h11
import msgspec
import trio

from cmdop_appliance.api.app import BODY_S, make_app
from cmdop_appliance.api.bulk import IDLE_S, BulkRoutes
from cmdop_appliance.api.guard import HttpServer
from cmdop_appliance.auth import Scope, new_key, secret_hash
from cmdop_appliance.front import PeekedStream
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import ApiKey
from cmdop_appliance.protocol.files import Answer, Call, Opened, Placed, Written
from cmdop_appliance.protocol.frames import Data
from cmdop_appliance.protocol.messages import FileAnswer, FileCall, FileCredit, FileEnd, FileFailed
from cmdop_appliance.store import api_keys
from tests.api.hostile_target import until
from tests.support.live_hub import Link, LiveHub, ScriptedAgent, live_hub
from tests.support.records import WORKSPACE

C = TypeVar("C", bound=Call)

BOUND = 30  # seconds any of this may take on a busy machine; nothing here waits for it


class Machine:
    """A machine's end of calls for files: it says what a test wants."""

    def __init__(self, link: Link, machine_id: str) -> None:
        self.link = link
        self.machine_id = machine_id

    async def called(self, kind: type[C]) -> tuple[int, C]:
        """(number, what is asked) of the next call, which must be of this kind."""
        while isinstance(message := await self.link.hear(), FileCredit):
            pass  # for what the call before has sent
        assert isinstance(message, FileCall)
        assert isinstance(message.call, kind), message
        return message.id, message.call

    async def answer(self, number: int, answer: Answer) -> None:
        await self.link.say(FileAnswer(id=number, answer=answer))

    async def fail(self, number: int, code: str, **fields: Any) -> None:
        await self.link.say(FileFailed(id=number, code=code, message="no", **fields))

    async def place(self, number: int, *, path: bytes = b"/f", offset: int = 0) -> None:
        """Take bytes from `offset` on."""
        await self.answer(number, Placed(path=path, offset=offset))

    async def taken(self, number: int, offset: int = 0) -> tuple[bytes, FileEnd]:
        """(the bytes, the end) of a Write that was placed; credit is given as they come."""
        data = bytearray()
        while not isinstance(message := await self.link.hear(), FileEnd):
            assert isinstance(message, Data)
            assert message.offset == offset + len(data)
            data += message.data
            await self.link.say(FileCredit(id=number, offset=offset + len(data) + 1024 * 1024))
        assert message.end == offset + len(data)
        return bytes(data), message

    async def commit(self, end: FileEnd) -> None:
        """Say that a Write is in place which was taken up to its `end`."""
        assert end.sha256 is not None
        written = Written(path=b"/f", size=end.end, sha256=end.sha256, created=True)
        await self.answer(end.id, written)

    async def send(self, number: int, opened: Opened, content: bytes) -> None:
        """Open a file, and send the part of its `content` that is announced; no end."""
        await self.answer(number, opened)
        end = min(opened.end, len(content))
        for at in range(opened.first, end, 65536):
            await self.link.say(Data(number, at, content[at : min(at + 65536, end)]))


@dataclass(frozen=True)
class Reply:
    """What came back for one request. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_whole: bool  # False: the connection ended short of it

    @property
    def data(self) -> Any:
        assert self.status == 200, self
        return msgspec.json.decode(self.body)["data"]

    @property
    def code(self) -> str:
        """Of an error, which must have the shape of its plane."""
        answer = msgspec.json.decode(self.body)
        assert set(answer) == {"error", "meta"}, self
        return str(answer["error"]["code"])


class Client:
    """A connection, and the requests on it."""

    def __init__(self, stream: trio.SocketStream, key: str) -> None:
        self.stream = stream
        self._key = key
        self._parser = h11.Connection(h11.CLIENT)
        self._head: h11.Response | None = None
        self._body = b""

    async def send(self, method: str, target: str, body: bytes = b"", **headers: str) -> None:
        """A request with all of its body."""
        await self.begin(method, target, **{"Content_Length": str(len(body)), **headers})
        await self.more(body)
        self._parser.send(h11.EndOfMessage())

    async def begin(self, method: str, target: str, **headers: str) -> None:
        """The head of a request."""
        lines = {"Host": "hub", "Authorization": f"Bearer {self._key}"}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = h11.Request(method=method, target=target, headers=list(lines.items()))
        await self.stream.send_all(self._parser.send(request))

    async def more(self, data: bytes) -> None:
        """More of its body."""
        await self.stream.send_all(self._parser.send(h11.Data(data=data)))

    async def until_body(self) -> None:
        """Return when the first bytes of an answer's body are here."""
        while not self._body:
            assert await self._take(), "it ended before its body"

    async def reply(self) -> Reply:
        """The next answer."""
        is_whole = True
        try:
            while await self._take():
                pass
        except h11.RemoteProtocolError:
            is_whole = False
        head, self._head = self._head, None
        body, self._body = self._body, b""
        assert head is not None, "closed without an answer"
        if self._parser.our_state is h11.DONE is self._parser.their_state:
            self._parser.start_next_cycle()
        headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        return Reply(head.status_code, headers, body, is_whole)

    async def _take(self) -> bool:
        """Take what comes next of an answer; False: that was its end."""
        match event := self._parser.next_event():
            case h11.NEED_DATA:
                self._parser.receive_data(await self.stream.receive_some())
            case h11.Response():
                self._head = event
            case h11.Data():
                self._body += event.data
            case h11.EndOfMessage():
                return False
            case _:
                assert isinstance(event, h11.InformationalResponse), event
        return True

    async def is_told_to_go_on(self) -> bool:
        """True: a 100 came; False: an answer, which `reply` gives."""
        while (event := self._parser.next_event()) is h11.NEED_DATA:
            self._parser.receive_data(await self.stream.receive_some())
        if isinstance(event, h11.Response):
            self._head = event
        return self._head is None


@dataclass
class Target:
    """A hub that serves HTTP, and one machine that is connected to it."""

    live: LiveHub
    machine: Machine
    key: str  # an admin's
    server: HttpServer
    port: int
    read: dict[str, int] = field(default_factory=lambda: {"bytes": 0})  # from all clients so far
    opened: AsyncExitStack = field(default_factory=AsyncExitStack)

    def path(self, name: str, query: str = "path=/f") -> str:
        return f"/v1/machines/{self.machine.machine_id}/files/{name}?{query}"

    def flat_path(self, name: str, query: str = "path=/f") -> str:
        return f"/api/v1/files/{name}?machine_id={self.machine.machine_id}&{query}"

    async def connect(self, key: str | None = None) -> Client:
        """A connection that stays open to the end of the test unless that closes it."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        await self.opened.enter_async_context(stream)
        return Client(stream, self.key if key is None else key)

    async def new_key(self, scopes: Iterable[Scope]) -> tuple[str, str]:
        """(the id, the secret) of another key."""
        secret = new_key()
        key = ApiKey(
            id=new_id("key"),
            workspace_id=WORKSPACE,
            namespace="default",
            name="k",
            key_prefix="x",
            scopes=list(scopes),
            created_ms=0,
            expires_ms=None,
        )
        await self.live.hub.store.run(api_keys.insert, key, secret_hash(secret))
        return key.id, secret


class _Counted(PeekedStream):
    """Counts what is taken from its client."""

    def __init__(self, stream: trio.SocketStream, target: Target) -> None:
        super().__init__(stream, b"")
        self._target = target

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await super().receive_some(max_bytes)
        self._target.read["bytes"] += len(data)
        return data


@asynccontextmanager
async def bulk_target(
    path: Path, *, idle_s: float = IDLE_S, body_s: float = BODY_S, **options: float
) -> AsyncIterator[Target]:
    """A hub on a free port of 127.0.0.1; in the end no connection is left."""
    async with live_hub(path) as live:
        agent = ScriptedAgent(live)
        link = await agent.join()
        machine = Machine(link, (await agent.machine()).id)
        app = BulkRoutes(live.hub, make_app(live.hub, body_s=body_s), idle_s=idle_s)
        server = HttpServer(app, **options)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        target = Target(live, machine, "", server, port)
        _, target.key = await target.new_key([Scope.ADMIN])

        async def serve(stream: trio.SocketStream) -> None:
            async with stream:
                await server.serve(_Counted(stream, target))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            try:
                with trio.fail_after(BOUND):
                    yield target
                    async with target.opened:
                        pass
                    await until(lambda: not server._connections)
            finally:
                nursery.cancel_scope.cancel()
