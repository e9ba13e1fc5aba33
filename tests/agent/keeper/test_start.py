"""What a command gets, and how its end is told."""

import os
import signal
import stat
from pathlib import Path

import pytest

from cmdop_appliance.agent.keeper.environment import process_environment
from cmdop_appliance.agent.keeper_client import Record, open_keeper, output_path
from tests.agent.keeper.running import (
    MARK,
    event_of,
    keeper_process,
    quick_keeper,
    refusal,
    run,
    start,
    wait_until,
)

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start as another user")


def output_of(state_dir: Path, slot: int) -> str:
    return output_path(state_dir, slot, "stdout").read_text()


@pytest.mark.parametrize("code", [0, 1, 7, 127, 255])
async def test_the_exit_code_is_the_commands(state_dir, code):
    async with quick_keeper(state_dir) as keeper:
        _, exited = await run(keeper, "cmd_1", "sh", "-c", f"exit {code}")
    assert (exited.exit_code, exited.signal, exited.end, exited.killed) == (
        code,
        None,
        "exited",
        None,
    )


@pytest.mark.parametrize(("name", "shown"), [("KILL", "SIGKILL"), ("36", "SIGRTMIN+2")])
async def test_a_signal_that_ended_it_is_named(state_dir, name, shown):
    async with quick_keeper(state_dir) as keeper:
        _, exited = await run(keeper, "cmd_1", "sh", "-c", f"kill -{name} $$")
    assert (exited.exit_code, exited.signal, exited.end) == (None, shown, "exited")


async def test_both_streams_are_kept_byte_by_byte_and_apart(state_dir, tmp_path):
    out, err = bytes(range(256)) * 4096, bytes(reversed(range(256))) * 2048
    (tmp_path / "out").write_bytes(out)
    (tmp_path / "err").write_bytes(err)
    async with quick_keeper(state_dir) as keeper:
        script = 'cat "$0/out"; cat "$0/err" >&2'
        started, exited = await run(keeper, "cmd_1", "sh", "-c", script, str(tmp_path))
    assert output_path(state_dir, started.slot, "stdout").read_bytes() == out
    assert output_path(state_dir, started.slot, "stderr").read_bytes() == err
    assert (exited.stdout_bytes, exited.stderr_bytes) == (len(out), len(err))


async def test_outputs_of_commands_side_by_side_never_mix(state_dir):
    async with quick_keeper(state_dir) as keeper:
        slots = {}
        for number in range(64):  # more than the pool holds
            argv = ["sh", "-c", f"echo {number}; echo {number} >&2"]
            await keeper.start(id=f"cmd_{number}", argv=argv)
        ended = 0
        while ended < 64:
            event = await keeper.next_event()
            if hasattr(event, "slot"):
                slots[event.id] = event.slot
            else:
                ended += 1
    for number in range(64):
        for stream in ("stdout", "stderr"):
            path = output_path(state_dir, slots[f"cmd_{number}"], stream)
            assert path.read_text() == f"{number}\n"


async def test_stdin_is_the_given_bytes_and_nothing_without(state_dir):
    data = bytes(range(256)) * 1000
    async with quick_keeper(state_dir) as keeper:
        given, _ = await run(keeper, "cmd_1", "cat", stdin=data)
        nothing, exited = await run(keeper, "cmd_2", "cat")
    assert output_path(state_dir, given.slot, "stdout").read_bytes() == data
    assert exited.stdout_bytes == 0
    assert output_path(state_dir, nothing.slot, "stdout").read_bytes() == b""


async def test_the_environment_holds_what_was_there_and_nothing_of_ours(state_dir, monkeypatch):
    monkeypatch.setenv("CMDOP_API_KEY", "secret")
    monkeypatch.setenv("KEPT", "as it was")
    async with open_keeper(state_dir) as keeper:
        started, _ = await run(
            keeper, "cmd_1", "env", "-0", env={"EXTRA": "é ü", "CMDOP_OPERATOR": "me"}
        )
    got = dict(item.split("=", 1) for item in output_of(state_dir, started.slot).split("\0")[:-1])
    given = process_environment().items()
    expected = {name: value for name, value in given if name != "CMDOP_API_KEY"}
    expected |= {"EXTRA": "é ü", "CMDOP_OPERATOR": "me", "CMDOP_COMMAND_ID": "cmd_1"}
    assert got == expected
    assert got["KEPT"] == "as it was"
    assert got[MARK] == str(state_dir)


async def test_a_command_inherits_no_descriptor(state_dir):
    reader, writer = os.pipe()
    try:
        async with quick_keeper(state_dir, pass_fds=[writer]) as keeper:
            started, _ = await run(keeper, "cmd_1", "ls", "/proc/self/fd", stdin=b"x")
    finally:
        os.close(reader)
        os.close(writer)
    # The fourth is the directory that ls reads.
    assert output_of(state_dir, started.slot).split() == ["0", "1", "2", "3"]


async def test_a_command_leads_its_own_session_with_all_signals_at_their_default(state_dir):
    # From its /proc: a shell would have changed its own signals.
    script = "/proc/self/stat", "/proc/self/status"
    async with quick_keeper(state_dir) as keeper:
        started, _ = await run(keeper, "cmd_1", "cat", *script)
    words = output_of(state_dir, started.slot).split()
    assert words[4:6] == [str(started.pid)] * 2  # process group and session
    settable = sum(1 << (number - 1) for number in signal.valid_signals())
    for name in ("SigBlk:", "SigIgn:"):
        assert int(words[words.index(name) + 1], 16) & settable == 0


async def test_a_command_gets_the_original_umask_while_ours_are_private(state_dir):
    async with (
        keeper_process(state_dir, umask=0),
        open_keeper(state_dir) as keeper,
    ):
        started, _ = await run(keeper, "cmd_1", "sh", "-c", "umask")
        await wait_until(lambda: len(list((state_dir / "keeper/output").iterdir())) > 60)
    assert output_of(state_dir, started.slot) == "0000\n"
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
    for path in state_dir.rglob("*"):
        allowed = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == allowed, path


async def test_a_command_runs_where_it_is_told_and_else_at_home(state_dir, tmp_path):
    (tmp_path / "there").mkdir()
    async with quick_keeper(state_dir) as keeper:
        there, _ = await run(keeper, "cmd_1", "pwd", cwd=str(tmp_path / "there"))
        home, _ = await run(keeper, "cmd_2", "pwd")
    assert output_of(state_dir, there.slot) == f"{tmp_path / 'there'}\n"
    assert output_of(state_dir, home.slot) == f"{Path.home()}\n"


async def test_a_working_directory_that_is_no_utf8_is_found(state_dir, tmp_path):
    there = tmp_path / os.fsdecode(b"\xff")
    there.mkdir()
    async with quick_keeper(state_dir) as keeper:
        _, exited = await run(keeper, "cmd_1", "touch", "here", cwd=str(there))
    assert exited.exit_code == 0
    assert (there / "here").exists()


async def test_without_a_home_a_command_runs_in_the_root(state_dir, monkeypatch):
    monkeypatch.setenv("HOME", "/nonexistent")
    async with quick_keeper(state_dir) as keeper:
        started, _ = await run(keeper, "cmd_1", "pwd")
    assert output_of(state_dir, started.slot) == "/\n"


async def test_a_missing_working_directory_is_refused_and_the_next_command_is_not(state_dir):
    async with quick_keeper(state_dir) as keeper:
        refused = await refusal(keeper, "cmd_1", "true", cwd="/no/such")
        _, exited = await run(keeper, "cmd_2", "true")
    assert refused.code == "cwd_missing"
    assert refused.message == "working directory /no/such: no such file or directory"
    assert exited.exit_code == 0


async def test_the_program_is_looked_up_on_the_commands_own_path(state_dir, tmp_path):
    (tmp_path / "mine").write_text("#!/bin/sh\necho found\n")
    (tmp_path / "mine").chmod(0o755)
    async with quick_keeper(state_dir) as keeper:
        started, _ = await run(keeper, "cmd_1", "mine", env={"PATH": f"/no/such:{tmp_path}"})
        relative, _ = await run(keeper, "cmd_2", "./mine", cwd=str(tmp_path))
    assert output_of(state_dir, started.slot) == output_of(state_dir, relative.slot) == "found\n"


@pytest.mark.parametrize(
    ("argv", "options", "reason"),
    [
        (["no-such-program"], {}, "cannot start no-such-program: no such file or directory"),
        (["/etc/passwd"], {}, "cannot start /etc/passwd: permission denied"),
        (["passwd"], {"env": {"PATH": "/etc"}}, "cannot start passwd: permission denied"),
        (["/"], {}, "cannot start /: permission denied"),
        ([""], {}, "cannot start : "),
        (["true", "a\0b"], {}, "must not contain NUL"),
        (["true"], {"env": {"A=B": ""}}, "'A=B' cannot be an environment variable's name"),
        (["true"], {"env": {"A": "\0"}}, "must not contain NUL"),
        (["true"], {"cwd": "/\0"}, "must not contain NUL"),
        (["true", "x" * 200_000], {}, "cannot start true: argument list too long"),
    ],
)
async def test_what_cannot_be_executed_is_refused_with_the_reason(state_dir, argv, options, reason):
    async with quick_keeper(state_dir) as keeper:
        refused = await refusal(keeper, "cmd_1", *argv, **options)
    assert refused.code == "exec_failed"
    assert reason in refused.message


@pytest.mark.parametrize("user", ["no-such-user", "", "a\0b", "x" * 5000])
async def test_an_unknown_user_is_refused(state_dir, user):
    async with quick_keeper(state_dir) as keeper:
        refused = await refusal(keeper, "cmd_1", "true", user=user)
    assert refused.code == "user_not_found"
    assert len(refused.message) < 300


@AS_ROOT
async def test_a_command_runs_as_another_user_with_nothing_of_root(state_dir, tmp_path):
    script = "id -u; id -g; id -G; grep CapEff /proc/self/status; echo $HOME $USER $LOGNAME; env"
    async with quick_keeper(state_dir, extra_groups=[0, 4]) as keeper:
        started, exited = await run(keeper, "cmd_1", "sh", "-c", script, user="nobody")
        as_root, _ = await run(keeper, "cmd_2", "sh", "-c", "id -u", user="root")
    uid, gid, groups, _, effective, home, user, logname, *rest = output_of(
        state_dir, started.slot
    ).split()
    assert (uid, user, logname) == ("65534", "nobody", "nobody")
    assert groups == gid
    assert int(effective, 16) == 0
    assert home == "/nonexistent"
    assert "CMDOP_COMMAND_ID=cmd_1" in rest
    assert exited.exit_code == 0
    assert output_of(state_dir, as_root.slot) == "0\n"


@AS_ROOT
async def test_another_users_command_is_refused_like_ones_own(state_dir, tmp_path):
    tmp_path.chmod(0o700)
    async with quick_keeper(state_dir) as keeper:
        no_cwd = await refusal(keeper, "cmd_1", "true", user="nobody", cwd=str(tmp_path))
        no_exec = await refusal(keeper, "cmd_2", "no-such-program", user="nobody")
        _, exited = await run(keeper, "cmd_3", "sh", "-c", "exit 3", user="nobody")
    assert (no_cwd.code, no_exec.code) == ("cwd_missing", "exec_failed")
    assert no_cwd.message.endswith("permission denied")
    assert no_exec.message == "cannot start no-such-program: no such file or directory"
    assert exited.exit_code == 3


async def test_an_id_starts_once_and_its_record_answers_from_then_on(state_dir, tmp_path):
    argv = ["sh", "-c", 'echo x >> "$0"', str(tmp_path / "starts")]
    async with quick_keeper(state_dir) as keeper:
        await run(keeper, "cmd_1", *argv)
        await keeper.start(id="cmd_1", argv=argv)
        again = await event_of(keeper, "cmd_1")
        await refusal(keeper, "cmd_2", "no-such-program")
        await keeper.start(id="cmd_2", argv=argv)
        refused = await event_of(keeper, "cmd_2")
        await run(keeper, "cmd_3", "true")
    assert isinstance(again, Record)
    assert (again.state, again.exit_code) == ("exited", 0)
    assert isinstance(refused, Record)
    assert (refused.state, refused.code) == ("refused", "exec_failed")
    assert (tmp_path / "starts").read_text() == "x\n"


async def test_a_background_child_outlives_a_command_that_ended_by_itself(state_dir, tmp_path):
    async with quick_keeper(state_dir) as keeper:
        script = "sleep 300 & echo $!; exit 4"
        started, exited = await run(keeper, "cmd_1", "sh", "-c", script)
        child = int(output_of(state_dir, started.slot))
        assert exited.exit_code == 4
        await keeper.cancel("cmd_1")  # it has ended: nothing to end
        await run(keeper, "cmd_2", "true")
        assert parent_of(child) == keeper.pid  # which waits for orphans too: no zombie is left
        os.kill(child, signal.SIGKILL)
        await wait_until(lambda: not Path(f"/proc/{child}").exists())


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_what_was_written_when_the_leader_ended_is_its_size(state_dir, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with quick_keeper(state_dir) as keeper:
        script = 'echo early; (read line < "$0"; echo late) & exit 0'
        started, exited = await run(keeper, "cmd_1", "sh", "-c", script, str(fifo))
        fifo.write_text("go\n")
        await wait_until(lambda: "late" in output_of(state_dir, started.slot))
        assert exited.stdout_bytes == len("early\n")
        later, _ = await run(keeper, "cmd_2", "true")
        assert later.slot != started.slot


async def test_forgotten_commands_leave_no_record_and_no_file(state_dir):
    async with quick_keeper(state_dir) as keeper:
        started, _ = await run(keeper, "cmd_1", "echo", "x")
        running = await start(keeper, "cmd_2", "sleep", "300")
        await keeper.forget(["cmd_1", "cmd_2", "cmd_unknown"])
        await wait_until(lambda: not output_path(state_dir, started.slot, "stdout").exists())
        assert not output_path(state_dir, started.slot, "stderr").exists()
        async with open_keeper(state_dir) as again:
            assert list(again.records) == ["cmd_2"]  # what runs cannot be forgotten
            assert output_path(state_dir, running.slot, "stdout").exists()
            await again.cancel("cmd_2")
            await event_of(again, "cmd_2")
