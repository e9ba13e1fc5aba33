"""`cmdop connect` as the person in front of it sees it, with a hub and an agent behind it."""

import hashlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.cli.window import ROOT, window
from tests.support.fault_proxy import running_proxy

PAINTER = """
import signal, sys
signal.signal(signal.SIGWINCH, lambda *_: print("\\033[2J\\033[Hpainted"))
print("up")
for line in sys.stdin:
    print("got", line)
"""
SHELL = ("--env", "PS1=$ ", "--", "bash", "--norc", "--noprofile")


@pytest.fixture
def connect(desk):
    """Opens a window with `cmdop connect nas …`."""

    def opened(*args, **options):
        return window("connect", "nas", *args, **{**desk.environ, **options})

    return opened


def _left(shown):
    """Leave a terminal, and see that it is told how to come back."""
    shown.type("\x1d")
    assert shown.wait_exit() == 0
    shown.wait("which runs on: cmdop ")


def test_a_shell_is_typed_into_and_ends_with_its_exit_code(connect):
    with connect(*SHELL, cols=77, rows=19) as one:
        one.wait("\n$")
        one.type("stty size; echo as $CMDOP_OPERATOR\r")
        one.wait("\n19 77\nas admin@default")
        one.resize(60, 10)
        one.type(
            "clear; until test \"$(stty size)\" = '10 60'; do sleep 0.01; done; echo resized\r"
        )
        one.wait("resized\n$")
        one.type("sh -c 'echo up; exec cat'\r")
        one.wait(lambda text: text.endswith("\nup"))
        one.type("abc\r")
        one.wait("\nabc\nabc")
        one.type("\x03")  # Ctrl-C is for the program
        one.wait("^C\n$")
        one.type("code=$?; clear; echo ended with $code; exit 7\r")
        assert one.wait_exit() == 7
        one.wait("ended with 130\nexit\nterm-")
        one.wait(" on nas has ended")


def test_who_comes_back_finds_what_was_there_and_what_happened_meanwhile(connect, tmp_path):
    with connect("--session", "long", *SHELL) as one:
        one.wait("attached to long on nas; Ctrl-] or Alt-Q leaves it\n$")
        one.type(f"until test -e {tmp_path}/go; do sleep 0.01; done; echo done $((6*7))\r")
        one.wait("sleep")
        _left(one)
        one.wait("left long, which runs on: cmdop connect nas --session long")
    (tmp_path / "go").touch()
    with connect("--session", "long", "--", "no", "such", "command") as one:  # it is there
        one.wait(lambda text: text.startswith("$ until") and "\ndone 42\n" in text)
        one.type("exit 3\r")
        assert one.wait_exit() == 3


def test_the_detach_key_leaves_and_pressed_twice_is_typed_once(connect):
    with connect("--", "stty raw -echo; echo up; exec cat -v") as one:
        one.wait("up")
        one.type("\x1d\x1d")
        one.wait("^]")
        one.type("a\x1d")  # and nothing for a while
        assert one.wait_exit() == 0
        assert one.text.count("^]") == 1
    with connect("--detach-key", "^x", "--", "stty raw -echo; echo up; exec cat -v") as one:
        one.wait("up")
        one.type("\x1d\x1bq")
        one.wait("^]^[q")
        one.type("\x18b")  # and another key
        assert one.wait_exit() == 0


def test_the_terminal_is_afterwards_as_it_was_whatever_the_program_had_set(connect):
    modes = r"\033[?1049h\033[?25l\033[?7l\033[?2004h\033[?1000h\033[3;5rfull screen"
    with connect("--", f"printf '{modes}'; exec cat") as one:
        before = one.modes
        one.wait("full screen")
        assert one.modes != before
        _left(one)
        assert one.modes == before
        for undone in (b"\x1b[?1049l", b"\x1b[?2004l", b"\x1b[?1000l", b"\x1b7\x1b[r\x1b8"):
            assert undone in one.shown
        assert one.shown.count(b"\x1b[22;0t") == one.shown.count(b"\x1b[23;0t") == 1


def test_the_terminal_is_as_it_was_after_a_signal_and_the_program_runs_on(connect, desk):
    with connect("--session", "stays", "--", "cat") as one:
        one.wait(lambda _: b"\x1b[22;0t" in one.shown)  # it is raw
        one.process.send_signal(signal.SIGTERM)
        assert one.wait_exit() == 128 + signal.SIGTERM
    assert "stays" in [each["name"] for each in desk.running()]


def test_a_window_that_is_closed_leaves_the_program_running(connect, desk):
    with connect("--session", "closed", "--", "cat") as one:
        one.wait(lambda _: b"\x1b[22;0t" in one.shown)
        one.close()
        assert one.process.wait(30) != 0
    assert "closed" in [each["name"] for each in desk.running()]


def test_what_is_typed_while_the_hub_is_away_arrives_once_and_the_screen_is_whole(connect, desk):
    with (
        running_proxy(desk.hub.address, "away") as proxy,
        connect("--", sys.executable, "-uc", PAINTER, CMDOP_URL=proxy.url) as one,
    ):
        one.wait("up")
        proxy.target = ("127.0.0.1", 1)  # where nobody listens
        proxy.cut()
        one.type("lost?\r")
        one.wait("the hub is away; what you type waits; Ctrl-] or Alt-Q leaves")
        proxy.target = desk.hub.address
        one.wait(lambda text: "the hub is away" not in text and "painted" in text)
        one.type("more\r")
        one.wait("got more")
        assert one.shown.count(b"got lost?") == 1
        _left(one)


def test_a_working_directory_counts_from_the_home(connect):
    for cwd in ("~", "~/."):
        with connect("--cwd", cwd, "--", "true") as one:
            assert one.wait_exit() == 0


def test_who_leaves_while_the_machine_is_away_is_told_what_has_not_arrived(connect, desk):
    with connect("--", "cat") as one:
        one.wait(lambda _: b"\x1b[22;0t" in one.shown)
        desk.agent.stop()
        one.wait("nas is away; what you type waits")
        one.type("abc")
        _left(one)
        one.wait("3 bytes were typed that have not arrived, and will not")
        with connect("--session", "new") as other:
            assert other.wait_exit() == 255
            other.wait("error: nas is not connected\nhint: is it up")
        desk.agent.rejoin(desk.hub)


def test_an_observer_sees_and_is_told_that_his_keys_are_not_typed(connect):
    with connect("--session", "shown", *SHELL) as one:
        one.wait("\n$")
        with connect("--session", "shown", "--observe", cols=40, rows=12) as other:
            other.wait("$")
            assert "its screen is 80x24, larger than this 40x12" in other.shown.decode()
            one.type("echo seen\r")
            other.wait("\nseen\n$")
            other.type("x")
            other.wait("you are an observer")
            _left(other)
        one.type("exit\r")
        assert one.wait_exit() == 0
    with connect("--session", "shown", "--observe") as other:
        assert other.wait_exit() == 255
        other.wait("error: no terminal called shown runs on nas\nhint: cmdop sessions ls")


def test_a_paste_larger_than_all_that_is_buffered_arrives_whole(connect, tmp_path):
    paste = os.urandom(600_000).hex().encode()
    waits = f"until test -e {tmp_path}/go; do sleep 0.01; done"
    reader = f"stty raw -echo; echo up; {waits}; head -c {len(paste)} | sha256sum"
    with connect("--", reader) as one:
        one.wait("up")
        pasting = threading.Thread(target=lambda: one.type(paste))
        pasting.start()
        pasting.join(1)  # as much of it as anybody takes
        (tmp_path / "go").touch()
        one.wait(hashlib.sha256(paste).hexdigest())
        pasting.join()
        assert one.wait_exit() == 0


def test_an_end_that_is_not_the_programs_own_is_255(connect, desk):
    with connect("--session", "ended", "--", "cat") as one:
        one.wait("attached")
        (ended,) = [each for each in desk.running() if each["name"] == "ended"]
        desk.hub.api.delete(f"/terminals/{ended['id']}")
        assert one.wait_exit() == 255
        one.wait("error: ended on nas was ended")
    with connect("--", "/no/such/program") as one:
        assert one.wait_exit() == 255
        one.wait(lambda text: text.startswith("error: ") and "/no/such/program" in text)


@pytest.mark.parametrize(("stream", "what"), [("stdin", "input"), ("stdout", "output")])
def test_without_a_terminal_nothing_is_opened(desk, stream, what):
    master, slave = os.openpty()
    try:
        streams = {"stdin": slave, "stdout": slave, stream: subprocess.DEVNULL}
        done = subprocess.run(
            [sys.executable, "-m", "cmdop_appliance", "connect", "nas"],
            **streams,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **desk.environ},
            timeout=60,
            check=False,
        )
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 255
    assert done.stderr.startswith(f"error: standard {what} is not a terminal\n".encode())
