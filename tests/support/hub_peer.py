"""A hub as an agent meets it: a real websocket, the real protocol, and a test instead of a mind."""

import secrets
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from cmdop_appliance.identity import Identity, is_signed_by
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.conversation import Conversation, split
from cmdop_appliance.protocol.frames import Data, Output, Screen
from cmdop_appliance.protocol.handshake import (
    EnrolmentToken,
    hub_transcript,
    machine_transcript,
    revocation_transcript,
)
from cmdop_appliance.protocol.limits import MESSAGE_BYTES, VERSION
from cmdop_appliance.protocol.messages import (
    FEATURES,
    Acknowledge,
    Challenge,
    Dispatch,
    Finished,
    Heartbeat,
    Heartbeatack,
    Hello,
    Inventory,
    Prove,
    Ready,
    Resume,
    Revoked,
    Spec,
    Stored,
    Welcome,
)
from cmdop_appliance.protocol.words import Message

M = TypeVar("M", bound=Message)

MACHINE_ID = "mach_01JZZZZZZZZZZZZZZZZZZZZZZZ"
PATIENCE_S = 20  # for anything a test waits for: a bound, never a pace


class Peer:
    """One agent connection, from the hub's side."""

    def __init__(self, ws: WebSocketConnection, identity: Identity, binding: bytes = b"") -> None:
        self.ws = ws
        self.conversation = Conversation("hub")
        self.over = trio.Event()
        self.prove: Prove | None = None
        self.inventory: dict[str, str] = {}  # id → phase
        self.output: dict[tuple[str, str], bytearray] = {}  # (id, stream) → all of it
        self.stores = True  # answer each piece of output with `stored`
        self.unstored = 0  # bytes received and not answered
        self.heard: list[Message | Output | Data | Screen] = []
        self._parts: deque[str | bytes] = deque()  # received in one frame with what was heard last
        self._identity = identity
        self._binding = binding  # of the certificate that this hub shows
        self.nonce = b""
        self.features: list[str] = list(FEATURES)  # that the welcome names

    async def send(self, message: Message | Data) -> None:
        await self.ws.send_message(self.conversation.send(message))

    async def receive(self) -> Message | Output | Data | Screen:
        if not self._parts:
            with trio.fail_after(PATIENCE_S):
                self._parts.extend(split(await self.ws.get_message()))
        self.heard.append(self.conversation.receive_from_agent(self._parts.popleft()))
        return self.heard[-1]

    def heard_of(self, command_id: str) -> list[Message | Output | Data | Screen]:
        """All that was said of one command on this connection, the inventory apart."""
        return [item for item in self.heard if getattr(item, "id", None) == command_id]

    async def challenge(self, identity: Identity | None = None) -> None:
        """As far as the hub's proof; with another `identity` it is a wrong one."""
        identity = identity or self._identity
        hello = await self.receive()
        assert isinstance(hello, Hello)
        self.nonce, self.hub_nonce = hello.nonce, secrets.token_bytes(32)
        transcript = hub_transcript(self.nonce, self.hub_nonce, identity.public_key, self._binding)
        await self.send(
            Challenge(
                version=VERSION,
                hub_key=identity.public_key,
                nonce=self.hub_nonce,
                signature=identity.sign(transcript),
            )
        )

    async def verify(self) -> Prove:
        """Take the machine's proof, and check its signature."""
        prove = await self.receive()
        assert isinstance(prove, Prove)
        transcript = machine_transcript(
            self.nonce, self.hub_nonce, self._identity.public_key, prove.public_key
        )
        assert is_signed_by(prove.public_key, prove.signature, transcript)
        self.prove = prove
        return prove

    async def welcome(self) -> None:
        """From the welcome to `ready`."""
        session = new_id("sess")
        await self.send(
            Welcome(machine_id=MACHINE_ID, session_id=session, epoch=1, features=self.features)
        )
        while not isinstance(message := await self.receive(), Ready):
            assert isinstance(message, Inventory)
            self.inventory |= {known.id: known.phase for known in message.commands}

    async def shake_hands(self) -> "Peer":
        await self.challenge()
        await self.verify()
        await self.welcome()
        return self

    async def dispatch(
        self, *argv: str, again: str | None = None, spec_hash: bytes = b"h" * 32, **spec: object
    ) -> str:
        """Dispatch a command; `ttl_ms`, `is_restored` and the fields of a spec are optional."""
        command_id = again or new_id("cmd")
        how = {"ttl_ms": spec.pop("ttl_ms", None), "is_restored": spec.pop("is_restored", False)}
        content = Spec(argv=list(argv), **spec)
        await self.send(Dispatch(id=command_id, spec_hash=spec_hash, spec=content, **how))
        return command_id

    async def resume(self, command_id: str, stdout: int = 0, stderr: int = 0) -> None:
        await self.send(Resume(id=command_id, stdout=stdout, stderr=stderr))

    async def expect(self, kind: type[M], command_id: str | None = None) -> M:
        """The next message of this kind, of this command; output before it is kept."""
        with trio.fail_after(PATIENCE_S):
            return await self._expect(kind, command_id)

    async def _expect(self, kind: type[M], command_id: str | None) -> M:
        while True:
            message = await self.receive()
            if isinstance(message, Output):
                await self._keep(message)
            elif isinstance(message, Heartbeat):
                await self.send(Heartbeatack())
                if kind is Heartbeat:
                    return message
            elif isinstance(message, kind) and command_id in (None, getattr(message, "id", None)):
                return message

    async def finish(self, command_id: str) -> Finished:
        """The end of this command, acknowledged."""
        finished = await self.expect(Finished, command_id)
        await self.send(Acknowledge(id=command_id))
        return finished

    async def expect_end(self) -> int:
        """Read until the agent is gone, whatever it says until it knows; its close code."""
        with trio.fail_after(PATIENCE_S):
            while True:
                try:
                    await self.ws.get_message()
                except ConnectionClosed as closed:
                    return closed.reason.code if closed.reason else 0

    async def revoke(self, identity: Identity | None = None, machine_id: str = MACHINE_ID) -> None:
        transcript = revocation_transcript(self.nonce, machine_id)
        signature = (identity or self._identity).sign(transcript)
        await self.send(Revoked(machine_id=machine_id, signature=signature))

    async def cut(self) -> None:
        """End the connection without a word, as a broken network does."""
        await trio.aclose_forcefully(self.ws._stream)
        self.over.set()

    async def close(self, code: Close, reason: str = "") -> None:
        await self.ws.aclose(code, reason)
        self.over.set()

    def stdout(self, command_id: str) -> bytes:
        return bytes(self.output.get((command_id, "stdout"), b""))

    async def _keep(self, piece: Output) -> None:
        have = self.output.setdefault((piece.id, piece.stream), bytearray())
        assert piece.offset <= len(have), "a gap"
        have[piece.offset : piece.offset + len(piece.data)] = piece.data
        self.unstored += len(piece.data)
        if self.stores:
            await self.store(piece.id)

    async def store(self, command_id: str) -> None:
        """Tell the agent that all we have of this command is stored."""
        self.unstored = 0
        stdout, stderr = (len(self.output.get((command_id, s), b"")) for s in ("stdout", "stderr"))
        await self.send(Stored(id=command_id, stdout=stdout, stderr=stderr))


class HubPeer:
    """A listening hub; `accept` gives the next agent that dials."""

    def __init__(
        self, port: int, incoming: trio.MemoryReceiveChannel[Peer], scheme: str = "http"
    ) -> None:
        self.identity = Identity(b"\1" * 32)
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.token = str(EnrolmentToken(b"s" * 24, self.identity.public_key))
        self._incoming = incoming

    async def dialled(self) -> Peer:
        """The next connection, nothing said yet."""
        with trio.fail_after(PATIENCE_S):
            return await self._incoming.receive()

    async def accept(self) -> Peer:
        """The next connection, its handshake done."""
        return await (await self.dialled()).shake_hands()


@asynccontextmanager
async def running_hub(
    tls: ssl.SSLContext | None = None, binding: bytes = b"", port: int = 0, seed: bytes = b"\1" * 32
) -> AsyncIterator[HubPeer]:
    """A hub on a port of 127.0.0.1, gone on exit with all its connections.

    With `tls` it shows a certificate of this `binding`.
    """
    into, incoming = trio.open_memory_channel[Peer](16)
    identity = Identity(seed)

    async def handle(request: WebSocketRequest) -> None:
        assert request.path == "/agent"
        peer = Peer(await request.accept(), identity, binding)
        await into.send(peer)
        await peer.over.wait()

    async with trio.open_nursery() as nursery:
        serve = partial(serve_websocket, max_message_size=MESSAGE_BYTES, disconnect_timeout=1)
        server = await nursery.start(serve, handle, "127.0.0.1", port, tls)
        yield HubPeer(server.port, incoming, "https" if tls else "http")
        nursery.cancel_scope.cancel()
    await into.aclose()
    await incoming.aclose()
