"""How a hub starts, refuses to start, and stops: contract.md §11, seen from outside."""

import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from cmdop_appliance.local_agent import STATE_FOLDER
from tests.support.appliance import (
    PATIENCE_S,
    PROGRAM,
    STOP_S,
    running_agent,
    running_hub,
    stopped_hub,
    wait_for,
)


def _serve(place, *args):
    """A `serve` that must end by itself."""
    return subprocess.run(
        [*PROGRAM, "serve", *map(str, args)],
        cwd=place,
        env={"PATH": os.environ["PATH"], "HOME": str(place)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def _banner(hub):
    wait_for(lambda: "Ctrl-C" in hub.out.read_text(), "the whole banner is printed")
    return hub.out.read_text()


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_a_key_and_later_ones_keep_it(tmp_path):
    with stopped_hub(tmp_path) as hub:
        hub.start(umask=0)
        data = hub.data_dir
        assert _mode(data) == 0o700
        modes = {path: _mode(path) for path in data.rglob("*") if not path.is_dir()}
        assert modes
        assert set(modes.values()) == {0o600}, modes
        assert {_mode(path) for path in data.rglob("*") if path.is_dir()} <= {0o700}

        assert set(hub.ready) == {"url", "pid", "version", "pin"}
        assert hub.ready["pid"] == hub.pid
        assert hub.api.get("/auth/me")["permissions"] == ["admin"]
        (workspace,), (admin,) = hub.api.get("/workspaces"), hub.api.get("/api-keys")
        assert workspace["created_at"] == admin["created_at"]
        banner = _banner(hub)
        assert hub.ready["url"] in banner
        assert str(data) in banner
        assert f"cmdop agent --hub {hub.ready['url']} --token cmdop_enroll_" in banner
        key = (data / "admin.key").read_text()
        assert key.strip() not in banner

        pin = hub.ready["pin"]
        hub.stop()
        assert not (data / "hub.json").exists()
        (data / "dl").mkdir()
        (data / "dl/cmdop-linux-riscv64").touch()
        hub.start()
        script = f"curl -fsSL {hub.ready['url']}/dl/join.sh | CMDOP_JOIN_KEY=cmdop_enroll_"
        assert script in _banner(hub)
        assert (data / "admin.key").read_text() == key
        assert hub.ready["pin"] == pin
        assert hub.api.call("GET", "/auth/me").status == 200
        assert hub.api.get("/api-keys")[0]["name"] == "admin"
        assert len(hub.api.get("/api-keys")) == 1


def test_the_join_line_of_the_banner_joins_this_machine_to_this_hub(tmp_path):
    with running_hub(tmp_path) as hub:
        token = _banner(hub).partition("--token ")[2].split()[0]
        with running_agent(hub, tmp_path, "by-banner", token=token) as agent:
            assert hub.api.get(f"/machines/{agent.machine_id}")["name"] == "by-banner"


def test_a_second_hub_on_a_data_directory_is_refused_and_the_first_is_unharmed(tmp_path):
    with running_hub(tmp_path) as hub:
        done = _serve(tmp_path, "--data-dir", hub.data_dir, "--listen", "127.0.0.1:0")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert f"pid {hub.pid}" in done.stderr.splitlines()[0]
        _is_short(done.stderr)
        assert hub.ready["pid"] == hub.pid
        assert hub.api.call("GET", "/auth/me").status == 200


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[server]\n\nlisten = 7\n", "bad.toml:3: server.listen: "),
        ("# all is well\n[sessions]\ngrace = 1\n", "bad.toml:3: sessions.grace: unknown key"),
        ("[sessions]\ngrace_ms = -1\n", "bad.toml:2: sessions.grace_ms: "),
        ("[nonsense]\n", "bad.toml:1: [nonsense]: unknown table"),
        ("[server\n", "bad.toml: "),
    ],
)
def test_a_bad_configuration_names_file_line_and_key(tmp_path, text, where):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    done = _serve(tmp_path, "--config", file, "--data-dir", tmp_path / "data")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"/{where}" in done.stderr.splitlines()[0]
    _is_short(done.stderr)
    assert not (tmp_path / "data").exists()


def test_a_taken_port_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = _serve(tmp_path, "--data-dir", tmp_path / "data", "--listen", listen)
    assert (done.returncode, done.stdout) == (2, "")
    assert listen in done.stderr.splitlines()[0]
    _is_short(done.stderr)


def _is_short(stderr):
    """One `error:` line, a hint at most, and no traceback."""
    first, *rest = stderr.splitlines()
    assert first.startswith("error: ")
    assert len(rest) <= 1
    assert all(line.startswith("hint: ") for line in rest)


@pytest.mark.slow
def test_sigterm_ends_the_hub_whatever_its_peers_do_and_commands_run_on(tmp_path):
    gate = tmp_path / "gate"
    waiting = f"echo begun; until [ -e {gate} ]; do sleep 0.02; done; echo over; exit 9"
    with running_hub(tmp_path) as hub, running_agent(hub, tmp_path, "target") as agent:
        machine = agent.machine_id
        big = hub.api.run(machine, "head -c 8000000 /dev/zero")["id"]
        followed = hub.api.start(machine, waiting)
        hub.api.wait_output(followed, "begun")

        answers = []
        caller = threading.Thread(
            target=lambda: answers.append(
                hub.api.call("POST", "/commands", {"machine_id": machine, "command": waiting})
            )
        )
        caller.start()
        (waited,) = wait_for(
            lambda: [
                c
                for c in hub.api.get("/commands?status=running")
                if c["id"] != followed and c["started_at"]
            ],
            "the synchronous command runs",
        )
        hub.api.wait_output(waited["id"], "begun")
        events = hub.api.events(followed)
        assert next(events).data == b"begun\n"
        with _deaf(hub, big), _half_head(hub), _half_body(hub):
            hub.terminate()
            assert hub.wait_exit(STOP_S) == 0
        assert list(events) == []  # ended, not cut: the client comes back with Last-Event-ID
        caller.join()
        (answer,) = answers
        assert answer.data["status"] == "running"
        assert answer.data["exit_code"] is None
        assert answer.data["id"] == waited["id"]
        assert answer.data["stdout"] == "begun\n"
        _has_no_errors(hub.log)

        assert len(agent.keeper.children()) == 2
        gate.touch()
        hub.start()
        for command_id in (followed, waited["id"]):
            record = hub.api.wait_end(command_id)
            assert (record["status"], record["exit_code"]) == ("failed", 9)
            assert record["stdout"] == "begun\nover\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_either_signal_stops_an_idle_hub(tmp_path, number):
    with running_hub(tmp_path) as hub:
        os.kill(hub.pid, number)
        assert hub.wait_exit(STOP_S) == 0
        assert not (hub.data_dir / "hub.json").exists()
        assert hub.log.read_text() == ""


def _connection(hub):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(hub.address)
    return connection


def _deaf(hub, command_id):
    """A peer that asks for megabytes and never reads."""
    connection = _connection(hub)
    head = f"GET /v1/commands/{command_id}/output HTTP/1.1\r\nHost: hub\r\n"
    connection.sendall(f"{head}Authorization: Bearer {hub.api.key}\r\n\r\n".encode())
    connection.recv(1)
    return connection


def _half_head(hub):
    """A peer that begins a request."""
    connection = _connection(hub)
    connection.sendall(b"GET /v1/commands HTTP/1.1\r\nHost: ")
    return connection


def _half_body(hub):
    """A peer that begins a body."""
    connection = _connection(hub)
    connection.sendall(
        b"POST /v1/commands HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\n"
        b'Content-Length: 100\r\n\r\n{"machine_id":'
    )
    return connection


def _has_no_errors(log: Path):
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line for line in lines if line["level"] == "error"] == []


def test_a_hub_may_open_as_many_files_as_it_can_and_its_local_commands_as_many_as_before(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fewer = min(soft, hard, 1024) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (fewer, hard))
    try:
        with running_hub(tmp_path, "--local-agent") as hub:
            (machine,) = wait_for(
                lambda: hub.api.get("/machines?status=online"), "this machine is online"
            )
            pid = hub.ready["pid"]
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (min(hard, 65_536), hard)
            assert hub.api.run(machine["id"], "ulimit -n")["stdout"] == f"{fewer}\n"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_local_agent_comes_and_goes_with_its_hub(tmp_path):
    with running_hub(tmp_path, "--local-agent") as hub:
        name = os.uname().nodename

        def online():
            return [m for m in hub.api.get("/machines?status=online") if m["hostname"] == name]

        (machine,) = wait_for(online, "this machine is online")
        assert hub.api.run(machine["id"], "exit 7")["exit_code"] == 7
        hub.stop()
        hub.start("--local-agent")
        (same,) = wait_for(online, "this machine is online again")
        assert same["id"] == machine["id"]
        hub.kill()
        wait_for(lambda: not hub.leftovers(), "the local agent ends with a hub that was killed")
        hub.start()


def test_a_local_agent_comes_though_the_one_of_the_hub_that_was_killed_has_not_left(tmp_path):
    with running_hub(tmp_path, "--local-agent") as hub:
        online = "/machines?status=online"
        (machine,) = wait_for(lambda: hub.api.get(online), "this machine is online")
        state_dir = hub.data_dir / STATE_FOLDER
        agent = int((state_dir / "agent.lock").read_text())
        os.kill(agent, signal.SIGSTOP)  # it holds its lock
        hub.kill()
        hub.start("--local-agent")
        wait_for(lambda: "the local agent ended" in hub.log.read_text(), "the new one gives up")
        os.kill(agent, signal.SIGCONT)

        wait_for(lambda: not psutil.pid_exists(agent), "the one of the hub that was killed left")

        def is_back():
            is_new = int((state_dir / "agent.lock").read_text()) != agent
            return is_new and hub.api.get(f"/machines/{machine['id']}/status")["connected"]

        wait_for(is_back, "this machine is online again")


@pytest.mark.parametrize(
    ("environ", "code"), [({"NOTIFY_SOCKET": "/nowhere"}, 0), ({}, -signal.SIGHUP)]
)
def test_a_reload_while_a_service_starts_does_not_end_it(tmp_path, environ, code):
    program = """if True:
        import os, pathlib, signal, sys, trio
        from cmdop_appliance import server

        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever nohup has said

        def starting(*_):
            os.kill(os.getpid(), signal.SIGHUP)
            return 0, None, []

        trio.run = starting
        where = {"data_dir": pathlib.Path(sys.argv[1]), "listen": "127.0.0.1:0"}
        raise SystemExit(server.run(None, **where, tls=None, local_agent=None))
    """
    ended = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        env={**os.environ, **environ},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
