"""A backup under 200 commands a second, and the hub that comes out of it after a kill -9.

It counts what was counted. Whatever was recorded before the backup began is in it, with its end and
every byte. Its machines come back without joining again. What they were given later is known to be
unknown, and nothing is ever started twice: not even what the backup has as never sent.
"""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from cmdop_appliance.archives import Head, read_head
from tests.support.appliance import Agent, cmdop, stopped_agent, wait_for
from tests.torture.asks import PATIENCE_S
from tests.torture.parts import Case, Part, Stage
from tests.torture.site import Site, running_site

RATE = 200  # commands a second
_CALLERS = 16
_WARM_S = (1.0, 4.0)  # of load before the backup
_AFTER_S = (0.2, 2.0)  # … and between it and the hub's death
_COMES_BACK = 0.7  # how often a machine that was away is with the old hub before that dies
# A stream that goes round in its ring all the while: its lines are a number and this.
_CONFIG = f"[output]\nmax_bytes = {2 * 1024 * 1024}\n"
_FILL = "0123456789abcdef" * 64
_LINE_BYTES = 7 + 1 + len(_FILL) + 1
_LINES = 12_000


@dataclass(slots=True)
class Load:
    """Commands that were asked for, and what callers were told of them."""

    site: Site
    marks: Path
    told: dict[str, tuple[float, int]] = field(default_factory=dict)  # id → (when, which one)
    waits: list[tuple[float, float]] = field(default_factory=list)  # (since when, for how long)
    _slot: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within, `RATE` commands a second are asked for, until the hub is gone."""
        begun = time.monotonic()
        callers = [threading.Thread(target=self._call, args=(begun,)) for _ in range(_CALLERS)]
        for caller in callers:
            caller.start()
        try:
            yield
        finally:
            self.site.hub.kill()
            for caller in callers:
                caller.join()

    def _call(self, begun: float) -> None:
        api = self.site.hub.api
        connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=PATIENCE_S)
        headers = {"Authorization": f"Bearer {api.key}", "Content-Type": "application/json"}
        while True:
            with self._lock:
                slot, self._slot = self._slot, self._slot + 1
            time.sleep(max(0.0, begun + slot / RATE - time.monotonic()))
            command = f"echo {slot} >>{self.marks}/{slot}; echo {slot}"
            body = {"machine_id": self.site.agent.machine_id, "command": command}
            asked = time.monotonic()
            try:
                connection.request("POST", "/api/v1/commands", json.dumps(body), headers)
                record = json.loads(connection.getresponse().read())["data"]
            except (OSError, http.client.HTTPException, ValueError):
                return  # the hub was killed
            assert record["status"] == "completed", record
            self.waits.append((asked, time.monotonic() - asked))
            self.told[record["id"]] = time.monotonic(), slot

    def p99_ms(self, first: float, end: float) -> float:
        """How long those waited who asked in this time, but for the slowest of a hundred."""
        waits = sorted(wait for asked, wait in self.waits if first <= asked < end)
        return 1000 * waits[len(waits) * 99 // 100] if waits else 0.0

    def check_once(self) -> None:
        """Nothing was started twice."""
        for mark in self.marks.iterdir():
            starts = mark.read_bytes().count(b"\n")
            assert starts <= 1, f"{mark.name} was started {starts} times"


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    def case(number: int, dice: Random) -> None:
        place = stage.place / str(number)
        with running_site(place, config=_CONFIG) as site, stopped_agent(place, "away") as away:
            away.program, away.variables = site.agent.program, dict(site.agent.variables)
            site.expected = "a machine contradicts the audit log"  # it remembers more of it
            stage.say(_run(site, away, place, dice))

    yield case


def _run(site: Site, away: Agent, place: Path, dice: Random) -> str:
    load = Load(site, place / "marks")
    load.marks.mkdir()
    away.join(site.hub)
    away.kill()
    queued = [_queue(site, away, load, f"queued-{n}") for n in range(5)]
    flood = site.api.start(site.agent.machine_id, _flood(load, "flood"))
    long = site.api.start(site.agent.machine_id, _long(load, "long"))
    ran = 0
    with load.running():
        time.sleep(dice.uniform(*_WARM_S))
        backup, asked = place / "hub.tar.gz", time.monotonic()
        _cmdop(place, "--data-dir", site.hub.data_dir, "backup", backup)
        made = time.monotonic()
        late = [site.api.start(site.agent.machine_id, _long(load, f"late-{n}")) for n in range(3)]
        if dice.random() < _COMES_BACK:  # the old hub gives it what waits in the backup
            away.rejoin(site.hub)
            ran = dice.randint(1, len(queued))
            for command_id in queued[:ran]:
                assert site.api.wait_end(command_id)["status"] == "completed"
        time.sleep(dice.uniform(*_AFTER_S))
    _restore(site, backup, place)
    if not away.is_running:
        away.begin()
    for machine in (site.agent, away):
        machine.wait_connected(site.hub)
    _check_late(site, late)
    _check_counts(site, load, read_head(backup), asked)
    for number, command_id in enumerate(queued):
        status = site.api.wait_end(command_id)["status"]
        assert status == "completed" or (status == "lost" and ran), (command_id, status)
        assert (load.marks / f"queued-{number}").exists(), f"{command_id} never ran"
    _check_flood(site, flood)
    assert site.api.get(f"/commands/{long}")["status"] == "running"
    for command_id in (long, *late):
        site.api.delete(f"/commands/{command_id}")
    for command_id in (long, *late):
        assert site.api.wait_end(command_id)["status"] == "cancelled"
    load.check_once()
    rate = len(load.waits) / (load.waits[-1][0] - load.waits[0][0])
    return (
        f"backup: {len(load.told)} commands, {rate:.0f}/s; {backup.stat().st_size} bytes in"
        f" {made - asked:.2f} s; p99 {load.p99_ms(0, asked):.0f} ms before,"
        f" {load.p99_ms(asked, made):.0f} ms meanwhile; {ran} of {len(queued)} that waited had run"
    )


def _flood(load: Load, name: str) -> str:
    """Numbered lines, some MB a second, more than is kept."""
    mark = load.marks / name
    return (
        f"echo started >>{mark}; i=0; while [ $i -lt {_LINES} ]; do i=$((i+1));"
        f' printf "%07d {_FILL}\\n" $i; [ $((i % 20)) = 0 ] && sleep 0.01; done; true'
    )


def _flooded(first: int, size: int) -> bytes:
    """What stands there in that stream."""
    number = first // _LINE_BYTES
    lines = b""
    while len(lines) < size + _LINE_BYTES:
        number += 1
        lines += f"{number:07d} {_FILL}\n".encode()
    return lines[first % _LINE_BYTES :][:size]


def _long(load: Load, name: str) -> str:
    return f"echo started >>{load.marks / name}; exec sleep 1000"


def _queue(site: Site, away: Agent, load: Load, name: str) -> str:
    command = f"echo started >>{load.marks / name}"
    return site.api.start(away.machine_id, command, queue=True, queue_timeout=3_600_000)


def _restore(site: Site, backup: Path, place: Path) -> None:
    """A hub out of the backup where the one was that is dead."""
    _cmdop(place, "backup", "verify", backup)
    site.hub.data_dir.rename(place / "data-before")
    _cmdop(place, "restore", backup, "--data-dir", site.hub.data_dir)
    site.hub.start(config=_CONFIG)


def _check_late(site: Site, late: list[str]) -> None:
    """What was given after the backup runs on, and is known to be unknown."""
    for command_id in late:
        path = f"/commands/{command_id}"
        wait_for(lambda p=path: site.api.call("GET", p).status == 200, "it is kept", PATIENCE_S)
        record = site.api.get(path)
        assert (record["status"], record["unknown_to_hub"]) == ("running", True), record


def _check_counts(site: Site, load: Load, head: Head, asked: float) -> None:
    """It has what was counted, and all that was told to anybody before the backup began."""
    known = {each["id"]: each for each in site.api.all("/commands")}
    unknown = [each for each in known.values() if each["unknown_to_hub"]]
    assert len(known) - len(unknown) == head.lists["commands"], (len(known), len(unknown), head)
    for name in ("machines", "schedules", "webhooks"):
        total = site.api.call("GET", f"/{name}?limit=1").json["meta"]["total"]
        assert total == head.lists[name], name
    before = {each: slot for each, (told, slot) in load.told.items() if told < asked}
    for command_id in before:
        assert known[command_id]["status"] == "completed", known.get(command_id)
    for command_id, slot in list(before.items())[:: max(1, len(before) // 50)]:
        assert site.api.output(command_id) == f"{slot}\n".encode()


def _check_flood(site: Site, flood: str) -> None:
    """The stream that went round in its ring: whatever is kept of it is what was written."""
    ended = site.api.wait_end(flood)
    assert ended["status"] in ("completed", "lost"), ended
    size = ended["stdout_bytes"]
    if ended["status"] == "completed":
        assert size == _LINES * _LINE_BYTES
    path = f"/commands/{flood}/output"
    truncated = site.api.call("GET", path).headers.get("x-cmdop-truncated", f"{size}-{size - 1}")
    gap, _, gap_last = truncated.partition("-")
    for first, end in ((0, int(gap)), (int(gap_last) + 1, size)):
        if first < end:
            part = site.api.call("GET", path, headers={"Range": f"bytes={first}-{end - 1}"})
            assert part.status == 206, part
            assert part.body == _flooded(first, end - first), f"{first} to {end} of {size}"


def _cmdop(place: Path, *args: object) -> None:
    done = cmdop(*args, place=place, timeout_s=None)
    assert done.returncode == 0, done.stderr


BACKUP = Part("backup", count=25, case_s=120.0, stage=_stage, jobs_most=1)
