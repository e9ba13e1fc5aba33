"""2,000 agents on loopback TLS: what they cost while they idle, and how they come back when their
hub is killed.

The agents are simulated, in a process of their own: the real link and protocol, a heartbeat and
samples as real ones have them, and their pauses between attempts; nothing is run by them.
"""

import contextvars
import json
import os
import resource
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    contextmanager,
    nullcontext,
    suppress,
)
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from cmdop_appliance.agent.link import Link, LinkLost, open_link
from cmdop_appliance.agent.pace import Pace, retry_delay
from cmdop_appliance.identity import Identity, is_signed_by
from cmdop_appliance.protocol.conversation import Conversation, join, split
from cmdop_appliance.protocol.handshake import (
    EnrolmentToken,
    hub_transcript,
    machine_transcript,
)
from cmdop_appliance.protocol.limits import VERSION
from cmdop_appliance.protocol.messages import (
    Challenge,
    Heartbeat,
    Hello,
    Inventory,
    Prove,
    Ready,
    Sample,
    Samples,
    Welcome,
)
from cmdop_appliance.protocol.terminals import Terminals
from cmdop_appliance.protocol.words import Message
from scripts.bench_hub import CMDOP, Hub, read_answer, wait_for
from tests.support.records import FACTS, TELEMETRY

AGENTS: Final = 2000
BACK_S: Final = 45
API_P99_MS: Final = 500
AGENT_KB: Final = 60
IDLE_PERCENT: Final = 5
_PATIENCE_S: Final = 900.0  # for all of them to join, or to come back
_SETTLED_S: Final = 20.0  # after which what only a beginning needs is given back
_IDLE_S: Final = 30.0  # over which processor time is measured
_JOIN_AT_ONCE: Final = 20
_ASK_EVERY_S: Final = 0.02
_ASKED: Final = ("/machines?limit=20", "/auth/me", "/commands?limit=20")


def run(
    report: Callable[..., None], percentile: Callable[[list[float], float], float], count: int
) -> None:
    """Measure and print."""
    report(f"{count} simulated agents, TLS", "figure", "", "target")
    with tempfile.TemporaryDirectory(prefix="cmdop-bench-") as name:
        data_dir = Path(name) / "data"
        process, port = _start(data_dir, 0), 0
        try:
            hub = Hub(process.pid, data_dir)
            port = hub.address[1] or 0
            _ask_once(hub, "GET", _ASKED[0])
            empty = _rss_kb(process.pid)
            with _fleet(hub, count) as fleet:
                began, used = time.monotonic(), _cpu_s(process.pid)
                fleet.wait_all()
                took_s, used = time.monotonic() - began, _cpu_s(process.pid) - used
                each = f"{used / count * 1e3:.1f} ms CPU each"
                report("all have joined", f"{took_s:.0f} s", each)
                _report_idle(report, process.pid, empty, count, "once joined")
                with _asking(hub) as asked:
                    killed = time.monotonic()
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    fleet.wait_none()
                    process = _start(data_dir, port)
                    ready = time.monotonic()
                    back = fleet.wait_all()
                    used = _cpu_s(process.pid)
                report("hub kill -9: ready again", f"{ready - killed:.1f} s")
                each = f"{used / count * 1e3:.1f} ms CPU each"
                report("hub kill -9: all are back", f"{back - killed:.1f} s", each, f"≤ {BACK_S} s")
                samples = [took for at, took in asked if ready <= at <= back]
                p50, p99 = percentile(samples, 0.5), percentile(samples, 0.99)
                told = f"p50 {p50:.0f} ms, {len(samples)} calls"
                report("API meanwhile, p99", f"{p99:.0f} ms", told, f"≤ {API_P99_MS} ms")
                _report_idle(report, process.pid, empty, count, "once back")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _report_idle(
    report: Callable[..., None], pid: int, empty_kb: float, count: int, when: str
) -> None:
    time.sleep(_SETTLED_S)
    began, used = time.monotonic(), _cpu_s(pid)
    time.sleep(_IDLE_S)
    percent = (_cpu_s(pid) - used) / (time.monotonic() - began) * 100
    each = (_rss_kb(pid) - empty_kb) / count
    report(f"an idle agent, {when}", f"{each:.1f} KB RSS", "", f"≤ {AGENT_KB} KB")
    micros = percent * 1e4 / count
    report(
        f"idle CPU, {when}", f"{percent:.1f} %", f"{micros:.0f} µs/s each", f"≤ {IDLE_PERCENT} %"
    )


# ── the hub ──────────────────────────────────────────────────────────────────────────────────────


def _start(data_dir: Path, port: int) -> subprocess.Popen[bytes]:
    """A hub that is ready."""
    argv = [*CMDOP, "serve", "--data-dir", str(data_dir), "--listen", f"127.0.0.1:{port}"]
    ready = data_dir / "hub.json"
    with Path(f"{data_dir}.log").open("ab") as log:
        process = subprocess.Popen(
            [*argv, "--tls", "on"], stdout=log, stderr=log, cwd=data_dir.parent
        )

    def is_ready() -> bool:
        if process.poll() is not None:
            raise SystemExit(f"bench: the hub ended: {Path(f'{data_dir}.log').read_text()[-2000:]}")
        return ready.exists() and json.loads(ready.read_text())["pid"] == process.pid

    wait_for(is_ready, "the hub")
    return process


def _rss_kb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _connect(hub: Hub) -> ssl.SSLSocket:
    """TLS with the hub's own certificate."""
    certificate = json.loads((hub.data_dir / "hub.json").read_text())["certificate"]
    context = ssl.create_default_context(cadata=certificate)
    link = context.wrap_socket(socket.create_connection(hub.address), server_hostname="localhost")
    link.settimeout(30)
    return link


def _ask_once(hub: Hub, method: str, path: str, body: dict[str, object] | None = None) -> Any:
    with _connect(hub) as link:
        link.sendall(hub.request(method, path, body))
        return json.loads(read_answer(link))["data"]


@contextmanager
def _asking(hub: Hub) -> Iterator[list[tuple[float, float]]]:
    """Somebody who asks one thing after the other: when, and how many seconds each took."""
    found: list[tuple[float, float]] = []
    stop = threading.Event()

    def ask() -> None:
        number = 0
        while not stop.is_set():
            with suppress(OSError, SystemExit, ValueError), _connect(hub) as link:
                while not stop.wait(_ASK_EVERY_S):
                    number += 1
                    began = time.monotonic()
                    link.sendall(hub.request("GET", _ASKED[number % len(_ASKED)]))
                    read_answer(link)
                    found.append((began, time.monotonic() - began))
            stop.wait(_ASK_EVERY_S)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


# ── the agents ───────────────────────────────────────────────────────────────────────────────────


class _Fleet:
    """What the process of the agents says."""

    def __init__(self, process: subprocess.Popen[str], count: int) -> None:
        self._process = process
        self._count = count
        self._connected = 0
        self._changed_at = 0.0
        threading.Thread(target=self._listen, daemon=True).start()

    def wait_all(self) -> float:
        """When the last of them connected."""
        self._wait(self._count)
        return self._changed_at

    def wait_none(self) -> None:
        """Return when all have noticed that the hub is gone."""
        self._wait(0)

    def _wait(self, number: int) -> None:
        give_up = time.monotonic() + _PATIENCE_S
        while self._connected != number:
            if time.monotonic() > give_up or self._process.poll() is not None:
                raise SystemExit(f"bench: {self._connected} of {number} agents are connected")
            time.sleep(0.02)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            at, number = line.split()
            self._changed_at, self._connected = float(at), int(number)


@contextmanager
def _fleet(hub: Hub, count: int) -> Iterator[_Fleet]:
    body: dict[str, object] = {"max_uses": count, "ttl": 3_600_000}
    token = str(_ask_once(hub, "POST", "/enrollment-tokens", body)["token"])
    url = f"https://127.0.0.1:{hub.address[1]}"
    argv = [sys.executable, "-m", "scripts.bench_fleet", url, str(count)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(f"{token}\n")
            process.stdin.flush()
            yield _Fleet(process, count)
        finally:
            process.kill()


_here: contextvars.ContextVar[str] = contextvars.ContextVar("_here")


class _Machine:
    """One agent: its key, and its one connection after the other."""

    def __init__(self, number: int, url: str, token: str, tell: Callable[[int], None]) -> None:
        self._number = number
        self._url = url
        self._token: str | None = token
        self._hub_key = EnrolmentToken.parse(token).hub_key
        self._tell = tell
        self._identity = Identity.generate()

    async def run(self, gate: trio.CapacityLimiter) -> None:
        """Stay connected, with the pauses of a real agent."""
        # Machines have addresses of their own, by which the hub counts who waits.
        _here.set(f"127.1.{self._number // 250}.{self._number % 250 + 1}")
        pace, attempt = Pace(), 0
        while True:
            connected_at = None
            try:
                # That all join at once is nothing that happens.
                way_in: AbstractAsyncContextManager[object] = gate if self._token else nullcontext()
                async with AsyncExitStack() as stack:
                    async with way_in:
                        link = await stack.enter_async_context(open_link(self._url, pace))
                        conversation = Conversation("agent")
                        with trio.fail_after(pace.handshake_s):
                            await self._shake_hands(link, conversation)
                    connected_at = trio.current_time()
                    self._tell(1)
                    try:
                        await self._converse(link, conversation, pace)
                    finally:
                        self._tell(-1)
            except* (LinkLost, OSError, trio.TooSlowError):
                pass
            now = trio.current_time()
            is_steady = connected_at is not None and now - connected_at >= pace.heartbeat_s
            attempt = 0 if is_steady else attempt + 1
            await trio.sleep(retry_delay(attempt, pace, secrets.randbelow(2**32) / 2**32))

    async def _shake_hands(self, link: Link, conversation: Conversation) -> None:
        async def say(message: Message) -> None:
            await link.send(conversation.send(message))

        nonce = secrets.token_bytes(32)
        await say(Hello(version=VERSION, nonce=nonce))
        challenge = conversation.receive_from_hub(await link.receive())
        assert isinstance(challenge, Challenge)
        hub_key, key = self._hub_key, self._identity.public_key
        signed = hub_transcript(nonce, challenge.nonce, hub_key, link.bindings[0])
        assert is_signed_by(hub_key, challenge.signature, signed)
        mine = machine_transcript(nonce, challenge.nonce, hub_key, key)
        await say(
            Prove(
                public_key=key,
                signature=self._identity.sign(mine),
                boot_id="boot",
                keeper_id=f"keeper-{self._number}",
                facts=FACTS,
                token=self._token,
                name=f"machine-{self._number}",
            )
        )
        welcome = conversation.receive_from_hub(await link.receive())
        assert isinstance(welcome, Welcome)
        self._token = None
        await say(Inventory(commands=[]))
        await say(Ready(features=["files", "terminals"]))
        await say(Terminals(terminals=[], is_last=True))

    async def _converse(self, link: Link, conversation: Conversation, pace: Pace) -> None:
        series = secrets.token_bytes(16)

        async def beat() -> None:
            await link.send(conversation.send(Heartbeat()))
            await trio.sleep(pace.first_sample_s)
            number = 0
            while True:
                number += 1
                one = Sample(number=number, age_ms=0, telemetry=TELEMETRY)
                lines = Heartbeat(), Samples(series=series, samples=[one])
                await link.send(join([str(conversation.send(line)) for line in lines]))
                await trio.sleep(pace.sample_s)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            while True:
                with trio.fail_after(pace.silent_s):
                    frame = await link.receive()
                for part in split(frame):
                    conversation.receive_from_hub(part)


async def _be_fleet(url: str, count: int, token: str) -> None:
    connected = 0

    def tell(change: int) -> None:
        nonlocal connected
        connected += change
        print(time.monotonic(), connected, flush=True)

    dial = trio.open_tcp_stream

    async def dial_from_here(host: str, port: int) -> trio.SocketStream:
        return await dial(host, port, local_address=_here.get())

    trio.open_tcp_stream = dial_from_here  # type: ignore[assignment]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gate = trio.CapacityLimiter(_JOIN_AT_ONCE)
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(_Machine(number, url, token, tell).run, gate)


if __name__ == "__main__":
    trio.run(partial(_be_fleet, sys.argv[1], int(sys.argv[2]), sys.stdin.readline().strip()))
