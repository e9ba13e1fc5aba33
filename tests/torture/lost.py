"""Each reason of `lost`, for real: told as such, never with an exit code, never run again."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from tests.support.appliance import PROGRAM, kill_tree, wait_for
from tests.support.stepped import Fault
from tests.torture.asks import PATIENCE_S, Ask, judge, new_ask, new_endless_ask
from tests.torture.parts import Case, NotTriedError, Part, Stage
from tests.torture.site import Site, running_site

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NEXT_BOOT = "b007b007-b007-4b07-8b07-b007b007b007"
_SILENT_CONFIG = "[commands]\nlost_after_ms = 1000\n[sessions]\ngrace_ms = 100\n"


def why_no_reboot() -> str:
    """Why this machine cannot be given another boot id here; "" when it can."""
    if os.geteuid() != 0:
        return "only root can mount another boot id"
    tried = subprocess.run(["unshare", "-m", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else ""


def start_unknown(place: Path, dice: Random) -> None:
    """The agent dies between its journal and its keeper."""
    with running_site(place, stepped=True) as site:
        ask = new_ask(place / "asks", dice, lasts_s=0, most_bytes=100)
        site.steps.plan(Fault("agent", 1, "before", of="ask keeper to start"))
        command_id = site.api.ask(site.agent.machine_id, ask)
        wait_for(lambda: not site.agent.is_running, "the agent has fallen")
        site.start_agent()
        _judge_lost(site, command_id, ask, "start_unknown", starts=0)


def rebooted(place: Path, dice: Random) -> None:
    """Everything on the machine dies, and comes back with another boot id."""
    with running_site(place) as site:
        command_id, ask = _running(site, dice)
        site.agent.kill()
        kill_tree(site.agent.keeper.pid)
        boot_id = place / "boot_id"
        boot_id.write_text(f"{_NEXT_BOOT}\n")
        mount = f'mount --bind {boot_id} {_BOOT_ID} && exec "$@"'
        site.agent.program = ("unshare", "-m", "sh", "-c", mount, "sh", *PROGRAM)
        site.start_agent()
        _judge_lost(site, command_id, ask, "rebooted")


def keeper_killed(place: Path, dice: Random) -> None:
    """The keeper dies while a command runs on."""
    with running_site(place) as site:
        command_id, ask = _running(site, dice)
        site.agent.keeper.kill()
        _judge_lost(site, command_id, ask, "keeper_killed")


def machine_removed(place: Path, dice: Random) -> None:
    """The machine is taken out while a command runs."""
    with running_site(place) as site:
        command_id, ask = _running(site, dice)
        site.api.delete(f"/machines/{site.agent.machine_id}")
        assert site.agent.wait_exit() == 3, site.agent.log.read_text()
        _judge_lost(site, command_id, ask, "machine_removed")


def silent(place: Path, dice: Random) -> None:
    """The machine is away for longer than the hub waits; then it returns with the true end."""
    with running_site(place, config=_SILENT_CONFIG) as site:
        ask = new_ask(place / "asks", dice, lasts_s=1.0, most_bytes=50_000)
        command_id = site.api.ask(site.agent.machine_id, ask)
        wait_for(lambda: ask.starts, "it runs")
        site.agent.kill()
        _judge_lost(site, command_id, ask, "silent")
        site.start_agent()

        def corrected() -> Any:
            record = site.api.get(f"/commands/{command_id}")
            return record if record["status"] not in ("lost", "running") else None

        record = wait_for(corrected, "the end is corrected", PATIENCE_S)
        assert record["late"] is True, record
        judge(site.api, record, ask)


def forgotten(place: Path, dice: Random) -> None:
    """The hub is restored from a backup that has open what it acknowledged as ended."""
    with running_site(place) as site:
        site.expected = "a machine contradicts the audit log"  # it remembers what the backup lacks
        ask = new_ask(place / "asks", dice, lasts_s=0, most_bytes=100)
        site.agent.suspend()  # so that the backup has it as not started
        command_id = site.api.ask(site.agent.machine_id, ask)
        site.hub.kill()
        shutil.copytree(site.hub.data_dir, place / "backup")
        site.start_hub()
        site.agent.resume()
        judge(site.api, site.api.end_of(command_id), ask)
        journal = site.agent.state_dir / "journal.log"
        gone = f'{{"id":"{command_id}","gone"'
        wait_for(lambda: gone in journal.read_text(), "the end is acknowledged")
        site.hub.kill()
        shutil.rmtree(site.hub.data_dir)
        shutil.copytree(place / "backup", site.hub.data_dir)
        site.start_hub()
        _judge_lost(site, command_id, ask, "forgotten")


REASONS: tuple[Callable[[Path, Random], None], ...] = (
    start_unknown,
    rebooted,
    keeper_killed,
    silent,
    machine_removed,
    forgotten,
)


def _running(site: Site, dice: Random) -> tuple[str, Ask]:
    """A command that has begun and does not end by itself."""
    ask = new_endless_ask(site.place / "asks", dice)
    command_id = site.api.ask(site.agent.machine_id, ask)
    wait_for(lambda: ask.starts, "it runs")
    return command_id, ask


def _judge_lost(site: Site, command_id: str, ask: Ask, reason: str, *, starts: int = 1) -> None:
    site.asked.append(ask)
    record = site.api.end_of(command_id)
    assert (record["status"], record["exit_code"]) == ("lost", None), record
    assert record["error"]["code"] == reason, record["error"]
    assert ask.starts == starts, f"started {ask.starts} times"


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    def case(number: int, dice: Random) -> None:
        produce = REASONS[number % len(REASONS)]
        if produce is rebooted and (why := why_no_reboot()):
            raise NotTriedError(f"rebooted: {why}")
        begun = time.monotonic()
        produce(stage.place / str(number), dice)
        stage.say(f"lost: {produce.__name__} in {time.monotonic() - begun:.1f} s")

    yield case


LOST = Part("lost", 3 * len(REASONS), 60.0, _stage)
