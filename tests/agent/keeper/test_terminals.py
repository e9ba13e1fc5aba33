"""Terminals: what runs in one, what it shows, what is typed into it, and how it ends."""

import itertools
import os
import pwd
import resource
import signal
import socket
from pathlib import Path

import pytest
import trio

from cmdop_appliance.agent.keeper_client import (
    Exited,
    KeeperLost,
    Record,
    Started,
    Taken,
    Written,
    kept_screen,
    open_keeper,
    output_path,
    read_log,
    read_screen,
)
from cmdop_appliance.protocol.terminals import Size
from tests.agent.keeper.running import (
    commands_of,
    event_of,
    keeper_process,
    quick_keeper,
    refusal,
    run,
    start,
    wait_until,
)

SIZE = Size(cols=80, rows=24)
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start as another user")
ALICE, BOB = "a" * 32, "b" * 32


async def open_terminal(keeper, terminal_id: str, *argv: str, **options) -> Started:
    """Start a terminal that must start."""
    return await start(keeper, terminal_id, *argv, pty=SIZE, is_terminal=True, **options)


async def of_kind(keeper, kind, terminal_id: str):
    """The next event of this kind; others in between are dropped."""
    with trio.fail_after(20):
        while not isinstance(event := await event_of(keeper, terminal_id), kind):
            pass
    return event


def screen(state_dir: Path, slot: int) -> bytes:
    """All that is kept."""
    found = bytearray()
    at, end = kept_screen(state_dir, slot)
    while at < end:
        at, data = read_screen(state_dir, slot, at, 100_000)
        found += data
        at += len(data)
    return bytes(found)


async def shown(state_dir: Path, started: Started, text: bytes) -> bytes:
    """The screen, once it shows this."""
    await wait_until(lambda: text in screen(state_dir, started.slot))
    return screen(state_dir, started.slot)


def terminal_files(pid: int) -> list[Path]:
    """What a process has open of terminals, or of files that are gone."""
    paths = [fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir()]
    return [each for each in paths if {"ptmx", "pts"} & {*each.parts} or "(deleted)" in each.name]


# ── what runs in it ──────────────────────────────────────────────────────────────────────────


async def test_what_runs_in_a_terminal_leads_its_session_and_has_it_as_its_own(state_dir):
    script = "ps -o sess=,tpgid=,tty= -p $$; tty; stty size; echo $TERM; exec sh -i"
    async with quick_keeper(state_dir) as keeper:
        started = await open_terminal(keeper, "term_1", "sh", "-c", script, env={"PS1": "ready "})
        lines = (await shown(state_dir, started, b"ready")).split(b"\r\n")
        await keeper.cancel("term_1")
        await of_kind(keeper, Exited, "term_1")
    session, group, name = lines[0].split()
    assert int(session) == int(group) == started.pid
    assert lines[1:4] == [b"/dev/" + name, b"24 80", b"xterm-256color"]
    assert lines[4].strip() == b"ready"  # and no "can't access tty; job control turned off"


async def test_an_empty_argv_is_the_login_shell(state_dir, monkeypatch):
    for name in ("HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE"):
        monkeypatch.delenv(name, raising=False)
    account = pwd.getpwuid(os.geteuid())
    async with quick_keeper(state_dir) as keeper:
        started = await open_terminal(keeper, "term_1", env={"ENV": "", "CMDOP_OPERATOR": "me"})
        process = Path(f"/proc/{started.pid}")
        await wait_until(lambda: "CMDOP_COMMAND_ID=term_1\0" in (process / "environ").read_text())
        assert (process / "cmdline").read_text() == f"-{Path(account.pw_shell).name}\0"
        assert (process / "cwd").readlink() == Path(account.pw_dir)
        environ = dict(
            item.split("=", 1) for item in (process / "environ").read_text().split("\0")[:-1]
        )
        await keeper.cancel("term_1")
        await of_kind(keeper, Exited, "term_1")
    expected = {"HOME": account.pw_dir, "USER": account.pw_name, "SHELL": account.pw_shell}
    expected |= {"LOGNAME": account.pw_name, "LANG": "C.UTF-8", "TERM": "xterm-256color"}
    expected |= {"CMDOP_OPERATOR": "me", "CMDOP_COMMAND_ID": "term_1"}
    assert expected.items() <= environ.items()


async def test_what_the_environment_says_goes_before(state_dir, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("HOME", "/elsewhere")
    env = {"TERM": "dumb", "LANG": ""}
    async with quick_keeper(state_dir) as keeper:
        script = 'echo "$TERM $HOME $LC_ALL [$LANG]"'
        started = await open_terminal(keeper, "term_1", "sh", "-c", script, env=env)
        await of_kind(keeper, Exited, "term_1")
    assert screen(state_dir, started.slot) == b"dumb /elsewhere C []\r\n"


@AS_ROOT
async def test_another_users_terminal_is_his(state_dir):
    script = 'id -un; stat -c %U "$(tty)"; echo > /dev/tty; ps -o tpgid= -p $$; echo $$'
    async with quick_keeper(state_dir) as keeper:
        started = await open_terminal(keeper, "term_1", "sh", "-c", script, user="nobody")
        await of_kind(keeper, Exited, "term_1")
    lines = screen(state_dir, started.slot).split()
    assert lines[:2] == [b"nobody", b"nobody"]
    assert lines[2] == lines[3]


async def test_what_cannot_start_leaves_no_terminal_behind(state_dir):
    async with quick_keeper(state_dir) as keeper:
        refused = await refusal(keeper, "term_1", "no-such", pty=SIZE, is_terminal=True)
        assert terminal_files(keeper.pid) == []
        started, _ = await run(keeper, "cmd_1", "echo", "x")  # in the slot that was not used
        assert output_path(state_dir, started.slot, "stdout").read_text() == "x\n"
    assert refused.message == "cannot start no-such: no such file or directory"


# ── typing and looking ───────────────────────────────────────────────────────────────────────


async def test_what_is_typed_is_echoed_and_read(state_dir):
    async with quick_keeper(state_dir) as keeper:
        script = 'read line; echo "got $line"'
        started = await open_terminal(keeper, "term_1", "sh", "-c", script)
        await keeper.type("term_1", ALICE, 0, b"gr\xc3\xbc\x7f\x7f\x7f")
        assert await of_kind(keeper, Taken, "term_1") == Taken("term_1", ALICE, 7)
        await keeper.type("term_1", ALICE, 7, b"hello\r")
        exited = await of_kind(keeper, Exited, "term_1")
    # It erases characters, not bytes: of three there were only two and a half.
    assert screen(state_dir, started.slot).startswith(b"gr\xc3\xbc" + 3 * b"\b \b" + b"hello\r\n")
    assert screen(state_dir, started.slot).endswith(b"got hello\r\n")
    assert exited.stdout_bytes == len(screen(state_dir, started.slot))


async def test_a_new_size_reaches_the_program(state_dir):
    script = 'trap "stty size; exit" WINCH; echo ready; while :; do sleep 0.01; done'
    async with quick_keeper(state_dir) as keeper:
        started = await open_terminal(keeper, "term_1", "sh", "-c", script)
        await shown(state_dir, started, b"ready")
        await keeper.resize("term_1", 132, 50)
        await of_kind(keeper, Exited, "term_1")
        await keeper.resize("term_1", 10, 10)  # it has ended: nothing happens
        async with open_keeper(state_dir) as again:
            record = again.records["term_1"]
    assert screen(state_dir, started.slot).endswith(b"50 132\r\n")
    assert (record.cols, record.rows, record.is_terminal) == (132, 50, True)


async def test_a_watch_is_answered_once_when_there_is_more(state_dir):
    async with quick_keeper(state_dir) as keeper:
        started = await open_terminal(keeper, "term_1", "cat")
        await keeper.watch("term_1", 0)
        await keeper.watch("term_1", 3)
        await keeper.type("term_1", ALICE, 0, b"abc")
        events = [await event_of(keeper, "term_1") for _ in range(2)]
        assert set(events) == {Taken("term_1", ALICE, 3), Written("term_1", 3)}
        await keeper.watch("term_1", 2)  # there is more already
        assert await event_of(keeper, "term_1") == Written("term_1", 3)
        await keeper.type("term_1", ALICE, 3, b"def")
        assert await event_of(keeper, "term_1") == Taken("term_1", ALICE, 6)
        await wait_until(lambda: kept_screen(state_dir, started.slot)[1] == 6)
        await keeper.cancel("term_1")
        assert isinstance(await event_of(keeper, "term_1"), Exited)


async def test_what_an_agent_that_is_gone_watched_is_not_told_to_the_next(state_dir):
    async with keeper_process(state_dir):
        async with open_keeper(state_dir) as keeper:
            await open_terminal(keeper, "term_1", "cat")
            await keeper.watch("term_1", 0)
            await run(keeper, "cmd_1", "true")
        async with open_keeper(state_dir) as keeper:
            await keeper.type("term_1", ALICE, 0, b"abc")
            assert await event_of(keeper, "term_1") == Taken("term_1", ALICE, 3)
            await wait_until(lambda: kept_screen(state_dir, keeper.records["term_1"].slot)[1] == 3)
            await keeper.cancel("term_1")
            assert isinstance(await event_of(keeper, "term_1"), Exited)


async def test_keys_are_typed_once_whatever_an_agent_that_died_had_sent(state_dir):
    async with keeper_process(state_dir):
        async with open_keeper(state_dir) as keeper:
            started = await open_terminal(keeper, "term_1", "sh", "-c", "stty -echo; echo -; cat")
            await shown(state_dir, started, b"-")
            await keeper.type("term_1", ALICE, 0, b"one ")
            await keeper.type("term_1", ALICE, 4, b"two ")
            # Nobody has read what came of it.
        async with open_keeper(state_dir) as keeper:
            await keeper.type("term_1", ALICE, 4, b"two three")  # overlaps
            assert await of_kind(keeper, Taken, "term_1") == Taken("term_1", ALICE, 13)
            await keeper.type("term_1", ALICE, 0, b"one ")  # a duplicate
            assert await of_kind(keeper, Taken, "term_1") == Taken("term_1", ALICE, 13)
            await keeper.type("term_1", ALICE, 8, b"three")  # the last again
            assert await of_kind(keeper, Taken, "term_1") == Taken("term_1", ALICE, 13)
            await keeper.type("term_1", ALICE, 14, b"!")  # behind a gap
            assert await of_kind(keeper, Taken, "term_1") == Taken("term_1", ALICE, 13)
            await keeper.type("term_1", BOB, 0, b".\n")  # another counts for himself
            assert await of_kind(keeper, Taken, "term_1") == Taken("term_1", BOB, 2)
            await shown(state_dir, started, b".")
            await keeper.cancel("term_1")
            await of_kind(keeper, Exited, "term_1")
    assert screen(state_dir, started.slot) == b"-\r\none two three.\r\n"


async def test_what_a_program_does_not_read_waits_in_bounds_and_arrives_whole(state_dir, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    paste = b"".join(b"%07d\n" % number for number in range(200_000))
    # Raw, so that the terminal itself drops nothing of a long line.
    script = 'stty raw -echo; echo ready; read go < "$0"; exec head -c 1600000 > "$0.out"'
    async with quick_keeper(state_dir) as keeper:
        fifo = str(tmp_path / "fifo")
        started = await open_terminal(keeper, "term_1", "sh", "-c", script, fifo)
        await shown(state_dir, started, b"ready")
        await run(keeper, "cmd_1", "true")
        before = memory_of(keeper.pid)
        for at in range(0, len(paste), 16_000):
            await keeper.type("term_1", ALICE, at, paste[at : at + 16_000])
        await run(keeper, "cmd_2", "true")  # it waits for nobody
        assert memory_of(keeper.pid) - before < 800_000
        await trio.to_thread.run_sync(Path(fifo).write_text, "go\n")
        at = 0
        while at < len(paste):
            await keeper.type("term_1", ALICE, at, paste[at : at + 16_000])
            at = (await of_kind(keeper, Taken, "term_1")).offset
        await of_kind(keeper, Exited, "term_1")
    assert Path(f"{fifo}.out").read_bytes() == paste


def memory_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


async def test_a_flood_of_one_terminal_leaves_the_others_quick_and_the_keeper_small(state_dir):
    async with quick_keeper(state_dir) as keeper:
        await open_terminal(keeper, "term_1", "cat")
        flood = await open_terminal(keeper, "term_2", "yes")
        await wait_until(lambda: kept_screen(state_dir, flood.slot)[1] > 1_000_000)
        before = memory_of(keeper.pid)
        for number in range(100):
            await keeper.watch("term_1", number)
            await keeper.type("term_1", ALICE, number, b"x")
            await of_kind(keeper, Written, "term_1")
        assert memory_of(keeper.pid) - before < 1_000_000
        await keeper.type("term_2", ALICE, 0, b"\x03")
        exited = await of_kind(keeper, Exited, "term_2")
        await keeper.cancel("term_1")
        await of_kind(keeper, Exited, "term_1")
    assert exited.signal == "SIGINT"


# ── its output ───────────────────────────────────────────────────────────────────────────────


async def test_the_last_mebibyte_can_be_shown_again_from_any_offset(state_dir):
    lines = b"".join(b"%07d\r\n" % number for number in range(300_000))
    async with quick_keeper(state_dir) as keeper:
        script = "seq -f %07.0f 0 299999"
        started = await open_terminal(keeper, "term_1", "sh", "-c", script)
        exited = await of_kind(keeper, Exited, "term_1")
    begin, end = kept_screen(state_dir, started.slot)
    assert exited.stdout_bytes == end == len(lines)
    assert 1024 * 1024 <= end - begin <= 2 * 1024 * 1024
    assert screen(state_dir, started.slot) == lines[begin:]
    assert read_screen(state_dir, started.slot, 0, 10) == (begin, lines[begin : begin + 10])
    assert read_screen(state_dir, started.slot, end - 3, 10) == (end - 3, lines[-3:])
    assert read_screen(state_dir, started.slot, end, 10) == (end, b"")


@pytest.mark.parametrize("size", [1, 4095, 20_000, 200_000])
async def test_what_was_written_when_the_leader_ended_is_all_there(state_dir, size):
    async with quick_keeper(state_dir) as keeper:
        script = f'trap "" HUP; sleep 300 & head -c {size} /dev/zero'  # one has it open still
        started = await open_terminal(keeper, "term_1", "sh", "-c", script)
        exited = await of_kind(keeper, Exited, "term_1")
        assert exited.exit_code == 0
        await wait_until(lambda: len(commands_of(state_dir)) == 1)
        (sleeper,) = commands_of(state_dir)
        os.kill(sleeper, signal.SIGKILL)
    assert exited.stdout_bytes == size
    assert screen(state_dir, started.slot) == bytes(size)


async def test_a_background_child_that_floods_does_not_hold_up_the_end(state_dir):
    async with quick_keeper(state_dir) as keeper:
        script = "trap '' HUP; yes & exit 4"
        await open_terminal(keeper, "term_1", "sh", "-c", script)
        exited = await of_kind(keeper, Exited, "term_1")
        await wait_until(lambda: commands_of(state_dir) == [])  # it can write no more
        await run(keeper, "cmd_1", "sleep", "0.1")
    assert exited.exit_code == 4


async def test_a_program_that_leaves_its_terminal_may_come_back(state_dir):
    script = 'tty=$(tty); exec <&- >&- 2>&-; read go < "$0"; echo back > $tty; sleep 300'
    async with quick_keeper(state_dir) as keeper:
        fifo = state_dir / "fifo"
        os.mkfifo(fifo)
        started = await open_terminal(keeper, "term_1", "sh", "-c", script, str(fifo))
        await trio.to_thread.run_sync(fifo.write_text, "go\n")
        await shown(state_dir, started, b"back")
        await keeper.cancel("term_1")
        await of_kind(keeper, Exited, "term_1")


async def test_a_forgotten_terminal_leaves_nothing(state_dir):
    async with quick_keeper(state_dir) as keeper:
        for number in range(3):  # each may be given the descriptors of the one before
            terminal_id = f"term_{number}"
            started = await open_terminal(keeper, terminal_id, "echo", "x")
            await of_kind(keeper, Exited, terminal_id)
            assert screen(state_dir, started.slot) == b"x\r\n"
            await keeper.forget([terminal_id])
            await run(keeper, f"cmd_{number}", "true")
            assert not list((state_dir / "keeper/output").glob(f"{started.slot}.*"))
            assert kept_screen(state_dir, started.slot) == (0, 0)
            assert read_screen(state_dir, started.slot, 1, 10) == (1, b"")
        assert terminal_files(keeper.pid) == []


# ── its end ──────────────────────────────────────────────────────────────────────────────────


async def test_an_interactive_shell_and_its_jobs_end_at_once(state_dir):
    env = {"PS1": "ready ", "HISTFILE": ""}
    async with quick_keeper(state_dir, kill_grace=60) as keeper:
        argv = ["bash", "--norc", "-i"]
        started = await open_terminal(keeper, "term_1", *argv, env=env)
        await shown(state_dir, started, b"ready")
        jobs = b"sleep 300 & (trap '' HUP; sleep 300) & trap '' TERM; sleep 300\r"
        await keeper.type("term_1", ALICE, 0, jobs)
        await wait_until(lambda: len(commands_of(state_dir)) >= 4)
        await keeper.cancel("term_1")
        exited = await of_kind(keeper, Exited, "term_1")
        assert commands_of(state_dir) == []
    assert (exited.end, exited.exit_code, exited.killed) == ("cancelled", None, "SIGTERM")


async def test_what_runs_in_front_of_a_shell_hears_of_the_end_as_soon_as_that(state_dir):
    job = "(trap '' TERM; trap 'echo bye; exit' HUP; echo ready; while :; do sleep 0.01; done)"
    script = f"set -m; trap : HUP TERM; {job} & until wait; do :; done"
    async with quick_keeper(state_dir, kill_grace=60) as keeper:
        started = await open_terminal(keeper, "term_1", "bash", "-c", script)
        await shown(state_dir, started, b"ready")
        await keeper.cancel("term_1")
        await of_kind(keeper, Exited, "term_1")
    assert b"bye\r\n" in screen(state_dir, started.slot)


async def test_a_stubborn_terminal_is_killed(state_dir):
    async with quick_keeper(state_dir) as keeper:
        script = 'trap "" HUP TERM; echo ready; sleep 300'
        started = await open_terminal(keeper, "term_1", "sh", "-c", script)
        await shown(state_dir, started, b"ready")
        await keeper.cancel("term_1")
        exited = await of_kind(keeper, Exited, "term_1")
    assert (exited.end, exited.killed) == ("cancelled", "SIGKILL")


async def test_a_terminal_is_ended_when_nobody_types_and_nobody_is_there(state_dir):
    async with quick_keeper(state_dir) as keeper:
        for name in ("typed", "touched", "left"):
            await open_terminal(keeper, f"term_{name}", "cat", idle_ms=1500)
        ends = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay, keeper)
            with trio.fail_after(10):
                while not isinstance(event := await keeper.next_event(), Exited):
                    pass
            ends.append((event.id, event.end, event.exit_code))
            nursery.cancel_scope.cancel()
        for name in ("typed", "touched"):
            await keeper.cancel(f"term_{name}")
            exited = await of_kind(keeper, Exited, f"term_{name}")
            ends.append((exited.id, exited.end, exited.exit_code))
    assert ends == [
        ("term_left", "idle", None),
        ("term_typed", "cancelled", None),
        ("term_touched", "cancelled", None),
    ]


async def stay(keeper) -> None:
    for number in itertools.count():
        await keeper.type("term_typed", ALICE, number, b"x")
        await keeper.touch("term_touched")
        await trio.sleep(0.03)


async def test_a_killed_keeper_leaves_an_orphan_that_says_it_was_a_terminal(state_dir):
    async with quick_keeper(state_dir) as keeper:
        started = await open_terminal(keeper, "term_1", "cat")
        os.kill(keeper.pid, signal.SIGKILL)
        with pytest.raises(KeeperLost), trio.fail_after(10):
            await keeper.next_event()
    await wait_until(lambda: not read_log(state_dir)["term_1"].alive)  # its terminal hung up
    record = read_log(state_dir)["term_1"]
    assert (record.state, record.slot) == ("orphaned", started.slot)
    assert (record.is_terminal, record.cols, record.rows) == (True, 80, 24)
    async with quick_keeper(state_dir) as keeper:
        assert isinstance(keeper.records["term_1"], Record)
        assert (state_dir / f"keeper/output/{started.slot}.pty").is_dir()


# ── commands that need a terminal ────────────────────────────────────────────────────────────


async def test_a_command_in_a_terminal_writes_its_stdout_there(state_dir):
    script = "test -t 0 && test -t 1 && test -t 2 && stty size && echo err >&2; exit 3"
    async with quick_keeper(state_dir) as keeper:
        started, exited = await run(keeper, "cmd_1", "sh", "-c", script, pty=SIZE)
    output = output_path(state_dir, started.slot, "stdout").read_bytes()
    assert output == b"24 80\r\nerr\r\n"
    assert "cols" not in (state_dir / "keeper/keeper.log").read_text()  # an older agent reads it
    assert (exited.exit_code, exited.stdout_bytes, exited.stderr_bytes) == (3, len(output), 0)


@pytest.mark.parametrize("stdin", [None, b"", b"line\n", b"no line", b"line\n" * 40_000])
async def test_what_it_is_given_is_typed_and_ends(state_dir, stdin):
    async with quick_keeper(state_dir) as keeper:
        started, _ = await run(keeper, "cmd_1", "cat", stdin=stdin, pty=SIZE)
    output = output_path(state_dir, started.slot, "stdout").read_bytes()
    assert output == (stdin or b"").replace(b"\n", b"\r\n")  # once: it is not echoed


async def test_a_long_output_of_it_is_whole(state_dir):
    async with quick_keeper(state_dir) as keeper:
        started, exited = await run(keeper, "cmd_1", "seq", "100000", pty=SIZE)
    output = output_path(state_dir, started.slot, "stdout").read_bytes()
    assert output == b"".join(b"%d\r\n" % number for number in range(1, 100_001))
    assert exited.stdout_bytes == len(output)


async def test_its_end_waits_for_room_on_the_disk_for_its_output(state_dir):
    async with quick_keeper(state_dir) as keeper:
        limit_files(keeper.pid, 4096)
        started = await start(keeper, "cmd_1", "seq", "2000", pty=SIZE)
        await wait_until(lambda: not Path(f"/proc/{started.pid}").exists())
        await keeper.cancel("cmd_1")
        await run(keeper, "cmd_2", "true")  # before which nothing was told
        limit_files(keeper.pid, resource.RLIM_INFINITY)
        exited = await event_of(keeper, "cmd_1")
    output = output_path(state_dir, started.slot, "stdout").read_bytes()
    assert output == b"".join(b"%d\r\n" % number for number in range(1, 2001))
    assert (exited.end, exited.exit_code, exited.stdout_bytes) == ("exited", 0, len(output))


async def test_its_end_does_not_wait_for_room_for_ever(state_dir):
    async with keeper_process(state_dir, room_patience=0.1) as process:
        async with open_keeper(state_dir) as keeper:
            limit_files(keeper.pid, 4096)
            _, exited = await run(keeper, "cmd_1", "seq", "2000", pty=SIZE)
        assert exited.stdout_bytes == 4096
        said = await trio.to_thread.run_sync(process.stderr.readline)
    assert b"no room for the last output of cmd_1" in said


def limit_files(pid: int, size: int) -> None:
    """No file of this process can grow larger, as on a disk that is full."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def test_it_ends_as_other_commands_do(state_dir):
    script = 'trap "echo bye; exit 3" TERM; echo ready; while :; do sleep 0.01; done'
    async with quick_keeper(state_dir, kill_grace=60) as keeper:
        started = await start(keeper, "cmd_1", "sh", "-c", script, pty=SIZE)
        output = output_path(state_dir, started.slot, "stdout")
        await wait_until(lambda: output.read_text() == "ready\n")
        await keeper.type("cmd_1", ALICE, 0, b"\x03")  # nobody types into a command
        await keeper.cancel("cmd_1")
        exited = await event_of(keeper, "cmd_1")
    assert (exited.end, exited.killed) == ("cancelled", "SIGTERM")
    assert output.read_bytes().endswith(b"bye\r\n")
    assert exited.stdout_bytes == len(output.read_bytes())


async def test_an_agent_of_the_first_release_works_beside_terminals_and_takes_none_away(state_dir):
    """It knows none, and forgets what it does not know; so it is told of none."""
    async with quick_keeper(state_dir) as keeper:
        await open_terminal(keeper, "term_1", "sh", "-c", "read line; exit 7")
        await keeper.type("term_1", ALICE, 0, b"\r")
        await of_kind(keeper, Exited, "term_1")
        await open_terminal(keeper, "term_2", "cat")
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(state_dir / "keeper/keeper.sock"))
            first.settimeout(20)
            first.sendall(b'{"do":"start","id":"cmd_1","argv":["true"]}\n')
            told = b""
            while b"exited" not in told:
                told += first.recv(65536)
        assert b"term_" not in told
        async with open_keeper(state_dir) as again:
            assert {name: record.state for name, record in again.records.items()} == {
                "cmd_1": "exited",
                "term_1": "exited",
                "term_2": "running",
            }
            await again.cancel("term_2")
            await of_kind(again, Exited, "term_2")
