"""Agents and keepers that die, directories that vanish, peers that misbehave."""

import os
import signal
import socket
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from cmdop_appliance.agent.keeper.main import ALREADY_KEPT
from cmdop_appliance.agent.keeper_client import KeeperLost, Record, open_keeper, read_log
from tests.agent.keeper.running import (
    PACKAGE_PARENT,
    event_of,
    keeper_process,
    quick_keeper,
    run,
    start,
    wait_until,
)

AGENT = """
import sys, trio; sys.path.insert(0, sys.argv[2])
from pathlib import Path
from cmdop_appliance.agent.keeper_client import open_keeper
async def main():
    async with open_keeper(Path(sys.argv[1])) as keeper:
        argv = ["sh", "-c", "read x < $0; echo $x; exit 9", sys.argv[3]]
        await keeper.start(id="cmd_1", argv=argv)
        print((await keeper.next_event()).pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


async def test_a_command_outlives_its_agent_with_its_true_exit_code(state_dir, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    argv = [sys.executable, "-c", AGENT, state_dir, PACKAGE_PARENT, tmp_path / "fifo"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as agent:
        pid = int(await trio.to_thread.run_sync(agent.stdout.readline))
        agent.kill()
    async with open_keeper(state_dir) as keeper:
        record = keeper.records["cmd_1"]
        assert (record.state, record.pid, record.exit_code) == ("running", pid, None)
        assert record.keeper_id == keeper.keeper_id
        (tmp_path / "fifo").write_text("on\n")
        exited = await event_of(keeper, "cmd_1")
    assert (exited.exit_code, exited.stdout_bytes) == (9, 3)
    async with open_keeper(state_dir) as keeper:
        record = keeper.records["cmd_1"]
    assert (record.state, record.pid, record.exit_code) == ("exited", pid, 9)


async def test_a_killed_keeper_leaves_ends_and_orphans_in_its_log(state_dir):
    async with quick_keeper(state_dir) as keeper:
        await run(keeper, "cmd_ended", "sh", "-c", "exit 6")
        running = await start(keeper, "cmd_runs", "sleep", "300")
        dies = await start(keeper, "cmd_dies", "sleep", "300")
        first_id = keeper.keeper_id
        os.kill(keeper.pid, signal.SIGKILL)
        with pytest.raises(KeeperLost):
            await keeper.next_event()
    os.kill(dies.pid, signal.SIGKILL)
    try:
        await wait_until(lambda: not read_log(state_dir)["cmd_dies"].alive)
        check_orphans(read_log(state_dir), running.pid, first_id)
        async with quick_keeper(state_dir) as keeper:
            assert keeper.keeper_id != first_id
            check_orphans(keeper.records, running.pid, first_id)
            await keeper.start(id="cmd_runs", argv=["true"])  # never a second start
            assert isinstance(await event_of(keeper, "cmd_runs"), Record)
            started, _ = await run(keeper, "cmd_new", "true")
            assert started.slot > max(running.slot, dies.slot)
    finally:
        os.kill(running.pid, signal.SIGKILL)


def check_orphans(records: dict[str, Record], pid: int, keeper_id: str) -> None:
    ended, runs, dies = (records[f"cmd_{name}"] for name in ("ended", "runs", "dies"))
    assert (ended.state, ended.exit_code) == ("exited", 6)
    assert (runs.state, runs.alive, runs.pid) == ("orphaned", True, pid)
    assert (dies.state, dies.alive) == ("orphaned", False)
    assert runs.keeper_id == keeper_id


async def test_a_new_keeper_removes_only_the_files_of_nobody(state_dir):
    async with quick_keeper(state_dir) as keeper:
        kept, _ = await run(keeper, "cmd_1", "echo", "kept")
    output = state_dir / "keeper/output"
    (output / "junk").touch()
    for folder in (output / "99.pty", state_dir / "elsewhere"):
        folder.mkdir()
        (folder / "0").write_text("kept" if folder.parent == state_dir else "left")
    (output / "98.pty").symlink_to(state_dir / "elsewhere")
    async with quick_keeper(state_dir) as keeper:
        names = {path.name for path in output.iterdir()}
        assert {f"{kept.slot}.out", f"{kept.slot}.err"} <= names
        assert not {"junk", "98.pty", "99.pty"} & names
        assert (state_dir / "elsewhere/0").read_text() == "kept"
        assert (state_dir / f"keeper/output/{kept.slot}.out").read_text() == "kept\n"


async def test_two_keepers_never_have_one_directory(state_dir):
    async with keeper_process(state_dir) as first, keeper_process(state_dir) as second:
        assert await trio.to_thread.run_sync(second.wait) == ALREADY_KEPT
        said = second.stderr.read().decode()
        assert f"process {first.pid} is the keeper of {state_dir} already" in said
        assert first.poll() is None


async def test_a_new_agent_replaces_the_old_one(state_dir):
    async with quick_keeper(state_dir) as old, open_keeper(state_dir) as new:
        with pytest.raises(KeeperLost):
            await old.next_event()
        await run(new, "cmd_1", "true")


async def test_a_state_directory_may_be_deeper_than_a_socket_address(state_dir):
    deep = state_dir / ("d" * 100) / ("e" * 100)
    async with open_keeper(deep) as keeper:
        await run(keeper, "cmd_1", "true")


GARBAGE = [
    b"\n",
    b"\xff\xfe\n",
    b"null\n",
    b"[]\n",
    b"{}\n",
    b'{"do":"dance"}\n',
    b'{"do":["start"]}\n',
    b'{"do":"start"}\n',
    b'{"do":"start","id":"../../x","argv":["true"]}\n',
    b'{"do":"start","id":"cmd_x","argv":[]}\n',
    b'{"do":"start","id":"cmd_x","argv":"true"}\n',
    b'{"do":"start","id":"cmd_x","argv":["true"],"env":{"A":1}}\n',
    b'{"do":"start","id":"cmd_x","argv":["true"],"stdin":"%"}\n',
    b'{"do":"start","id":"cmd_x","argv":["true"],"timeout_ms":true}\n',
    b'{"do":"start","id":"cmd_x","argv":["true"],"timeout_ms":1e999}\n',
    b'{"do":"start","id":"cmd_x","argv":["true"],"timeout_ms":' + b"9" * 5000 + b"}\n",
    b'{"do":"forget","ids":[{}]}\n',
    b'{"do":"cancel"}\n',
    b"[" * 100_000 + b"\n",
    b"x" * (1024 * 1024 + 70_000),
]


@pytest.mark.parametrize("line", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_ends_the_connection_and_nothing_else(state_dir, line):
    async with keeper_process(state_dir):
        async with open_keeper(state_dir) as keeper:
            running = await start(keeper, "cmd_runs", "sleep", "300")
            with suppress(trio.BrokenResourceError):  # dropped before it has read all
                await keeper._stream.send_all(line)
            with pytest.raises(KeeperLost), trio.fail_after(10):
                await keeper.next_event()
        async with open_keeper(state_dir) as keeper:
            assert keeper.records["cmd_runs"].pid == running.pid
            assert set(keeper.records) == {"cmd_runs"}
            await keeper.cancel("cmd_runs")
            await event_of(keeper, "cmd_runs")


async def test_a_lone_surrogate_is_no_word_of_a_command(state_dir):
    async with quick_keeper(state_dir) as keeper:
        line = b'{"do":"start","id":"cmd_1","argv":["true","\\ud800"]}\n'
        await keeper._stream.send_all(line)
        refused = await event_of(keeper, "cmd_1")
    assert refused.code == "exec_failed"


async def test_an_agent_that_does_not_read_is_dropped_and_commands_end(state_dir):
    async with keeper_process(state_dir) as process:
        async with open_keeper(state_dir):
            pass  # it listens
        with socket.socket(socket.AF_UNIX) as silent:
            folder = os.open(state_dir / "keeper", os.O_PATH)
            silent.connect(f"/proc/self/fd/{folder}/keeper.sock")
            os.close(folder)
            silent.settimeout(10)
            request = b'{"do":"start","id":"cmd_1","argv":["no-such"],"cwd":null}\n'
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                send_for_ever(silent, request * 100)
        async with open_keeper(state_dir) as keeper:
            assert keeper.records["cmd_1"].state == "refused"
            await run(keeper, "cmd_2", "true")
        assert process.poll() is None


def send_for_ever(connection: socket.socket, data: bytes) -> None:
    while True:
        connection.sendall(data)


async def test_an_agent_far_behind_learns_of_every_command(state_dir):
    log = [b'{"event":"refused","id":"cmd_%d","code":"x","message":"y"}' % n for n in range(20_000)]
    write_log(state_dir, log)
    async with quick_keeper(state_dir) as keeper:
        assert len(keeper.records) == 20_000
        await run(keeper, "cmd_new", "true")


def write_log(state_dir: Path, lines: list[bytes]) -> None:
    (state_dir / "keeper").mkdir(parents=True)
    sealed = b"".join(b"%08x %s\n" % (zlib.crc32(line), line) for line in lines)
    (state_dir / "keeper/keeper.log").write_bytes(sealed)


async def test_a_keeper_with_nothing_to_keep_ends_and_its_records_stay(state_dir):
    async with keeper_process(state_dir, idle_exit=0.2) as process:
        async with open_keeper(state_dir) as keeper:
            await start(keeper, "cmd_1", "sh", "-c", "sleep 0.5; exit 8")
        await wait_until(lambda: process.poll() is not None)
        assert process.returncode == 0
        assert not (state_dir / "keeper/keeper.sock").exists()
    assert (read_log(state_dir)["cmd_1"].state, read_log(state_dir)["cmd_1"].exit_code) == (
        "exited",
        8,
    )


async def test_sigterm_ends_a_keeper_only_when_no_command_lives(state_dir):
    async with keeper_process(state_dir) as process:
        async with open_keeper(state_dir) as keeper:
            await start(keeper, "cmd_1", "sleep", "300")
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                process.send_signal(number)
            said = await trio.to_thread.run_sync(process.stderr.readline)
            assert b"SIGTERM ignored: 1 command" in said
            await keeper.cancel("cmd_1")
            await event_of(keeper, "cmd_1")
            process.terminate()
            with pytest.raises(KeeperLost), trio.fail_after(10):
                await keeper.next_event()
        assert await trio.to_thread.run_sync(process.wait) == 0


async def test_a_keeper_whose_directory_is_gone_ends(state_dir):
    async with keeper_process(state_dir) as process:
        async with open_keeper(state_dir) as keeper:
            await start(keeper, "cmd_1", "sleep", "300", timeout_ms=200)  # it looks up then
        state_dir.rename(state_dir.with_name("elsewhere"))
        await wait_until(lambda: process.poll() is not None)
        assert process.returncode == 0
