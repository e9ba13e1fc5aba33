"""1 GB of output through one command: all of it, in flat memory, and beside others who wait.

Completeness and memory pass or fail. Speeds depend on the machine: each is printed beside what was
measured in the same run, with its target.
"""

import hashlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import psutil

from tests.support.appliance import Api
from tests.support.ssh import warm_ssh
from tests.torture.parts import Case, Part, Stage
from tests.torture.site import Site, running_site

SIZE_BYTES = 1_000_000_000
_CONFIG = f"[output]\nmax_bytes = {2 * SIZE_BYTES}\n"
# Growth beyond this is not flat: what is under way anywhere is far below (semantics.md, 6).
_FLAT_BYTES = 48 * 1024 * 1024
_IDLE_COMMANDS = 400
_SAMPLE_S = 0.05
_BLOCK_BYTES = 4 * 1024 * 1024
_MB = 1_000_000


class Memory(threading.Thread):
    """Resident set sizes of some processes, sampled until `close`."""

    def __init__(self, processes: dict[str, psutil.Process]) -> None:
        super().__init__(name="memory")
        self._processes = processes
        self._over = threading.Event()
        self.before = self._sample()
        self.most = dict(self.before)
        self.after: dict[str, int] = {}

    def run(self) -> None:
        """Sample."""
        while not self._over.wait(_SAMPLE_S):
            for name, size in self._sample().items():
                self.most[name] = max(self.most[name], size)

    def close(self) -> None:
        """The last sample."""
        self._over.set()
        self.join()
        self.after = self._sample()

    def _sample(self) -> dict[str, int]:
        return {name: process.memory_info().rss for name, process in self._processes.items()}


def torture_with(site: Site, dice: Random, size: int, say: Callable[[str], None]) -> None:
    """Send `size` bytes through one command of a site that keeps so many."""
    big = site.place / "big"
    expected = _write_big(big, dice, size)
    with warm_ssh(site.place) as ssh:
        by_ssh = [_ssh_rate(ssh, big)] if ssh else []
        idle = _small_commands(site, lambda done: done >= _IDLE_COMMANDS)
        memory = Memory(
            {
                "hub": psutil.Process(site.hub.pid),
                "agent": psutil.Process(site.agent.pid),
                "keeper": site.agent.keeper,
            }
        )
        memory.start()
        try:
            begun = time.monotonic()
            command_id = site.api.start(site.agent.machine_id, f"cat {big}")
            ended = _Ended(site.api, command_id)
            ended.start()
            beside = _small_commands(site, lambda _: not ended.is_alive())
            rate = size / (ended.at() - begun) / _MB
            record = site.api.end_of(command_id)
            download, got = _download(site, command_id)
        finally:
            memory.close()
        by_ssh += [_ssh_rate(ssh, big)] if ssh else []
    assert (record["status"], record["exit_code"]) == ("completed", 0), record["error"]
    assert (record["stdout_bytes"], record["stdout_sha256"]) == (size, expected)
    assert got == expected, "the download is not what the command wrote"
    say(f"gigabyte: {size} bytes, sha256 equal in record and download")
    for name, before in memory.before.items():
        most, after = memory.most[name], memory.after[name]
        say(f"gigabyte: RSS {name:<6} {before / _MB:.0f} → {most / _MB:.0f} → {after / _MB:.0f} MB")
        assert most - before < _FLAT_BYTES, f"{name} grew by {(most - before) / _MB:.0f} MB"
    yardstick = max(by_ssh, default=0.0)
    for what, speed in (("command to its end", rate), ("download", download)):
        ratio = f"{speed / yardstick:.2f} × ssh cat ({yardstick:.0f} MB/s)" if by_ssh else "no sshd"
        say(f"gigabyte: {what:<20} {speed:.0f} MB/s, {ratio}; target ≥ 0.5 ×")
    say(
        f"gigabyte: others' p99 {beside * 1000:.1f} ms beside it, {beside / idle:.2f} × idle"
        f" ({idle * 1000:.1f} ms); target < 2 ×"
    )


class _Ended(threading.Thread):
    """Waits for a command beside the rest."""

    def __init__(self, api: Api, command_id: str) -> None:
        super().__init__(name=f"end of {command_id}")
        self._api = api
        self._id = command_id
        self._end: float | Exception = 0.0

    def run(self) -> None:
        """Look for it in the list of what runs: its own record has a MiB of output."""
        path = "/commands?status=running&sort=created_at&limit=5"
        try:
            while any(record["id"] == self._id for record in self._api.get(path)):
                time.sleep(_SAMPLE_S)
            self._end = time.monotonic()
        except Exception as exc:  # noqa: BLE001 - `at` raises it
            self._end = exc

    def at(self) -> float:
        """When it ended, on the monotonic clock."""
        self.join()
        if isinstance(self._end, Exception):
            raise self._end
        return self._end


def _write_big(path: Path, dice: Random, size: int) -> str:
    digest, block = hashlib.sha256(), dice.randbytes(_BLOCK_BYTES)
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK_BYTES):
            # No two blocks are equal, so that none can stand for another.
            piece = (start.to_bytes(8) + block[8:])[: size - start]
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _small_commands(site: Site, enough: Callable[[int], bool]) -> float:
    """p99 of POST /commands `true`, one caller on one connection, in seconds."""
    api, machine_id = site.hub.api, site.agent.machine_id
    body = f'{{"machine_id":"{machine_id}","command":"true"}}'
    headers = {"Authorization": f"Bearer {api.key}", "Content-Type": "application/json"}
    connection = HTTPConnection(urlsplit(api.url).netloc, timeout=60)
    samples: list[float] = []
    try:
        while not enough(len(samples)):
            begun = time.perf_counter()
            connection.request("POST", "/api/v1/commands", body, headers)
            with connection.getresponse() as answer:
                said = answer.read()
            samples.append(time.perf_counter() - begun)
            assert b'"status":"completed"' in said, said[:300]
    finally:
        connection.close()
    return sorted(samples)[int(len(samples) * 0.99)]


def _download(site: Site, command_id: str) -> tuple[float, str]:
    """(MB/s, sha256) of GET /output."""
    api, digest, size = site.hub.api, hashlib.sha256(), 0
    connection = HTTPConnection(urlsplit(api.url).netloc, timeout=60)
    begun = time.monotonic()
    try:
        path = f"/api/v1/commands/{command_id}/output"
        connection.request("GET", path, headers={"Authorization": f"Bearer {api.key}"})
        with connection.getresponse() as answer:
            while piece := answer.read(1024 * 1024):
                digest.update(piece)
                size += len(piece)
    finally:
        connection.close()
    return size / (time.monotonic() - begun) / _MB, digest.hexdigest()


def _ssh_rate(ssh: list[str], path: Path) -> float:
    """MB/s of `ssh host cat` into a pipe that is read and hashed, as the download is."""
    begun, digest, size = time.monotonic(), hashlib.sha256(), 0
    with subprocess.Popen([*ssh, f"cat {path}"], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        while piece := client.stdout.read(1024 * 1024):
            digest.update(piece)
            size += len(piece)
    return size / (time.monotonic() - begun) / _MB


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    with running_site(stage.place, config=_CONFIG, quick=False) as site:

        def case(_number: int, dice: Random) -> None:
            torture_with(site, dice, SIZE_BYTES, stage.say)

        yield case


GIGABYTE = Part("gigabyte", 1, 600.0, _stage, jobs_most=1)
