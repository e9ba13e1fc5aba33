"""Commands on real machines, as a caller of the API sees them: contract.md §4, semantics.md."""

import os
import pwd
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cmdop_appliance.agent.keeper.ending import KILL_GRACE_S
from tests.support.appliance import BASE_ENVIRONMENT, PATIENCE_S, is_alive, wait_for

BINARY_BYTES = 5 * 1024 * 1024
JSON_BYTES = 1024 * 1024  # contract.md §4: the most of a stream inside JSON
HUB_RSS_BYTES = 150 * 1024 * 1024  # idle it is below 80 MB; each 1 MiB excerpt costs a few more
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as another user")


def test_a_command_is_run_and_its_record_is_answered(api, machine):
    record = api.run(machine, "echo out; echo err >&2")
    assert (record["stdout"], record["stderr"]) == ("out\n", "err\n")
    assert (record["status"], record["exit_code"], record["signal"]) == ("completed", 0, None)
    assert record["created_at"] <= record["started_at"] <= record["finished_at"]
    assert record["duration"] >= 0
    assert api.get(f"/commands/{record['id']}") == record


def test_an_async_command_is_answered_while_it_runs(api, machine, tmp_path):
    gate = tmp_path / "gate"
    command = f"echo begun; until [ -e {gate} ]; do sleep 0.02; done; exit 3"
    begun = api.post("/commands/async", machine_id=machine, command=command)
    assert begun == {"id": begun["id"], "status": "running"}
    api.wait_output(begun["id"], "begun")
    running = api.get(f"/commands/{begun['id']}")
    assert running["status"] == "running"
    assert (running["exit_code"], running["finished_at"], running["duration"]) == (None,) * 3
    gate.touch()
    ended = api.wait_end(begun["id"])
    assert (ended["status"], ended["exit_code"]) == ("failed", 3)


def test_a_batch_runs_on_both_machines_and_names_the_one_that_is_not(api, fleet):
    nobody = "mach_01JZZZZZZZZZZZZZZZZZZZZZZZ"
    batch = api.post(
        "/commands/batch",
        machine_ids=[fleet.machine, fleet.other, nobody, fleet.machine],
        command="echo $CMDOP_COMMAND_ID; exit 4",
    )
    assert set(batch) == {fleet.machine, fleet.other, nobody}
    assert batch[nobody]["error"]["code"] == "machine_not_found"
    for machine_id in (fleet.machine, fleet.other):
        result = batch[machine_id]
        assert (result["status"], result["exit_code"]) == ("failed", 4)
        assert result["stdout"] == f"{result['id']}\n"
        assert result["machine_id"] == machine_id
        assert {"id", "status", "exit_code", "stdout", "stderr", "duration"} <= set(result)


@pytest.mark.slow
def test_outputs_of_two_hundred_concurrent_commands_never_mix(api, fleet):
    def pattern(number, stream):
        return f"<{stream} {number}>".encode() + bytes([number, 0xFE, 0xFF]) + b"\n"

    def command(number):
        octal = f"\\{number:03o}\\376\\377"
        return (
            f"yes \"$(printf '<out {number}>{octal}')\" | head -c 5000;"
            f" yes \"$(printf '<err {number}>{octal}')\" | head -c 3000 >&2"
        )

    def run(number):
        machine_id = (fleet.machine, fleet.other)[number % 2]
        return api.run(machine_id, command(number))["id"]

    numbers = range(30, 230)
    with ThreadPoolExecutor(len(numbers)) as callers:
        ids = list(callers.map(run, numbers))
    assert len(set(ids)) == len(numbers)
    for number, command_id in zip(numbers, ids, strict=True):
        for stream, size in (("stdout", 5000), ("stderr", 3000)):
            expected = pattern(number, stream[3:])
            whole = (expected * (size // len(expected) + 1))[:size]
            assert api.output(command_id, stream) == whole, (number, stream)


@pytest.mark.parametrize(
    ("command", "status", "exit_code", "signal"),
    [
        ("exit 0", "completed", 0, None),
        ("exit 7", "failed", 7, None),
        ("exit 137", "failed", 137, None),
        ("kill -9 $$", "failed", 137, "SIGKILL"),
        ("no-such-program", "failed", 127, None),
    ],
)
def test_an_end_is_told_as_it_was(api, machine, command, status, exit_code, signal):
    record = api.run(machine, command)
    assert (record["status"], record["exit_code"]) == (status, exit_code)
    assert record["signal"] == signal
    assert record["error"] is None


def test_cwd_env_and_stdin_reach_the_command(api, machine, tmp_path):
    tmp_path = tmp_path / "a folder"
    tmp_path.mkdir()
    record = api.run(
        machine,
        'pwd; printf "%s|" "$GREETING" "$EMPTY"; cat',
        cwd=str(tmp_path),
        env={"GREETING": "grüß 'dich' $HOME", "EMPTY": ""},
        stdin="line one\nno newline: é",
    )
    assert record["stdout"] == f"{tmp_path}\ngrüß 'dich' $HOME||line one\nno newline: é"
    assert record["cwd"] == str(tmp_path)


def test_without_stdin_there_is_nothing_to_read(api, machine):
    assert api.run(machine, "cat; echo done")["stdout"] == "done\n"


def test_in_a_terminal_both_streams_are_one_and_what_is_given_is_typed(api, machine):
    script = "test -t 0 && test -t 1 && test -t 2 && stty size; cat; echo err >&2; exit 5"
    record = api.run(machine, script, pty=True, stdin="typed\n")
    assert (record["status"], record["exit_code"]) == ("failed", 5)
    assert (record["stdout"], record["stderr"]) == ("24 80\r\ntyped\r\nerr\r\n", "")


def test_another_shell_can_be_asked_for(api, machine):
    record = api.run(machine, "import sys; print(sys.argv); sys.exit(5)", shell="python3 -c")
    assert (record["stdout"], record["exit_code"]) == ("['-c']\n", 5)


@needs_root
def test_a_command_runs_as_another_user_in_that_users_groups(api, machine):
    nobody = pwd.getpwnam("nobody")
    record = api.run(machine, "id -un; id -u; id -G; echo $USER $HOME", user="nobody")
    groups = " ".join(map(str, os.getgrouplist("nobody", nobody.pw_gid)))
    expected = f"nobody\n{nobody.pw_uid}\n{groups}\nnobody {nobody.pw_dir}\n"
    assert record["stdout"] == expected
    assert record["user"] == "nobody"


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"cwd": "/no/such/folder"}, "cwd_missing", "/no/such/folder"),
        ({"user": "no-such-user"}, "user_not_found", "no-such-user"),
        ({"shell": "/no/such/shell -c"}, "exec_failed", "/no/such/shell"),
    ],
)
def test_what_cannot_start_says_why(api, machine, fields, code, named):
    record = api.run(machine, "echo never", **fields)
    assert (record["status"], record["exit_code"], record["stdout"]) == ("failed", None, "")
    assert record["error"]["code"] == code
    assert named in record["error"]["message"]
    assert api.get(f"/commands/{record['id']}")["error"] == record["error"]


def test_a_timeout_keeps_what_was_printed(api, machine):
    record = api.run(machine, "echo partial; sleep 300", timeout=300)
    assert (record["status"], record["exit_code"]) == ("timeout", None)
    assert record["stdout"] == "partial\n"
    assert record["timeout"] == 300
    assert record["duration"] >= 300


@pytest.mark.slow
def test_cancel_and_timeout_leave_no_process_even_of_those_that_resist(api, machine, fleet):
    """The grace of 10 s is real here, so both run side by side."""
    stubborn = "trap '' TERM; echo $$; (setsid sleep 300 & echo $!); sleep 300"
    cancelled = api.start(machine, stubborn)
    timed_out = api.start(machine, stubborn, timeout=500)
    trees = {}
    for command_id in (cancelled, timed_out):
        wait_for(lambda c=command_id: api.output(c).count(b"\n") == 2, "both pids are printed")
        pids = [int(pid) for pid in api.output(command_id).split()]
        tree = [psutil.Process(pid) for pid in pids]
        trees[command_id] = tree + tree[0].children(recursive=True)
    assert api.delete(f"/commands/{cancelled}") == {"cancelled": True}
    assert api.delete(f"/commands/{cancelled}") == {"cancelled": True}  # the same again
    assert api.get(f"/commands/{cancelled}")["cancel_requested"] is True

    for command_id, status in ((cancelled, "cancelled"), (timed_out, "timeout")):
        record = api.wait_end(command_id)
        assert (record["status"], record["exit_code"]) == (status, None)
        assert record["signal"] == "SIGKILL"
        assert record["duration"] >= KILL_GRACE_S * 1000
        assert [process for process in trees[command_id] if is_alive(process)] == []
    marks = {f"CMDOP_COMMAND_ID={command_id}" for command_id in trees}
    assert not [pid for pid, variables in _environments() if marks & variables]
    assert fleet.agents[0].keeper.is_running()


def _environments():
    """(pid, its variables as NAME=value) of every process."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield entry.name, set((entry / "environ").read_text(errors="replace").split("\0"))


def test_a_command_that_obeys_a_cancel_is_cancelled_at_once(api, machine):
    command_id = api.start(machine, "echo begun; exec sleep 300")
    api.wait_output(command_id, "begun")
    api.delete(f"/commands/{command_id}")
    record = api.wait_end(command_id)
    assert (record["status"], record["signal"]) == ("cancelled", "SIGTERM")
    assert record["exit_code"] is None


def test_what_has_ended_cannot_be_cancelled(api, machine):
    record = api.run(machine, "true")
    answer = api.call("DELETE", f"/commands/{record['id']}")
    assert answer.status == 409
    assert answer.error["code"] == "command_not_running"
    assert answer.error["details"] == {"status": "completed"}
    assert api.get(f"/commands/{record['id']}") == record


def test_a_child_in_the_background_does_not_delay_the_end(api, machine):
    record = api.run(machine, "sleep 300 & echo $!", timeout=PATIENCE_S * 1000)
    child = psutil.Process(int(record["stdout"]))
    try:
        assert record["status"] == "completed"
        assert is_alive(child)
    finally:
        child.kill()


@pytest.fixture(scope="module")
def big(fleet, tmp_path_factory):
    """(id, bytes) of a command that printed them, and nothing that is text."""
    file = tmp_path_factory.mktemp("big") / "copy"
    command = f"head -c {BINARY_BYTES} /dev/urandom | tee {file}"
    record = fleet.api.run(fleet.machine, command)
    assert record["exit_code"] == 0
    return record["id"], file.read_bytes()


def test_large_binary_output_is_exact(api, big):
    command_id, content = big
    assert api.output(command_id) == content
    assert api.output(command_id, "stderr") == b""


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=1048570-1048590", 1048570, 1048591),
        ("bytes=5242870-", 5242870, BINARY_BYTES),
        ("bytes=-10", BINARY_BYTES - 10, BINARY_BYTES),
        ("bytes=5242870-99999999", 5242870, BINARY_BYTES),
    ],
)
def test_a_range_of_output_is_exact(api, big, asked, first, end):
    command_id, content = big
    answer = api.call("GET", f"/commands/{command_id}/output", headers={"Range": asked})
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/{BINARY_BYTES}"
    assert answer.headers["content-length"] == str(end - first)
    assert answer.body == content[first:end]


@pytest.mark.parametrize("asked", ["bytes=5242880-", "bytes=20-10", "bytes=-0"])
def test_a_range_beyond_the_output_is_refused(api, big, asked):
    answer = api.call("GET", f"/commands/{big[0]}/output", headers={"Range": asked})
    assert answer.status == 416
    assert answer.error["code"] == "range_not_satisfiable"
    assert answer.headers["content-range"] == f"bytes */{BINARY_BYTES}"


@pytest.mark.parametrize("asked", ["lines=1-2", "bytes=1-2,4-5", "bytes=x-", "bytes=-"])
def test_a_range_of_another_kind_is_passed_over(api, big, asked):
    """RFC 9110 §14.2: a server ignores a Range that it does not understand."""
    answer = api.call("GET", f"/commands/{big[0]}/output", headers={"Range": asked})
    assert answer.status == 200
    assert answer.body == big[1]


def test_output_is_read_from_an_offset(api, big):
    command_id, content = big
    path = f"/commands/{command_id}/output?offset="
    assert api.call("GET", path + "5242000").body == content[5242000:]
    assert api.call("GET", path + str(BINARY_BYTES)).body == b""
    assert api.call("GET", path + str(BINARY_BYTES + 1)).status == 416
    assert api.call("GET", path + "-1").status == 400


def test_json_shows_head_and_tail_of_large_output_and_says_so(api, big):
    command_id, content = big
    record = api.get(f"/commands/{command_id}")
    half = JSON_BYTES // 2
    assert record["stdout"] == (content[:half] + content[-half:]).decode(errors="replace")
    assert (record["stdout_bytes"], record["stderr_bytes"]) == (BINARY_BYTES, 0)
    assert (record["stdout_truncated"], record["stderr_truncated"]) == (True, False)
    assert (record["stdout_lossy"], record["stderr_lossy"]) == (True, False)


@pytest.mark.slow
def test_output_of_any_length_costs_the_hub_no_memory(api, machine, fleet):
    """One line of 200 MB, without a newline."""
    size = 200_000_000
    hub = psutil.Process(fleet.hub.pid)
    command_id = api.start(machine, f"head -c {size} /dev/zero | tr '\\0' x")
    most = 0
    path = f"/commands/{command_id}"

    def ended():
        nonlocal most
        most = max(most, hub.memory_info().rss)
        return api.get(path)["stdout_bytes"] == size

    wait_for(ended, "all of it is here")
    assert api.wait_end(command_id)["stdout_bytes"] == size
    assert most < HUB_RSS_BYTES
    assert api.call("GET", f"{path}/output", headers={"Range": "bytes=-4"}).body == b"xxxx"


def test_bytes_that_are_no_text_are_told_apart_from_text_that_looks_like_it(api, machine):
    record = api.run(machine, r"printf '\377'; printf '\357\277\275' >&2")
    assert (record["stdout"], record["stdout_lossy"]) == ("\ufffd", True)
    assert (record["stderr"], record["stderr_lossy"]) == ("\ufffd", False)
    assert api.output(record["id"]) == b"\xff"


def test_a_command_sees_nothing_of_ours_but_its_id_and_who_asked(api, machine):
    record = api.run(machine, "env")
    environment = dict(line.split("=", 1) for line in record["stdout"].splitlines())
    ours = {name: value for name, value in environment.items() if name.startswith("CMDOP")}
    assert ours == {"CMDOP_COMMAND_ID": record["id"], "CMDOP_OPERATOR": "admin@default"}
    shell = subprocess.run(
        ["/bin/sh", "-c", "env"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    from_shell = set(re.findall(r"^(\w+)=", shell.stdout, re.MULTILINE))
    assert set(environment) - set(ours) <= set(BASE_ENVIRONMENT) | from_shell
