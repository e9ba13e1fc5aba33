"""A large file by `cmdop cp` and by scp, up and down, and what it costs those who are beside it."""

import hashlib
import json
import os
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from scripts.bench_hub import CMDOP, Hub, appliance, processes_naming, read_answer
from tests.support.ssh import warm_ssh
from tests.torture.gigabyte import Memory

SIZE_MB = 2000
ROUNDS = 2  # of each, in turn; the best counts
TARGET = "≥ 0.5 ×"  # MB/s beside scp in the same run (issue 5)
_COMMANDS = 300  # for the p50 when nothing is transferred
_BLOCK_BYTES = 4 * 1024 * 1024
_MB = 1_000_000


@dataclass
class Direction:
    """Up or down: what each tool is called with, and what was measured."""

    name: str
    ours: list[str]
    theirs: list[str]  # none: no sshd here
    our_rates: list[float] = field(default_factory=list)  # MB/s
    their_rates: list[float] = field(default_factory=list)
    commands: list[float] = field(default_factory=list)  # seconds of each POST /commands meanwhile


def run(size_mb: int, report: Callable[..., None]) -> None:
    """Carry a file there and back, by us and by scp in turn, and print what came of it.

    Raises:
        SystemExit: what arrived is not what was sent.
    """
    print(f"a file of {size_mb} MB on this machine's disk, in the page cache; best of {ROUNDS}")
    report("what", "figure", "beside", "target")
    with tempfile.TemporaryDirectory(prefix="cmdop-bench-") as name:
        folder = Path(name)
        source, target = folder / "source", folder / "target"
        expected = _write_source(source, size_mb * _MB)
        with appliance(folder) as hub, warm_ssh(folder) as ssh:
            machine = hub.machine() or ""
            directions = _directions(machine, source, target, ssh)
            idle = _Caller(hub, machine).call_times(_COMMANDS)
            memory = _memory(hub)
            memory.start()
            try:
                for _ in range(ROUNDS):
                    for way in directions:
                        way.our_rates.append(size_mb / _timed(way.ours, hub, target, expected))
                        if way.theirs:
                            taken = _timed(way.theirs, hub, target, expected)
                            way.their_rates.append(size_mb / taken)
                for way in directions:  # once more: callers cost what is compared above
                    with _Caller(hub, machine) as caller:
                        _timed(way.ours, hub, target, expected)
                    way.commands = caller.samples
            finally:
                memory.close()
    for way in directions:
        _print_direction(way, idle, report)
    for who, before in memory.before.items():
        grown = f"{(memory.most[who] - before) / _MB:+.0f} MB at most"
        figure = f"{before / _MB:.0f} → {memory.after[who] / _MB:.0f} MB"
        report(f"{who}, RSS before → after", figure, grown, "flat")


def _directions(
    machine: str, source: Path, target: Path, ssh: list[str] | None
) -> tuple[Direction, Direction]:
    cp, scp = [*CMDOP, "cp"], [] if ssh is None else _scp(ssh)
    return (
        Direction(
            "up",
            [*cp, str(source), f"{machine}:{target}"],
            [*scp, str(source), f"127.0.0.1:{target}"] if scp else [],
        ),
        Direction(
            "down",
            [*cp, f"{machine}:{source}", str(target)],
            [*scp, f"127.0.0.1:{source}", str(target)] if scp else [],
        ),
    )


def _timed(argv: list[str], hub: Hub, target: Path, expected: str) -> float:
    """Seconds that a program took to put a file of this sha256 in place; it is taken away again."""
    host, port = hub.address
    ours = {"CMDOP_URL": f"http://{host}:{port}", "CMDOP_API_KEY": hub.key}
    begun = time.perf_counter()
    done = subprocess.run(
        argv, env={**os.environ, **ours}, capture_output=True, text=True, check=False
    )
    taken = time.perf_counter() - begun
    if done.returncode != 0:
        raise SystemExit(f"bench: {' '.join(argv)}: {done.stderr}")
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != expected:
            raise SystemExit(f"bench: {target} is not what was sent")
    target.unlink()  # it stands there already for nobody
    return taken


def _scp(ssh: list[str]) -> list[str]:
    """scp over the connection of this `ssh`, whose last word is the host."""
    return ["scp", *("-P" if word == "-p" else word for word in ssh[1:-1])]


def _write_source(path: Path, size: int) -> str:
    """A file in which no two blocks are equal; its sha256."""
    digest, block = hashlib.sha256(), os.urandom(_BLOCK_BYTES)
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK_BYTES):
            piece = (start.to_bytes(8) + block[8:])[: size - start]
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _memory(hub: Hub) -> Memory:
    state = f"{hub.data_dir}/local-agent"
    (agent,) = processes_naming(f"--state-dir {state}")
    (keeper,) = processes_naming(f"keeper {state}")
    pids = {"hub": hub.pid, "agent": agent, "keeper": keeper}
    return Memory({name: psutil.Process(pid) for name, pid in pids.items()})


class _Caller(threading.Thread):
    """POST /commands `true`, one after the other on one connection, while it is entered."""

    def __init__(self, hub: Hub, machine: str) -> None:
        super().__init__(name="caller")
        self.samples: list[float] = []  # seconds
        self._address = hub.address
        body = {"machine_id": machine, "command": "true"}
        self._request = hub.request("POST", "/commands", body)
        self._over = threading.Event()
        self._trouble: Exception | None = None

    def __enter__(self) -> "_Caller":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        if self._trouble is not None:
            raise self._trouble

    def run(self) -> None:
        """Call until the end."""
        try:
            self._call(lambda: not self._over.is_set())
        except Exception as exc:  # noqa: BLE001 - leaving the context raises it
            self._trouble = exc

    def call_times(self, count: int) -> list[float]:
        """Seconds of each of so many calls."""
        self._call(lambda: len(self.samples) < count)
        return self.samples

    def _call(self, goes_on: Callable[[], bool]) -> None:
        with socket.create_connection(self._address) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while goes_on():
                begun = time.perf_counter()
                connection.sendall(self._request)
                status = json.loads(read_answer(connection))["data"]["status"]
                self.samples.append(time.perf_counter() - begun)
                if status != "completed":
                    raise RuntimeError(f"a command beside a transfer is {status}")


def _print_direction(way: Direction, idle: list[float], report: Callable[..., None]) -> None:
    ours, theirs = max(way.our_rates), max(way.their_rates, default=0.0)
    ratio = f"{ours / theirs:.2f} × scp" if theirs else "no sshd here"
    report(f"cmdop cp, {way.name}", f"{ours:.0f} MB/s", ratio, TARGET)
    if theirs:
        report(f"scp, {way.name}", f"{theirs:.0f} MB/s")
    beside, alone = (statistics.median(part) * 1000 for part in (way.commands, idle))
    report(
        f"POST /commands meanwhile, {way.name}, p50",
        f"{beside:.2f} ms",
        f"{beside / alone:.1f} × idle ({alone:.2f} ms)",
    )
