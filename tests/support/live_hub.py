"""The hub's live side over a real store, and agents that say exactly what a test wants."""

import hashlib
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from cmdop_appliance.auth import Caller
from cmdop_appliance.clock import Clock
from cmdop_appliance.config import (
    AuthConfig,
    CommandsConfig,
    Config,
    OutputConfig,
    ServerConfig,
    SessionsConfig,
)
from cmdop_appliance.hub.connection import LinkClosed
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.hub.welcome import serve_agent
from cmdop_appliance.identity import Identity, is_signed_by
from cmdop_appliance.model import AuditEntry, Command, Machine
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.conversation import Conversation, split
from cmdop_appliance.protocol.frames import Data, Output, Screen
from cmdop_appliance.protocol.handshake import hub_transcript, machine_transcript
from cmdop_appliance.protocol.limits import VERSION
from cmdop_appliance.protocol.messages import (
    Challenge,
    Finished,
    FromHub,
    Heartbeat,
    Heartbeatack,
    Hello,
    Inventory,
    Known,
    Prove,
    Ready,
    Spec,
    Stream,
    Welcome,
)
from cmdop_appliance.protocol.terminals import KnownTerminal, Terminals
from cmdop_appliance.protocol.words import Message
from cmdop_appliance.store import audit, commands, machines
from cmdop_appliance.store.engine import open_store
from cmdop_appliance.store.listing import Paging
from tests.support.clocks import LoopClock
from tests.support.records import FACTS, REACH, WORKSPACE

M = TypeVar("M", bound=Message)

BOUND = 60  # seconds, of a mock clock too: for anything a test waits for
CALLER = Caller("key_1", "ci", WORKSPACE, "default", frozenset())


class HubEnd:
    """What the hub holds of a link: as `hub.connection.Connection`, without a network."""

    def __init__(self) -> None:
        self.address = "192.0.2.7"
        self.binding = b""
        self.answers_pings = trio.Event()
        self.answers_pings.set()
        self.takes = trio.Event()  # unset: the agent reads nothing, and sends block
        self.takes.set()
        self.closed: tuple[Close, str] | None = None
        self.to_agent, self.agent_hears = trio.open_memory_channel[str | bytes](1000)
        self.agent_says, self._inbox = trio.open_memory_channel[str | bytes](1000)

    async def receive(self) -> str | bytes:
        try:
            return await self._inbox.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as exc:
            raise LinkClosed from exc

    async def send(self, frame: str | bytes) -> None:
        try:
            await self.takes.wait()
            await self.to_agent.send(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise LinkClosed from exc

    async def wait_room(self) -> None:
        await self.takes.wait()

    async def ping(self) -> None:
        await self.answers_pings.wait()
        if self.closed:
            raise LinkClosed

    async def close(self, code: Close, reason: str) -> None:
        self.closed = self.closed or (code, reason)
        self.to_agent.close()
        self._inbox.close()


class Link:
    """An agent's end of one connection."""

    def __init__(self, agent: "ScriptedAgent") -> None:
        self.hub_end = HubEnd()
        self.conversation = Conversation("agent")
        self.over = trio.Event()  # the hub has done with it
        self.session_id = ""
        self.epoch = 0
        self.nonce = secrets.token_bytes(32)
        self._agent = agent
        self._parts: deque[str | bytes] = deque()  # heard, in one frame with what went before

    async def say(self, item: Message | Output | Data | Screen) -> None:
        await self.say_raw(self.conversation.send(item))

    async def say_raw(self, frame: str | bytes) -> None:
        await self.hub_end.agent_says.send(frame)

    async def hear(self) -> FromHub | Data:
        """The next thing that the hub says."""
        with trio.fail_after(BOUND):
            if not self._parts:
                self._parts.extend(split(await self.hub_end.agent_hears.receive()))
        return self.conversation.receive_from_hub(self._parts.popleft())

    async def expect(self, kind: type[M]) -> M:
        """The next thing that the hub says, which must be of this kind."""
        message = await self.hear()
        assert isinstance(message, kind), message
        return message

    async def heartbeat(self) -> None:
        """A sign of life that is answered, after everything that was said before."""
        await self.say(Heartbeat())
        await self.expect(Heartbeatack)

    async def closed(self) -> tuple[Close, str]:
        """How the hub ended it, whatever it said before."""
        with trio.fail_after(BOUND):
            async for _ in self.hub_end.agent_hears:
                pass
            await self.over.wait()
        assert self.hub_end.closed is not None
        return self.hub_end.closed

    async def cut(self) -> None:
        """A broken network: the hub finds the link gone, and has done with it."""
        self.hub_end.agent_says.close()
        self.hub_end.agent_hears.close()
        with trio.fail_after(BOUND):
            await self.over.wait()

    # ── the handshake ────────────────────────────────────────────────────────────────────────

    async def greet(self) -> Challenge:
        await self.say(Hello(version=VERSION, nonce=self.nonce))
        challenge = await self.expect(Challenge)
        key = self._agent.hub.identity.public_key
        assert challenge.hub_key == key
        transcript = hub_transcript(self.nonce, challenge.nonce, key)
        assert is_signed_by(key, challenge.signature, transcript)
        return challenge

    async def prove(self, challenge: Challenge, **changes: object) -> None:
        identity = self._agent.identity
        transcript = machine_transcript(
            self.nonce, challenge.nonce, challenge.hub_key, identity.public_key
        )
        proof = {
            "public_key": identity.public_key,
            "signature": identity.sign(transcript),
            "boot_id": "boot",
            "keeper_id": self._agent.keeper_id,
            "facts": FACTS,
        }
        await self.say(Prove(**{**proof, **changes}))  # type: ignore[arg-type]

    async def welcomed(self) -> Welcome:
        welcome = await self.expect(Welcome)
        self.session_id, self.epoch = welcome.session_id, welcome.epoch
        return welcome

    async def be_ready(self, inventory: Iterable[Known] = ()) -> None:
        await self.say(Inventory(commands=list(inventory)))
        await self.say(Ready(features=self._agent.features))
        if "terminals" in self._agent.features:
            await self.say(Terminals(terminals=self._agent.terminals, is_last=True))


class ScriptedAgent:
    """A machine's key and keeper; each `dial` is a new link."""

    def __init__(
        self, live: "LiveHub", identity: Identity | None = None, keeper_id: str = "keeper"
    ) -> None:
        self.hub = live.hub
        self.identity = identity or Identity.generate()
        self.keeper_id = keeper_id
        self.features = ["files"]
        self.terminals: list[KnownTerminal] = []  # that it names when it connects
        self._live = live

    def dial(self) -> Link:
        """A link on which nothing was said."""
        link = Link(self)
        self._live.serve(link)
        return link

    async def connect(self, *, token: str | None = None, inventory: Iterable[Known] = ()) -> Link:
        """A link that is ready."""
        link = self.dial()
        await link.prove(await link.greet(), token=token)
        await link.welcomed()
        await link.be_ready(inventory)
        return link

    async def join(self) -> Link:
        """A new machine's first link."""
        link = await self.connect(token=await self._live.token())
        await link.heartbeat()
        return link

    async def machine(self) -> Machine:
        found = await self.hub.store.run(machines.by_key, self.identity.public_key)
        assert found is not None
        return found


class LiveHub:
    """The hub's live side, and the tasks that serve its agents."""

    def __init__(self, hub: Hub, nursery: trio.Nursery) -> None:
        self.hub = hub
        self._nursery = nursery

    def serve(self, link: Link) -> None:
        async def task() -> None:
            await serve_agent(self.hub.sessions, link.hub_end)  # type: ignore[arg-type]
            await link.hub_end.close(Close.STOPPING, "")
            link.over.set()

        self._nursery.start_soon(task)

    async def token(self, max_uses: int = 1, ttl_ms: int = 3_600_000) -> str:
        _, token = await self.hub.enrolments.issue(WORKSPACE, ttl_ms, max_uses, ["prod"])
        return token

    async def command(self, command_id: str) -> Command:
        return await self.hub.store.run(commands.get, REACH, command_id)

    async def trespasses(self) -> list[AuditEntry]:
        """What machines have said of others, as recorded."""
        paging = Paging(limit=100, sort="created_at")
        page = await self.hub.store.run(audit.page, WORKSPACE, paging)
        return [each for each in page.items if each.action == "machine.trespassed"]


@asynccontextmanager
async def live_hub(
    path: Path,
    *,
    clock: Clock | None = None,
    inline: bool = True,
    grace_ms: int = 30_000,
    silent_ms: int = 100_000_000,
    max_bytes: int = 64 * 1024 * 1024,
    lost_after_ms: int = 86_400_000,
    server: ServerConfig = ServerConfig(),  # noqa: B008 - it is frozen
    auth: AuthConfig = AuthConfig(),  # noqa: B008 - as above
) -> AsyncIterator[LiveHub]:
    """A hub without a listener; in the end nobody waits on its bus any more."""
    sessions = SessionsConfig(grace_ms=grace_ms, silent_ms=silent_ms)
    config = Config(
        sessions=sessions,
        commands=CommandsConfig(lost_after_ms=lost_after_ms),
        output=OutputConfig(max_bytes=max_bytes),
        server=server,
        auth=auth,
    )
    async with open_store(path, inline=inline) as store:
        hub = await Hub.open(config, clock or LoopClock(), store, path)
        try:
            async with trio.open_nursery() as nursery:
                yield LiveHub(hub, nursery)
                nursery.cancel_scope.cancel()
        finally:
            hub.outputs.close()
        assert not hub.bus._subscriptions


def finished(command_id: str, stdout: bytes = b"", stderr: bytes = b"", **fields) -> Finished:
    """An end as an agent tells it."""
    plain = {
        "id": command_id,
        "end": "exited",
        "exit_code": 0,
        "stdout": Stream(len(stdout), hashlib.sha256(stdout).digest()),
        "stderr": Stream(len(stderr), hashlib.sha256(stderr).digest()),
    }
    return Finished(**{**plain, **fields})


async def start(live: LiveHub, agent: ScriptedAgent, **spec) -> str:
    """The id of a new command for the machine of an agent."""
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "true", Spec(argv=["true"], **spec))
    return command.id
