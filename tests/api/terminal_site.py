"""A hub in this process behind its real front, and a terminal of it, for whoever wants a socket."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from cmdop_appliance.api.app import make_app
from cmdop_appliance.api.guard import HttpServer
from cmdop_appliance.api.hot import HotRoute
from cmdop_appliance.api.live_socket import serve_live_socket
from cmdop_appliance.api.terminal_socket import serve_terminal_socket
from cmdop_appliance.auth import Caller, new_key, secret_hash
from cmdop_appliance.front import Front, PeekedStream, is_for_socket, open_listeners
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Terminal
from cmdop_appliance.protocol.terminals import Shell
from cmdop_appliance.server import _serve_socket
from cmdop_appliance.store import api_keys, workspaces
from tests.support import records
from tests.support.live_hub import LiveHub, live_hub

BOUND = 20  # seconds any of this may take on a busy machine; nothing here waits for it
PROTOCOL = "cmdop.terminal.v1"
TICKET = "cmdop.ticket."


@dataclass(frozen=True)
class Key:
    """An API key, and who calls with it."""

    secret: str
    caller: Caller

    @property
    def header(self) -> tuple[str, str]:
        return "Authorization", f"Bearer {self.secret}"


@dataclass(frozen=True)
class Refusal:
    """What somebody got who asked for a socket; of a websocket only the head."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """That of the error."""
        assert self.headers["content-type"] == "application/json"
        return str(json.loads(self.body)["error"]["code"])


class Site:
    """Where the front listens, and what is behind it."""

    def __init__(self, live: LiveHub, port: int, nursery: trio.Nursery) -> None:
        self.live = live
        self.hub = live.hub
        self.port = port
        self.host = f"127.0.0.1:{port}"
        self.origin = f"http://{self.host}"
        self.streams: list[trio.SocketStream] = []  # of clients
        self._nursery = nursery

    async def key(self, *scopes: str, **fields: Any) -> Key:
        """A new key, of an admin if no scopes are named."""
        secret = new_key()
        row = records.api_key(scopes=[*scopes] or ["admin"], **fields)
        await self.hub.store.run(api_keys.insert, row, secret_hash(secret))
        caller = await self.hub.callers.identify(f"Bearer {secret}", "127.0.0.1")
        return Key(secret, caller)

    async def foreign_key(self) -> Key:
        """A key that may do everything, in a workspace of its own."""
        secret = new_key()
        row = records.api_key(workspace_id=new_id("ws"), namespace="elsewhere")
        await self.hub.store.run(workspaces.insert, row, secret_hash(secret))
        caller = await self.hub.callers.identify(f"Bearer {secret}", "127.0.0.1")
        return Key(secret, caller)

    async def revoke(self, key: Key) -> None:
        """As DELETE /api-keys does."""
        await self.hub.store.run(api_keys.delete, key.caller.reach, key.caller.key_id)
        self.hub.callers.forget()

    def request(
        self,
        path: str,
        *headers: tuple[str, str],
        offers: Sequence[str] | None = (PROTOCOL,),
        line: str = "GET {} HTTP/1.1",
        without: str = "",
    ) -> bytes:
        """A request for a websocket; `without` one header of its kind."""
        usual = {
            "Host": self.host,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        given = {name.lower() for name, _ in headers} | {without.lower()}
        lines = [f"{n}: {v}" for n, v in usual.items() if n.lower() not in given]
        lines += [f"{name}: {value}" for name, value in headers]
        if offers is not None:
            lines.append(f"Sec-WebSocket-Protocol: {', '.join(offers)}")
        return "\r\n".join([line.format(path), *lines, "", ""]).encode("latin-1")

    async def ask(self, path: str, *headers: tuple[str, str], **how: Any) -> Refusal:
        """The answer to one `request`."""
        with trio.fail_after(BOUND):
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                await stream.send_all(self.request(path, *headers, **how))
                return await answer_on(stream)

    async def connect(
        self, path: str, *headers: tuple[str, str], offers: Sequence[str] = (PROTOCOL,)
    ) -> WebSocketConnection:
        """A websocket."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.streams.append(stream)
        return await wrap_client_stream(
            self._nursery,
            stream,
            self.host,
            path,
            subprotocols=offers,
            extra_headers=[(name.encode(), value.encode()) for name, value in headers],
            message_queue_size=100,
        )


def terminal(machine_id: str, **fields: Any) -> Terminal:
    """A login shell that runs."""
    plain = Terminal(
        id=new_id("term"),
        workspace_id=records.WORKSPACE,
        machine_id=machine_id,
        kind="terminal",
        name="shell",
        status="running",
        what=Shell(),
        cols=80,
        rows=24,
        caller_email="ci@default",
        is_recorded=False,
        is_waiting=False,
        is_ending=False,
        directory=None,
        worktree=None,
        created_ms=records.NOW,
        started_ms=records.NOW + 1,
        changed_ms=records.NOW + 1,
        ended_ms=None,
        end=None,
        exit_code=None,
        signal=None,
        code=None,
        message=None,
    )
    return msgspec.structs.replace(plain, **fields)


async def _nobody(_: PeekedStream) -> None:
    raise AssertionError("no agent comes over the network here")


async def answer_on(stream: trio.SocketStream) -> Refusal:
    """The next answer there."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += await stream.receive_some() or b"\r\n\r\n"
    head, _, body = got.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    length = int(headers.get("content-length", 0))
    while len(body) < length and (more := await stream.receive_some()):
        body += more
    return Refusal(int((status.split() or ["", "0"])[1]), headers, body)


@asynccontextmanager
async def site(path: Path, **options: Any) -> AsyncIterator[Site]:
    """A hub, its front on a free port of 127.0.0.1."""
    async with live_hub(path, **options) as live:
        http = HttpServer(make_app(live.hub), is_for_others=is_for_socket)
        front = Front(
            serve_agent=_nobody,
            serve_terminal=partial(_serve_socket, live.hub, serve_terminal_socket),
            serve_live=partial(_serve_socket, live.hub, serve_live_socket),
            serve_http=HotRoute(live.hub, http).serve,
        )
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(front.run, await open_listeners("127.0.0.1", 0))
            there = Site(live, listener.socket.getsockname()[1], nursery)
            try:
                yield there
            finally:
                for stream in there.streams:
                    await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()
