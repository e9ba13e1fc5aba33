"""Machines that only pretend: they join a real hub, and invent ends, files and terminals.

There is no way from here to a process, so whatever a fuzzer asks them to run does no harm.
"""

import hashlib
import itertools
import math
import random
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import chain

import msgspec
import trio

from cmdop_appliance.agent.link import Link, LinkLost, open_link
from cmdop_appliance.agent.pace import Pace
from cmdop_appliance.identity import Identity
from cmdop_appliance.protocol.conversation import Conversation, split
from cmdop_appliance.protocol.frames import STREAMS, Data, Output, Screen
from cmdop_appliance.protocol.handshake import machine_transcript
from cmdop_appliance.protocol.limits import HEARTBEAT_S, OUTPUT_BYTES, VERSION
from cmdop_appliance.protocol.messages import (
    Cancel,
    Challenge,
    Dispatch,
    Finished,
    FromHub,
    Heartbeat,
    Hello,
    Inventory,
    Prove,
    Ready,
    Revoked,
    Sample,
    Samples,
    Started,
    Stream,
)
from cmdop_appliance.protocol.terminals import Terminals
from cmdop_appliance.protocol.words import Message
from tests.support.appliance import PATIENCE_S, Hub, wait_for
from tests.support.pretended_files import PretendedFiles
from tests.support.pretended_terminals import PretendedTerminals
from tests.support.records import FACTS, TELEMETRY

_JOIN_AT_ONCE = 20  # the hub takes only so many connections at a time from one address
_LASTS_S = (0, 0, 0.02, 0.02, 0.2)  # a command, unless it is cancelled
_OUTPUT_BYTES = (0, 0, 20, 1000, 100_000)
_ENDS = (
    {"end": "exited", "exit_code": 0},
    {"end": "exited", "exit_code": 3},
    {"end": "exited", "exit_code": 137, "signal": "SIGKILL"},
    {"end": "timeout", "signal": "SIGTERM"},
    {"end": "failed", "reason": "exec_failed", "message": "it only pretends"},
)


@contextmanager
def pretending_machines(hub: Hub, count: int, sample_s: float = math.inf) -> Iterator[None]:
    """So many machines of `hub`; one that is removed comes back as a new one.

    Each sends a sample when it has joined, and one more every `sample_s`.
    """
    token = hub.new_token(max_uses=count)
    stop = trio.Event()
    loop: list[trio.lowlevel.TrioToken] = []
    joined: set[str] = set()

    async def run() -> None:
        gate = trio.CapacityLimiter(_JOIN_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for number in range(count):
                name = f"pretender-{number}"
                nursery.start_soon(_be_machines, hub, token, name, sample_s, gate, joined.add)
            loop.append(trio.lowlevel.current_trio_token())
            await stop.wait()
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(run,), name="pretenders")
    thread.start()
    try:
        patience_s = PATIENCE_S + count / 5
        wait_for(lambda: len(joined) == count, "they have joined", patience_s)
        wait_for(lambda: _count(hub) == count, "the hub knows it", patience_s)
        yield
    finally:
        if thread.is_alive():
            loop[0].run_sync_soon(stop.set)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def _count(hub: Hub) -> int:
    answer = hub.api.call("GET", "/machines?status=online&limit=1")
    return int(answer.json["meta"]["total"])


async def _be_machines(
    hub: Hub,
    token: str,
    name: str,
    sample_s: float,
    gate: trio.CapacityLimiter,
    tell: Callable[[str], None],
) -> None:
    while True:
        try:
            async with AsyncExitStack() as stack:
                async with gate:
                    link = await stack.enter_async_context(open_link(hub.api.url, Pace()))
                    pretender = _Pretender(link, name, sample_s)
                    await pretender.join(token)
                tell(name)
                await pretender.serve()
        except* LinkLost:
            token = await trio.to_thread.run_sync(hub.new_token)  # a fuzzer may revoke the first


class _Pretender:
    """One machine, for as long as the hub wants it."""

    def __init__(self, link: Link, name: str, sample_s: float) -> None:
        self._link = link
        self._name = name
        self._sample_s = sample_s
        self._identity = Identity.generate()
        self._conversation = Conversation("agent")
        self._cancelled: dict[str, trio.Event] = {}  # what runs
        self._files = PretendedFiles()
        self._terminals = PretendedTerminals()

    async def serve(self) -> None:
        """Pretend until the link ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._show_life)
            nursery.start_soon(self._show_load)
            while True:
                for message in await self._hear():
                    if isinstance(message, Dispatch) and message.id not in self._cancelled:
                        self._cancelled[message.id] = trio.Event()
                        nursery.start_soon(self._run, message)
                    elif isinstance(message, Cancel) and message.id in self._cancelled:
                        self._cancelled[message.id].set()
                    elif isinstance(message, Revoked):
                        raise LinkLost("removed")
                    else:
                        for item in chain(self._files.hear(message), self._terminals.hear(message)):
                            await self._say(item)

    async def join(self, token: str) -> None:
        """Become a machine of the hub."""
        nonce = secrets.token_bytes(32)
        await self._say(Hello(version=VERSION, nonce=nonce))
        (challenge,) = await self._hear()
        assert isinstance(challenge, Challenge)
        key = self._identity.public_key
        transcript = machine_transcript(nonce, challenge.nonce, challenge.hub_key, key)
        await self._say(
            Prove(
                public_key=key,
                signature=self._identity.sign(transcript),
                boot_id="boot",
                keeper_id="keeper",
                facts=FACTS,
                token=token,
                name=self._name,
            )
        )
        await self._hear()
        await self._say(Inventory(commands=[]))
        await self._say(Ready(features=["files", "terminals"]))
        await self._say(Terminals(terminals=[], is_last=True))

    async def _show_life(self) -> None:
        while True:
            await self._say(Heartbeat())
            await trio.sleep(HEARTBEAT_S)

    async def _show_load(self) -> None:
        series = secrets.token_bytes(16)
        dice = random.Random(self._name)
        for number in itertools.count(1):
            telemetry = msgspec.structs.replace(
                TELEMETRY,
                cpu_percent=dice.uniform(0, 100),
                network_rx_bytes=number * 10**6,
                uptime_seconds=number,
            )
            sample = Sample(number=number, age_ms=0, telemetry=telemetry)
            await self._say(Samples(series=series, samples=[sample]))
            await trio.sleep(self._sample_s)

    async def _run(self, dispatch: Dispatch) -> None:
        dice = random.Random(dispatch.id)
        await self._say(Started(id=dispatch.id, started_ms=1_700_000_000_000))
        written = {}
        for stream in STREAMS:
            data = dice.randbytes(dice.choice(_OUTPUT_BYTES))
            written[stream] = Stream(len(data), hashlib.sha256(data).digest())
            for at in range(0, len(data), OUTPUT_BYTES):
                await self._say(Output(dispatch.id, stream, at, data[at : at + OUTPUT_BYTES]))
        end = dice.choice(_ENDS)
        with trio.move_on_after(dice.choice(_LASTS_S)):
            await self._cancelled[dispatch.id].wait()
            end = {"end": "cancelled", "signal": "SIGTERM"}
        del self._cancelled[dispatch.id]
        await self._say(Finished(id=dispatch.id, duration_ms=20, **written, **end))

    async def _say(self, item: Message | Output | Data | Screen) -> None:
        await self._link.send(self._conversation.send(item))

    async def _hear(self) -> list[FromHub | Data]:
        return [self._conversation.receive_from_hub(p) for p in split(await self._link.receive())]
