"""A hub that is killed costs whoever runs or follows a command time, and nothing else."""

import itertools
import os
import select
import socket
import socketserver
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import pytest

from tests.support.appliance import PATIENCE_S, wait_for

pytestmark = pytest.mark.slow


@contextmanager
def _cmdop(hub, *args, url=None):
    key = (hub.data_dir / "admin.key").read_text().strip()
    with subprocess.Popen(
        [sys.executable, "-m", "cmdop_appliance", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "CMDOP_URL": url or hub.api.url, "CMDOP_API_KEY": key},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _ended(process):
    out, err = process.communicate(timeout=2 * PATIENCE_S)
    return process.returncode, out, err


@contextmanager
def _killed_at_a_create(hub, *, answered):
    """The URL of a way to `hub` on which it is killed by the first POST, and an event for that.

    `answered`: it has recorded what was asked and answered, but nobody hears of it; otherwise it
    dies with the request unread.
    """
    killed = threading.Event()

    def kill():
        hub.kill()
        killed.set()

    class Between(socketserver.BaseRequestHandler):
        def handle(self):
            with suppress(OSError), socket.create_connection(hub.address) as upstream:
                has_posted = False
                while True:
                    readable, _, _ = select.select([self.request, upstream], [], [])
                    for source in readable:
                        data = source.recv(65536)
                        if source is self.request:
                            has_posted |= not killed.is_set() and data.startswith(b"POST ")
                            if has_posted and not answered:
                                hub.suspend()
                                upstream.sendall(data)
                                return kill()
                            upstream.sendall(data)
                        elif has_posted:
                            return kill()
                        else:
                            self.request.sendall(data)
                        if not data:
                            return None

    class Way(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Way(("127.0.0.1", 0), Between) as way:
        thread = threading.Thread(target=way.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield "http://{}:{}".format(*way.server_address), killed
        finally:
            way.shutdown()
            thread.join()


@pytest.mark.parametrize("answered", [True, False])
def test_a_hub_that_dies_before_its_answer_is_heard_starts_nothing_twice(
    hub, agent, tmp_path, answered
):
    marks = tmp_path / "marks"
    command = f"echo started >>{marks}; echo out; echo err >&2; exit 5"
    with (
        _killed_at_a_create(hub, answered=answered) as (url, killed),
        _cmdop(hub, "exec", "target", "--", command, url=url) as process,
    ):
        assert killed.wait(PATIENCE_S)
        hub.start()
        assert _ended(process) == (5, b"out\n", b"err\n")
    agent.wait_connected(hub)
    assert marks.read_text() == "started\n"
    recorded = [row["command"] for row in hub.api.get("/commands?limit=100")]
    assert recorded.count(command) == 1


def _numbers(word, count):
    return b"".join(f"{word} {number}\n".encode() for number in range(1, count + 1))


def test_follow_shows_every_byte_once_over_a_kill_of_the_hub_and_again_after_the_end(
    hub, agent, tmp_path
):
    agent.wait_connected(hub)
    gate = tmp_path / "gate"
    command_id = hub.api.start(
        agent.machine_id,
        f"seq -f 'before %.0f' 20000; echo err >&2; until [ -e {gate} ]; do sleep 0.02; done;"
        " seq -f 'after %.0f' 20000; exit 3",
    )
    expected = _numbers("before", 20_000) + _numbers("after", 20_000)
    with _cmdop(hub, "commands", "follow", command_id) as process:
        begun = b"".join(itertools.islice(process.stdout, 1000))
        hub.kill()
        gate.touch()
        hub.start()
        rest, err = process.stdout.read(), process.stderr.read()
        assert (process.wait(PATIENCE_S), err) == (3, b"err\n")
    assert begun + rest == expected
    with _cmdop(hub, "commands", "follow", command_id) as process:
        assert _ended(process) == (3, expected, b"err\n")


def test_exec_waits_for_a_machine_that_is_away_over_a_kill_of_the_hub(hub, agent):
    agent.wait_connected(hub)
    agent.stop()
    with _cmdop(hub, "exec", "target", "--queue", "--", "echo out; exit 4") as process:
        said = process.stderr.readline().decode()
        assert said.startswith("target is away: cmd_")
        hub.kill()
        hub.start()
        agent.rejoin(hub)
        assert _ended(process) == (4, b"out\n", b"")


def test_a_queued_command_that_is_cancelled_never_starts(hub, agent, tmp_path):
    agent.wait_connected(hub)
    agent.stop()
    marks = tmp_path / "marks"
    with _cmdop(hub, "exec", "target", "--queue", "--", f"echo started >>{marks}") as process:
        command_id = process.stderr.readline().decode().split()[3]
        with _cmdop(hub, "commands", "ls", "-n", "1") as listed:
            assert b"\tpending\t-\t-\tnot sent yet\t" in _ended(listed)[1]
        with _cmdop(hub, "commands", "cancel", command_id) as cancelling:
            assert _ended(cancelling) == (0, b"", f"{command_id} is cancelled\n".encode())
        assert _ended(process) == (255, b"", b"error: the command was cancelled\n")
    agent.rejoin(hub)
    assert hub.api.run(agent.machine_id, "true")["status"] == "completed"
    assert not marks.exists()


def test_a_queued_command_that_is_not_fetched_in_time_expires_with_255(hub, agent):
    agent.wait_connected(hub)
    agent.stop()
    args = ["exec", "target", "--queue", "--queue-timeout", "200ms", "--", "true"]
    with _cmdop(hub, *args) as process:
        code, out, err = _ended(process)
    assert (code, out) == (255, b"")
    assert err.endswith(b"error: the command expired: its machine was not there in time\n")
    agent.rejoin(hub)


def test_a_newer_command_takes_the_place_of_a_queued_one(hub, agent):
    agent.wait_connected(hub)
    agent.stop()
    args = ["exec", "target", "--queue", "--supersede-key", "upgrade", "--"]
    with _cmdop(hub, *args, "echo old") as older:
        older.stderr.readline()
        with _cmdop(hub, *args, "echo new") as newer:
            code, out, err = _ended(older)
            assert (code, out) == (255, b"")
            assert b"took its place before it was sent" in err
            wait_for(lambda: newer.stderr.readline(), "the newer one waits")
            agent.rejoin(hub)
            assert _ended(newer) == (0, b"new\n", b"")
