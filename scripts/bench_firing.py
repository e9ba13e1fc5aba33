"""From a schedule's minute to its commands at the machines, and what webhooks cost a caller."""

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import trio

from cmdop_appliance import RELEASED_MS
from cmdop_appliance.agent.link import Link, LinkLost, open_link
from cmdop_appliance.agent.pace import Pace
from cmdop_appliance.protocol.conversation import split
from cmdop_appliance.protocol.frames import Data
from cmdop_appliance.protocol.messages import Dispatch, Finished, FromHub, Started, Stream
from scripts.bench_hub import Hub, appliance, content_length, read_answer
from tests.support import quick_hub
from tests.support.appliance import Hub as Process
from tests.support.appliance import ending, wait_for
from tests.support.pretender import _Pretender
from tests.support.quick_hub import FileClock

SCHEDULES = 1000
MACHINES = 5
TARGET = "p99 ≤ 1 s"  # semantics.md, Schedules 7
_IDLE = 10  # firings of one schedule, with nothing else to do
_ROUNDS = 3  # of all of them
# The scheduler has looked at the clock once more before the minute comes.
_BEFORE_MS = 1500
_OPEN = ("pending", "running")
_WEBHOOKS = 3
_NOTHING = Stream(0, hashlib.sha256().digest())


class Load(Protocol):
    """What callers saw: milliseconds."""

    p50: float


def run(count: int, load: Callable[[Hub, int, int], Load], report: Callable[..., None]) -> None:
    """Fire, and call `load(hub, callers, count)` beside webhooks."""
    report("what", "figure", "beside", "target")
    with tempfile.TemporaryDirectory(prefix="cmdop-bench-") as name:
        _firings(Path(name), report)
    with tempfile.TemporaryDirectory(prefix="cmdop-bench-") as name:
        _calls_beside_webhooks(Path(name), count, load, report)


# ── firings ──────────────────────────────────────────────────────────────────────────────────────


def _firings(folder: Path, report: Callable[..., None]) -> None:
    clock = FileClock(folder / "clock")
    clock.set(max(RELEASED_MS, time.time() * 1000), 0)
    process = Process(folder)
    process.program = quick_hub.PROGRAM
    process.variables["CLOCK"] = str(clock.path)
    arrived: list[float] = []
    with ending(process):
        process.start()
        with _machines(process, clock, arrived):
            machines = [each["id"] for each in process.api.get("/machines")]
            _make_schedules(process, machines[:1], 1)
            idle = [_fire(process, clock, arrived, 1)[0] for _ in range(_IDLE)]
            one = statistics.median(idle)
            report("1 schedule, fire → dispatch, p50", f"{one:.1f} ms", f"worst {max(idle):.0f} ms")
            _make_schedules(process, machines, SCHEDULES - 1)
            for where in (f"{MACHINES} machines", "1 machine"):
                if where == "1 machine":
                    _move_all(process, machines[0])
                taken = [
                    each
                    for _ in range(_ROUNDS)
                    for each in _fire(process, clock, arrived, SCHEDULES)
                ]
                parts = statistics.quantiles(taken, n=100)
                label = f"{SCHEDULES} schedules, {where}"
                report(f"{label}, p50", f"{parts[49]:.0f} ms", f"{parts[49] / one:.0f} × one")
                report(
                    f"{label}, p99", f"{parts[98]:.0f} ms", f"{parts[98] / one:.0f} × one", TARGET
                )


def _make_schedules(process: Process, machines: list[str], count: int) -> None:
    for number in range(count):
        machine_id = machines[number % len(machines)]
        body = {"name": "each minute", "machine_id": machine_id, "command": "true"}
        process.api.post("/schedules", **body, cron="* * * * *")


def _move_all(process: Process, machine_id: str) -> None:
    for offset in range(0, SCHEDULES, 100):
        for schedule in process.api.get(f"/schedules?limit=100&sort=created_at&offset={offset}"):
            path = f"/schedules/{schedule['id']}"
            process.api.call("PATCH", path, {"machine_id": machine_id})


def _fire(process: Process, clock: FileClock, arrived: list[float], count: int) -> list[float]:
    """How many ms after their minute so many commands were at their machines."""

    def is_idle() -> bool:
        return not any(process.api.get(f"/commands?status={each}") for each in _OPEN)

    wait_for(is_idle, "nothing is under way")
    arrived.clear()
    due_ms = clock.next_minute_ms()
    clock.set(due_ms - _BEFORE_MS, 1)
    wait_for(lambda: len(arrived) >= count, f"{count} commands have arrived")
    clock.stop()  # else the next minute may come before this one is over
    assert len(arrived) == count, f"{len(arrived)} commands instead of {count}"
    return [at_ms - due_ms for at_ms in arrived]


class _Machine(_Pretender):
    """Notes when a command arrives, and has run it at once."""

    def __init__(self, link: Link, name: str, clock: FileClock, arrived: list[float]) -> None:
        super().__init__(link, name)
        self._clock = clock
        self._arrived = arrived

    async def _hear(self) -> list[FromHub | Data]:
        frame = await self._link.receive()
        at_ms = self._clock.now()
        heard = [self._conversation.receive_from_hub(part) for part in split(frame)]
        self._arrived += [at_ms for each in heard if isinstance(each, Dispatch)]
        return heard

    async def _run(self, dispatch: Dispatch) -> None:
        await self._say(Started(id=dispatch.id, started_ms=RELEASED_MS))
        await self._say(
            Finished(
                id=dispatch.id,
                duration_ms=0,
                stdout=_NOTHING,
                stderr=_NOTHING,
                end="exited",
                exit_code=0,
            )
        )


@contextmanager
def _machines(process: Process, clock: FileClock, arrived: list[float]) -> Iterator[None]:
    stop = trio.Event()
    token: list[trio.lowlevel.TrioToken] = []

    async def be(name: str) -> None:
        secret = await trio.to_thread.run_sync(process.new_token)
        with suppress(LinkLost):
            async with open_link(process.api.url, Pace()) as link:
                await _Machine(link, name, clock, arrived).serve(secret)

    async def be_all() -> None:
        async with trio.open_nursery() as nursery:
            token.append(trio.lowlevel.current_trio_token())
            for number in range(MACHINES):
                nursery.start_soon(be, f"machine-{number}")
            await stop.wait()
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(be_all,), name="machines")
    thread.start()
    try:
        online = "/machines?status=online"
        wait_for(lambda: len(process.api.get(online)) == MACHINES, "the machines are there")
        yield
    finally:
        token[0].run_sync_soon(stop.set)
        thread.join()


# ── webhooks ─────────────────────────────────────────────────────────────────────────────────────


def _calls_beside_webhooks(
    folder: Path, count: int, load: Callable[[Hub, int, int], Load], report: Callable[..., None]
) -> None:
    """POST /commands by one caller, in turn without webhooks and with some that hear everything."""
    (folder / "cmdop.toml").write_text('[webhooks]\nallow_networks = ["127.0.0.1/32"]\n')
    with appliance(folder) as hub, _receiver() as url:
        load(hub, 1, 50)  # warm up
        without, beside = [], []
        for _ in range(_ROUNDS):
            without.append(load(hub, 1, count).p50)
            body: dict[str, object] = {"url": url, "events": ["*"]}
            made = [_call(hub, "POST", "/webhooks", body)["id"] for _ in range(_WEBHOOKS)]
            beside.append(load(hub, 1, count).p50)
            waiting = _call(hub, "GET", f"/webhooks/{made[0]}")["pending"]
            for webhook_id in made:
                _call(hub, "DELETE", f"/webhooks/{webhook_id}")
            time.sleep(2)  # what they left behind is cleared away
    ours, theirs = statistics.median(beside), statistics.median(without)
    report("POST /commands true, no webhook, p50", f"{theirs:.2f} ms")
    ratio = f"{ours / theirs:.2f} × none"
    report(f"POST /commands true, {_WEBHOOKS} webhooks, p50", f"{ours:.2f} ms", ratio)
    report("  deliveries of one that waited in the end", str(waiting))


def _call(hub: Hub, method: str, path: str, body: dict[str, object] | None = None) -> dict:
    with socket.create_connection(hub.address) as connection:
        connection.sendall(hub.request(method, path, body))
        answer = json.loads(read_answer(connection))
    if "data" not in answer:
        raise SystemExit(f"bench: {method} {path} was refused: {answer}")
    return answer["data"]


@contextmanager
def _receiver() -> Iterator[str]:
    """A process that takes everything."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        process = multiprocessing.get_context("fork").Process(target=_take_all, args=(listener,))
        process.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()


def _take_all(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            data = b""
            while piece := connection.recv(65536):
                data += piece
                head, blank, body = data.partition(b"\r\n\r\n")
                if blank and len(body) >= content_length(head):
                    connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                    break
