import json
import os
import socket
import stat
from pathlib import Path

import pytest
import trio

from cmdop_appliance.agent.keeper.link import MAX_LINE_BYTES
from cmdop_appliance.agent.keeper.records import encode
from cmdop_appliance.agent.keeper_client import (
    Exited,
    KeeperLost,
    Record,
    Started,
    open_keeper,
    output_path,
)
from cmdop_appliance.errors import LocalProtocolError, StartupError, TerminalsNotSupported
from cmdop_appliance.protocol.terminals import Size
from tests.agent.keeper.running import clean_machine, cmdline, event_of, marked, run, wait_until


@pytest.fixture
def state_dir(tmp_path, monkeypatch):
    with clean_machine(tmp_path, monkeypatch) as path:
        yield path


async def test_a_keeper_is_started_once_and_found_again(state_dir):
    async with open_keeper(state_dir) as first:
        _, exited = await run(first, "cmd_1", "sh", "-c", "exit 7")
    async with open_keeper(state_dir) as second:
        assert (second.pid, second.keeper_id) == (first.pid, first.keeper_id)
        assert second.records["cmd_1"].exit_code == exited.exit_code == 7
    assert marked(state_dir) == [first.pid]


async def test_its_command_line_names_the_keeper_and_the_state_directory(state_dir):
    async with open_keeper(state_dir) as keeper:
        assert {"keeper", str(state_dir)} <= set(cmdline(keeper.pid))
        assert os.getsid(keeper.pid) == keeper.pid
        process = Path("/proc", str(keeper.pid))
        assert (process / "cwd").readlink() == state_dir / "keeper"
        descriptors = [(process / "fd" / str(fd)).readlink() for fd in range(3)]
    errors = state_dir / "keeper/keeper.err"
    assert descriptors == [Path(os.devnull), Path(os.devnull), errors]
    assert stat.S_IMODE(errors.stat().st_mode) == 0o600


async def test_agents_that_start_together_get_one_keeper(state_dir):
    pids = []

    async def connect() -> None:
        async with open_keeper(state_dir) as keeper:
            pids.append(keeper.pid)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(connect)
    assert len(pids) == 4
    assert len(set(pids)) == 1


async def test_a_keeper_that_cannot_start_says_why(state_dir):
    state_dir.mkdir()
    (state_dir / "keeper").mkdir()
    (state_dir / "keeper" / "keeper.log").mkdir()
    with trio.fail_after(10), pytest.raises(StartupError, match="IsADirectoryError"):
        async with open_keeper(state_dir):
            pass


async def test_the_next_call_after_a_kill_starts_a_new_keeper_and_leaves_no_zombie(state_dir):
    async with open_keeper(state_dir) as keeper:
        os.kill(keeper.pid, 9)
        with pytest.raises(KeeperLost):
            await keeper.next_event()
        with pytest.raises(KeeperLost):
            await keeper.cancel("cmd_1")
    async with open_keeper(state_dir) as again:
        assert again.pid != keeper.pid
    await wait_until(lambda: not Path(f"/proc/{keeper.pid}").exists())


async def test_tasks_may_send_side_by_side(state_dir):
    async with open_keeper(state_dir) as keeper, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(start_one, keeper, f"cmd_{number}", bytes(200_000))
        ends = {}
        with trio.fail_after(30):
            while len(ends) < 20:
                event = await keeper.next_event()
                if isinstance(event, Exited):
                    ends[event.id] = event.stdout_bytes
    assert set(ends.values()) == {200_000}


async def start_one(keeper, command_id: str, stdin: bytes) -> None:
    await keeper.start(id=command_id, argv=["cat"], stdin=stdin)


async def test_a_cancelled_wait_loses_no_event(state_dir):
    async with open_keeper(state_dir) as keeper:
        with trio.move_on_after(0):
            await keeper.next_event()
        await keeper.start(id="cmd_1", argv=["true"])
        with trio.move_on_after(0):
            await keeper.next_event()
        assert isinstance(await event_of(keeper, "cmd_1"), Started)


async def test_a_start_that_is_too_long_is_our_own_error_and_the_link_stays(state_dir):
    async with open_keeper(state_dir) as keeper:
        with pytest.raises(LocalProtocolError, match=f"at most {MAX_LINE_BYTES} bytes"):
            await keeper.start(id="cmd_1", argv=["cat"], stdin=bytes(MAX_LINE_BYTES))
        started, _ = await run(keeper, "cmd_2", "echo", "x")
    assert output_path(state_dir, started.slot, "stdout").read_text() == "x\n"
    assert output_path(state_dir, started.slot, "stderr").read_text() == ""


async def test_a_keeper_of_the_first_release_is_sent_no_terminal(state_dir):
    (state_dir / "keeper").mkdir(parents=True)
    hello = b'{"event":"hello","version":1,"keeper_id":"k","boot_id":"b","pid":1}\n'
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(state_dir / "keeper/keeper.sock"))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(greet, listener, hello + b'{"event":"ready"}\n')
            async with open_keeper(state_dir) as keeper:
                assert not keeper.has_pty
                with pytest.raises(TerminalsNotSupported, match="replaced when its commands"):
                    await keeper.start(id="cmd_1", argv=["true"], pty=Size())
    async with open_keeper(state_dir) as keeper:
        assert keeper.has_pty


async def test_what_ends_while_terminals_are_told_is_told_afterwards(state_dir):
    (state_dir / "keeper").mkdir(parents=True)
    hello = (
        b'{"event":"hello","version":1,"keeper_id":"k","boot_id":"b","pid":1,"features":["pty"]}'
    )
    ready = b'{"event":"ready"}'
    exited = json.dumps(
        {"event": "exited", "id": "cmd_1", "exit_code": 7, "signal": None, "end": "exited"}
        | {"duration_ms": 1, "stdout_bytes": 0, "stderr_bytes": 0, "killed": None}
    ).encode()
    record = encode(Record(id="term_1", state="running", is_terminal=True).as_event()).encode()

    async def keep(listener: socket.socket) -> None:
        connection, _ = await trio.to_thread.run_sync(listener.accept)
        with connection:
            connection.sendall(b"\n".join((hello, ready, b"")))
            asked = await trio.to_thread.run_sync(connection.recv, 100)
            assert json.loads(asked) == {"do": "terminals"}
            connection.sendall(b"\n".join((exited, record, ready, b"")))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(state_dir / "keeper/keeper.sock"))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep, listener)
            async with open_keeper(state_dir) as keeper:
                assert list(keeper.records) == ["term_1"]
                event = await keeper.next_event()
                assert isinstance(event, Exited)
                assert event.exit_code == 7


async def greet(listener: socket.socket, words: bytes) -> None:
    connection, _ = await trio.to_thread.run_sync(listener.accept)
    with connection:
        connection.sendall(words)
        assert not await trio.to_thread.run_sync(connection.recv, 1)  # nothing was asked
