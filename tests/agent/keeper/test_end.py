"""Cancel and deadline: how a command is ended, and that nothing of it is left."""

import os
import signal
from pathlib import Path

import pytest
import trio

from cmdop_appliance.agent.keeper_client import Exited, open_keeper, output_path
from tests.agent.keeper.running import (
    commands_of,
    event_of,
    keeper_process,
    quick_keeper,
    run,
    start,
    wait_until,
)

STUBBORN = 'trap "" TERM; (setsid sleep 300 &) ; sleep 300'
# It leaves its session and its parent, and its environment says nothing of it any more.
# It ignores SIGTERM, which its parent does not.
DAEMON = (
    """(setsid sh -c 'trap "" TERM; env -i sleep 300 & trap - TERM; echo; wait' &) ; sleep 300"""
)


async def test_cancel_of_a_stubborn_command_leaves_no_process(state_dir):
    async with quick_keeper(state_dir) as keeper:
        await start(keeper, "cmd_1", "sh", "-c", STUBBORN)
        await wait_until(lambda: len(commands_of(state_dir)) == 3)
        await keeper.cancel("cmd_1")
        exited = await event_of(keeper, "cmd_1")
        assert commands_of(state_dir) == []
    assert isinstance(exited, Exited)
    assert (exited.end, exited.exit_code, exited.killed) == ("cancelled", None, "SIGKILL")
    assert exited.signal == "SIGKILL"


async def test_a_deadline_ends_a_stubborn_command_without_any_agent(state_dir):
    async with keeper_process(state_dir):
        async with open_keeper(state_dir) as keeper:
            await start(keeper, "cmd_1", "sh", "-c", STUBBORN, timeout_ms=300)
            await wait_until(lambda: len(commands_of(state_dir)) == 3)
        await wait_until(lambda: commands_of(state_dir) == [])
        async with open_keeper(state_dir) as keeper:
            record = keeper.records["cmd_1"]
            if record.state == "running":  # killed, and about to be told
                record = await event_of(keeper, "cmd_1")
    assert (record.end, record.exit_code, record.killed) == ("timeout", None, "SIGKILL")


async def test_a_command_that_ends_on_sigterm_is_not_killed(state_dir):
    script = 'trap "echo bye; exit 3" TERM; echo ready; while :; do sleep 0.01; done'
    async with quick_keeper(state_dir, kill_grace=60) as keeper:
        started = await start(keeper, "cmd_1", "sh", "-c", script)
        output = output_path(state_dir, started.slot, "stdout")
        await wait_until(lambda: output.read_text() == "ready\n")
        await keeper.cancel("cmd_1")
        exited = await event_of(keeper, "cmd_1")
    assert (exited.end, exited.exit_code, exited.signal) == ("cancelled", None, None)
    assert exited.killed == "SIGTERM"
    assert output.read_text() == "ready\nbye\n"
    assert exited.stdout_bytes == len("ready\nbye\n")


async def test_descendants_outside_the_group_get_sigterm_before_they_are_killed(state_dir):
    child = "trap 'echo bye; exit' TERM; echo ready; while :; do sleep 0.01; done"
    async with quick_keeper(state_dir, kill_grace=60) as keeper:
        started = await start(keeper, "cmd_1", "sh", "-c", f'setsid sh -c "{child}" & sleep 300')
        output = output_path(state_dir, started.slot, "stdout")
        await wait_until(lambda: output.read_text() == "ready\n")
        await keeper.cancel("cmd_1")
        exited = await event_of(keeper, "cmd_1")
    assert output.read_text() == "ready\nbye\n"
    assert (exited.end, exited.signal, exited.killed) == ("cancelled", "SIGTERM", "SIGTERM")


async def test_what_left_its_session_parent_and_environment_in_time_to_be_seen_is_ended(state_dir):
    async with quick_keeper(state_dir) as keeper:
        started = await start(keeper, "cmd_1", "sh", "-c", DAEMON)
        output = output_path(state_dir, started.slot, "stdout")
        await wait_until(lambda: output.read_text() == "\n")
        sleepers = [pid for pid in commands_of(state_dir) if children_of(pid)]
        hidden = [child for pid in sleepers for child in children_of(pid)]
        await keeper.cancel("cmd_1")
        await event_of(keeper, "cmd_1")
    assert len(hidden) >= 2
    assert [pid for pid in hidden if is_alive(pid)] == []


async def test_a_stopped_command_acts_on_its_cancel(state_dir):
    async with quick_keeper(state_dir, kill_grace=60) as keeper:
        started = await start(keeper, "cmd_1", "sleep", "300")
        os.kill(started.pid, signal.SIGSTOP)
        await wait_until(lambda: ") T " in Path(f"/proc/{started.pid}/stat").read_text())
        await keeper.cancel("cmd_1")
        exited = await event_of(keeper, "cmd_1")
    assert exited.killed == "SIGTERM"


async def test_a_command_that_ended_by_itself_keeps_its_true_end(state_dir):
    async with quick_keeper(state_dir) as keeper:
        _, exited = await run(keeper, "cmd_1", "sh", "-c", "exit 5", timeout_ms=60_000)
        await keeper.cancel("cmd_1")
        await keeper.cancel("cmd_unknown")
        await run(keeper, "cmd_2", "true")
        async with open_keeper(state_dir) as again:
            record = again.records["cmd_1"]
    assert (exited.exit_code, exited.end) == (5, "exited")
    assert (record.exit_code, record.end) == (5, "exited")


async def test_a_cancel_that_comes_after_the_end_but_before_it_was_noticed_changes_nothing(
    state_dir, tmp_path
):
    os.mkfifo(tmp_path / "fifo")
    async with quick_keeper(state_dir) as keeper:
        script = 'read x < "$0"; exit 5'
        started = await start(keeper, "cmd_1", "sh", "-c", script, str(tmp_path / "fifo"))
        os.kill(keeper.pid, signal.SIGSTOP)
        (tmp_path / "fifo").write_text("go\n")
        await wait_until(lambda: not is_alive(started.pid))
        await keeper.cancel("cmd_1")
        os.kill(keeper.pid, signal.SIGCONT)
        exited = await event_of(keeper, "cmd_1")
    assert (exited.exit_code, exited.end) == (5, "exited")


async def test_a_second_cancel_changes_nothing(state_dir):
    async with quick_keeper(state_dir) as keeper:
        await start(keeper, "cmd_1", "sh", "-c", STUBBORN, timeout_ms=400)
        await wait_until(lambda: len(commands_of(state_dir)) == 3)
        await keeper.cancel("cmd_1")
        await keeper.cancel("cmd_1")
        exited = await event_of(keeper, "cmd_1")
        assert exited.end == "cancelled"
        await run(keeper, "cmd_2", "true")  # no second end of cmd_1 came in between


async def test_many_are_ended_at_once_and_their_neighbours_are_not(state_dir):
    async with quick_keeper(state_dir) as keeper:
        for number in range(8):
            await start(keeper, f"cmd_{number}", "sh", "-c", STUBBORN)
        neighbour = await start(keeper, "cmd_n", "sleep", "300")
        await wait_until(lambda: len(commands_of(state_dir)) == 8 * 3 + 1)
        for number in range(8):
            await keeper.cancel(f"cmd_{number}")
        with trio.fail_after(20):
            ended = [(await keeper.next_event()).id for _ in range(8)]
        assert sorted(ended) == [f"cmd_{number}" for number in range(8)]
        assert commands_of(state_dir) == [neighbour.pid]
        await keeper.cancel("cmd_n")
        await event_of(keeper, "cmd_n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start as another user")
async def test_another_users_command_is_ended_too(state_dir):
    async with quick_keeper(state_dir) as keeper:
        await start(keeper, "cmd_1", "sh", "-c", STUBBORN, user="nobody")
        await wait_until(lambda: len(commands_of(state_dir)) == 3)
        await keeper.cancel("cmd_1")
        await event_of(keeper, "cmd_1")
        assert commands_of(state_dir) == []


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and ") Z " not in path.read_text()
