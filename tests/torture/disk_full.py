"""Somebody fills the disk of the hub, or of the machine, while commands run, and makes room again.

Each has a small file system of its own. What was acknowledged is there, reads and cancels go on,
nobody falls, and when there is room again everything works as before, without anybody's help.
"""

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

from tests.support.appliance import Hub, ending, stopped_agent, wait_for
from tests.torture.asks import PATIENCE_S, Ask, PatientApi, judge, new_ask, new_endless_ask
from tests.torture.clients import clients
from tests.torture.parts import Case, NotTriedError, Part, Stage

_MIB = 1024 * 1024
_DISK_BYTES = 96 * _MIB
_CONFIG = f"""
[disk]
ballast_bytes = {2 * _MIB}
reserve_bytes = {8 * _MIB}
machine_bytes = {8 * _MIB}
"""
_CLIENTS = 3
_UNDER_WAY = (1, 3)  # commands of one client
_LASTS_S = (0.0, 0.5)
_OUTPUT_BYTES = 100_000
_BEFORE_S = (0.0, 1.0)  # until the disk is full
_FULL_S = (0.2, 3.0)
# What is left free: often nothing, else what brings one of the hub's bounds about.
_LEFT_BYTES = (0, 0, 100_000, 1 * _MIB, 3 * _MIB, 7 * _MIB)


class _Api(PatientApi):
    """Asks again what found no room: nothing was recorded then."""

    def is_answered(self, method: str, status: int) -> bool:
        return super().is_answered(method, status) and (method, status) != ("POST", 507)


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    place = stage.place
    place.mkdir(parents=True)
    with ExitStack() as stack:
        hub = Hub(place)
        for folder in (place / "data", place / "agent"):
            stack.enter_context(_mounted(folder))
        stack.enter_context(ending(hub))
        agent = stack.enter_context(stopped_agent(place, "agent"))
        hub.start(config=_CONFIG)
        agent.join(hub)
        api, asks = _Api(hub.api.url, hub.api.key), place / "asks"
        machine_id, pids = agent.machine_id, (hub.pid, agent.pid)
        suffered: set[str] = set()  # tags of commands during which their own disk was full
        under_way: set[Ask] = set()

        def work(dice: Random) -> None:
            new = {}
            for _ in range(dice.randint(*_UNDER_WAY)):
                lasts_s = dice.uniform(*_LASTS_S)
                ask = new_ask(asks, dice, lasts_s=lasts_s, most_bytes=_OUTPUT_BYTES)
                under_way.add(ask)
                new[api.ask(machine_id, ask)] = ask
            for command_id, ask in new.items():
                record = api.end_of(command_id)
                under_way.discard(ask)
                if ask.tag in suffered:
                    _judge_suffered(api, record, ask)
                else:
                    judge(api, record, ask)

        with clients(f"{stage.seed}", _CLIENTS, work) as raise_trouble:

            def case(number: int, dice: Random) -> None:
                is_hubs = number % 2 == 0
                folder = place / ("data" if is_hubs else "agent")
                endless = new_endless_ask(asks, dice)
                command_id = api.ask(machine_id, endless)
                wait_for(lambda: endless.starts, "it runs", PATIENCE_S)
                time.sleep(dice.uniform(*_BEFORE_S))
                with _filled(folder, dice.choice(_LEFT_BYTES)):
                    over = time.monotonic() + dice.uniform(*_FULL_S)
                    if is_hubs:
                        _judge_full(api, command_id)
                    while time.monotonic() < over:
                        if not is_hubs:
                            suffered.update(ask.tag for ask in under_way.copy())
                        time.sleep(0.01)
                    if not is_hubs:
                        suffered.update(ask.tag for ask in under_way.copy())
                raise_trouble()
                if not is_hubs:
                    api.call("DELETE", f"/commands/{command_id}")
                judge(api, api.end_of(command_id), endless)
                ask = new_ask(asks, dice, lasts_s=0.0, most_bytes=_OUTPUT_BYTES)
                again = api.ask(machine_id, ask)
                judge(api, api.end_of(again), ask)
                assert (hub.pid, agent.pid) == pids
                assert hub.is_running, hub.log.read_text()
                assert agent.is_running, agent.log.read_text()
                for log in (hub.log, agent.log):
                    assert "Traceback" not in log.read_text(errors="replace"), log

            yield case
        stage.say(f"disk-full: {len(suffered)} commands ran while their machine's disk was full")


def _judge_full(api: PatientApi, command_id: str) -> None:
    """Reads and cancels go on while the hub's disk is full."""
    assert api.call("GET", "/commands?limit=1").status == 200
    answer = api.call("DELETE", f"/commands/{command_id}")
    assert answer.status == 200, answer


def _judge_suffered(api: PatientApi, record: Any, ask: Ask) -> None:
    """Its own machine's disk was full: it ran or not, once, and what is told of it is so."""
    where = f"{record['id']} {record['status']} {record['error']}"
    assert ask.starts <= 1, f"{where}: started {ask.starts} times"
    if not ask.starts:
        assert (record["status"], record["exit_code"]) == ("failed", None), where
    for stream in ("stdout", "stderr"):
        output = api.output(record["id"], stream)
        if record[f"{stream}_sha256"] is not None:
            told = (record[f"{stream}_bytes"], record[f"{stream}_sha256"])
            assert told == (len(output), hashlib.sha256(output).hexdigest()), (where, stream)


@contextmanager
def _filled(folder: Path, left_bytes: int) -> Iterator[None]:
    """Within, no more than that is free on the file system."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            size, piece = 0, _MIB
            while piece >= 512:
                found = os.statvfs(folder)
                if found.f_bavail * found.f_frsize - piece < left_bytes:
                    piece //= 2
                    continue
                try:
                    os.posix_fallocate(file.fileno(), size, piece)
                    size += piece
                except OSError:
                    piece //= 2
        yield
    finally:
        filler.unlink()


@contextmanager
def _mounted(folder: Path) -> Iterator[None]:
    """Within, a small file system of its own is there."""
    if os.geteuid() != 0:
        raise NotTriedError("only root may mount a file system")
    folder.mkdir()
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(_DISK_BYTES)
    made = ["mkfs.ext4", "-q", "-m", "0", "-F", image]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    options = ["mount", "-o", "loop", image, folder]
    try:
        subprocess.run(options, check=True)
    except subprocess.CalledProcessError as exc:
        raise NotTriedError("a loop device cannot be mounted here") from exc
    try:
        folder.chmod(0o700)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


DISK_FULL = Part("disk-full", 100, 30.0, _stage)
