"""The command line against a hub with a machine, all of it real."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

from tests.cli.served import client, served, swept, wait_until

PROGRAM = [sys.executable, "-m", "cmdop_appliance"]
HERE = os.uname().nodename


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The directory of a running hub."""
    with swept(tmp_path_factory.mktemp("hub")) as place, served(PROGRAM, place):
        yield place


def _environ(place, **more):
    return {"PATH": os.environ["PATH"], "CMDOP_DATA_DIR": str(place / "data"), **more}


def _cmdop(place, *args, **more):
    return subprocess.run(
        [*PROGRAM, *args],
        capture_output=True,
        text=True,
        cwd=place,
        env=_environ(place, **more),
        timeout=60,
        check=False,
    )


def _exec_started(place, script):
    """`cmdop exec` of a script whose first line of output is there."""
    process = subprocess.Popen(
        [*PROGRAM, "exec", HERE, "--", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=place,
        env=_environ(place),
    )
    assert process.stdout.readline() == b"up\n"
    return process


@pytest.mark.parametrize(
    ("args", "code", "out", "err"),
    [
        (["--", "sh", "-c", "echo out; echo err >&2; exit 7"], 7, "out\n", "err\n"),
        (["--", "echo $A; pwd; kill -9 $$"], 137, "1\n/tmp\n", ""),
        (["--timeout", "200ms", "--", "sleep", "100"], 124, "", "timeout"),
        (["--cwd", "/no/such", "--", "true"], 255, "", "/no/such"),
        (["--user", "no-such-user", "--", "true"], 255, "", "no-such-user"),
    ],
)
def test_a_command_ends_as_it_would_here(place, args, code, out, err):
    done = _cmdop(place, "exec", HERE, "--env", "A=1", "--cwd", "/tmp", *args)
    assert (done.returncode, done.stdout) == (code, out)
    assert err in done.stderr


def test_ctrl_c_ends_the_command_on_the_machine(place):
    process = _exec_started(place, "trap 'echo ended; exit' TERM; echo up; sleep 1000 & wait")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"ended\n")


def test_a_reader_that_leaves_ends_the_command_on_the_machine(place):
    process = _exec_started(place, "echo up; echo $$ > pid; exec yes")
    process.stdout.close()
    assert process.wait(60) == 141
    process.stderr.close()
    with client(place) as hub:
        newest = next(hub.commands.list(page_items=1))["id"]
        wait_until(lambda: hub.commands.get(newest)["status"] == "cancelled", place)


def test_a_detached_command_is_found_followed_and_cancelled(place):
    command_id = _cmdop(place, "exec", HERE, "--detach", "--", "sleep", "1000").stdout.strip()
    listed = _cmdop(place, "commands", "ls", "--status", "running", "-o", "name").stdout
    assert command_id in listed.splitlines()
    assert _cmdop(place, "commands", "cancel", command_id).returncode == 0

    def record():
        return json.loads(_cmdop(place, "commands", "get", command_id, "-o", "json").stdout)

    wait_until(lambda: record()["status"] == "cancelled", place)
    assert _cmdop(place, "commands", "cancel", command_id).returncode == 1


@pytest.fixture
def fetched(place):
    """This program, as one that machines fetch from the hub."""
    system = os.uname()
    program = place / f"data/dl/cmdop-{system.sysname.lower()}-{system.machine}"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cmdop_appliance "$@"\n')


@pytest.mark.usefixtures("fetched")
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_join_line_joins_a_machine_and_removing_it_ends_its_agent(place):
    done = _cmdop(place, "machines", "add", "--tags", "a,b")
    assert "or, where cmdop is installed: cmdop agent --hub http://" in done.stderr
    assert json.loads(_cmdop(place, "machines", "add", "-o", "json").stdout)["token"]
    home = place / "home"
    home.mkdir()
    (home / "id").write_text("#!/bin/sh\necho 1000\n")  # for the script, this is not root
    (home / "id").chmod(0o755)
    agent = subprocess.Popen(
        ["sh", "-c", done.stdout],
        env=_environ(
            place,
            PATH=f"{home}:{os.environ['PATH']}",
            HOME=str(home),
            CMDOP_MACHINE_NAME="second",
        ),
        cwd=home,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _cmdop(place, "exec", "second", "--", "true").returncode == 0, place)
        shown = _cmdop(place, "machines", "ls", "--search", "second", "-o", "jsonl").stdout
        assert json.loads(shown)["tags"] == ["a", "b"]
        assert _cmdop(place, "machines", "rm", "second").returncode == 0
        assert agent.wait(60) == 3
    finally:
        agent.kill()
        agent.wait()
    assert _cmdop(place, "exec", "second", "--", "true").returncode == 255


def test_a_key_works_within_its_scopes_until_it_is_revoked(place):
    with client(place) as hub:
        url = json.loads((place / "data/hub.json").read_text())["url"]
        key = _cmdop(place, "auth", "create-key", "-q", "-", "--scopes", "machines:read").stdout
        mine = {"CMDOP_URL": url, "CMDOP_API_KEY": key.strip()}
        assert _cmdop(place, "machines", "ls", **mine).returncode == 0
        refused = _cmdop(place, "exec", HERE, "--", "true", **mine)
        assert refused.returncode == 255
        assert "commands:execute" in refused.stderr
        status = json.loads(_cmdop(place, "auth", "status", "-o", "json", **mine).stdout)
        assert status["permissions"] == ["machines:read"]
        assert _cmdop(place, "auth", "revoke-key", status["id"]).returncode == 0
        wait_until(lambda: _cmdop(place, "machines", "ls", **mine).returncode == 4, place)
        assert status["id"] not in [row["id"] for row in hub.keys.list()]


@pytest.mark.slow
def test_exec_does_not_notice_that_the_hub_is_killed_and_started_again(tmp_path):
    with swept(tmp_path):
        with served(PROGRAM, tmp_path) as hub:
            url = json.loads((tmp_path / "data/hub.json").read_text())["url"]
            script = "echo up; until [ -e go ]; do sleep 0.1; done; seq 100000; exit 3"
            process = _exec_started(tmp_path, f"cd {shlex.quote(str(tmp_path))}; {script}")
            hub.kill()
            hub.wait()
        with served(PROGRAM, tmp_path, port=int(url.rpartition(":")[2])):
            (tmp_path / "go").touch()
            out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (3, b"")
    assert out == b"".join(b"%d\n" % number for number in range(1, 100_001))
