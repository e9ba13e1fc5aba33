"""A new agent on trial: what it has to do, and that nothing is changed when it does not."""

import errno
import os
from pathlib import Path

import pytest
import trio

from cmdop_appliance.agent import trial
from cmdop_appliance.agent.attempts import Attempt
from cmdop_appliance.agent.trial import NotGood, try_out
from cmdop_appliance.agent.upgrade import Plan
from cmdop_appliance.ids import new_id
from cmdop_appliance.service.folders import Home, Version
from tests.support.agents import eventually

# The last argument is the descriptor on which it tells that it is healthy.
HEALTHY = 'for last; do :; done; echo healthy >/proc/self/fd/"$last"'
STAYS = "exec sleep 1000"


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def plan(home):
    """Two versions, the old one current."""
    old, new = (_version(home, number) for number in ("1.0.0", "2.0.0"))
    home.switch(old)
    return Plan(home, new, Attempt(id=new_id("upg"), version=new.name))


def _version(home: Home, number: str) -> Version:
    version = Version(home.path / "versions" / f"{number}-0123456789ab")
    version.path.mkdir(parents=True)
    return version


async def tried(tmp_path: Path, plan: Plan, script: str, stop=None) -> None:
    """Try a program that does this; it writes its process id beside, and is gone in the end."""
    plan.version.program.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\n{script}\n")
    plan.version.program.chmod(0o755)
    arguments = ["agent", "--state-dir", str(tmp_path)]
    try:
        with trio.fail_after(20):
            await try_out(tmp_path, plan, arguments, trio.Event() if stop is None else stop)
    finally:
        pid = (tmp_path / "pid").read_text().strip()
        assert not Path("/proc", pid).exists()


async def test_a_healthy_one_is_the_current_version_and_does_not_run(tmp_path, home, plan):
    await tried(tmp_path, plan, f'echo "$@" >{tmp_path}/argv; {HEALTHY}; {STAYS}')
    assert home.current() == plan.version
    *arguments, option, _ = (tmp_path / "argv").read_text().split()
    assert (arguments, option) == (["agent", "--state-dir", str(tmp_path)], "--on-trial")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 7", "the new agent ended: exit code 7"),
        ("kill -9 $$", "the new agent ended: signal 9"),
        (f"echo weird >/proc/self/fd/$5; {STAYS}", "the new agent ended"),
        ("printf 'no\\033[2J such file' >&2; exit 1", r"it said 'no\x1b[2J such file'"),
    ],
)
async def test_one_that_ends_is_no_good_and_says_why(tmp_path, home, plan, script, why):
    before = home.current()
    with pytest.raises(NotGood) as raised:
        await tried(tmp_path, plan, script)
    assert raised.value.code == "exited"
    assert why in raised.value.message
    assert home.current() == before


async def test_one_that_is_not_healthy_in_time_is_no_good(tmp_path, home, plan, monkeypatch):
    monkeypatch.setattr(trial, "PATIENCE_S", 0.5)
    before = home.current()
    with pytest.raises(NotGood) as raised:
        await tried(tmp_path, plan, STAYS)
    assert raised.value.code == "silent"
    assert home.current() == before


async def test_who_is_told_to_stop_waits_for_no_trial(tmp_path, home, plan):
    stop, before = trio.Event(), home.current()

    async def stop_when_it_runs() -> None:
        await eventually(lambda: _is_written(tmp_path / "pid"), "it runs")
        stop.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_when_it_runs)
        with pytest.raises(NotGood) as raised:
            await tried(tmp_path, plan, STAYS, stop)
    assert raised.value.code == "interrupted"
    assert home.current() == before


def _is_written(path: Path) -> bool:
    return path.exists() and path.read_text() != ""


async def test_a_home_that_cannot_be_switched_stays_as_it_is(tmp_path, plan, monkeypatch):
    def no_room(_self: Home, _version: Version) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(Home, "switch", no_room)
    with pytest.raises(NotGood) as raised:
        await tried(tmp_path, plan, f"{HEALTHY}; {STAYS}")
    assert raised.value.code == "not_writable"


async def test_a_program_that_is_none_is_no_good(tmp_path, plan):
    with pytest.raises(NotGood, match="does not start"):
        await try_out(tmp_path, plan, [], trio.Event())


async def test_what_only_we_may_say_to_the_service_manager_it_is_not_given(
    tmp_path, plan, monkeypatch
):
    monkeypatch.setenv("CMDOP_JOIN_KEY", "secret")
    await tried(tmp_path, plan, f"env >{tmp_path}/env; {HEALTHY}")
    given = (tmp_path / "env").read_text()
    assert "CMDOP_" not in given
    assert f"PATH={os.environ['PATH']}" in given
