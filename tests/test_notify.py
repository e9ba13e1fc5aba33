"""What the service manager hears, on sockets as systemd has them."""

import os
import socket
import subprocess
import sys

import pytest
import trio
import trio.testing

from cmdop_appliance.notify import ServiceManager, goes_to_journal

US = 1_000_000


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    """(its socket, what it calls it)."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@cmdop-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        receiver.setblocking(False)
        yield receiver, name


def told(receiver):
    found = []
    while True:
        try:
            found.append(receiver.recv(4096).decode())
        except BlockingIOError:
            return found


def test_it_hears_how_we_are(systemd):
    receiver, name = systemd
    manager = ServiceManager({"NOTIFY_SOCKET": name})
    assert manager.is_there
    manager.ready("at http://127.0.0.1:3006")
    manager.status("two\nlines")
    manager.alive()  # it does not ask
    manager.stopping()
    assert told(receiver) == [
        "READY=1\nSTATUS=at http://127.0.0.1:3006",
        "STATUS=two lines",
        "STOPPING=1",
    ]


def test_what_we_start_does_not_speak_for_us():
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1", "HOME": "/"}
    ServiceManager(environ)
    assert environ == {"HOME": "/"}


async def test_who_takes_our_place_is_watched_as_we_were(systemd, autojump_clock):
    receiver, name = systemd
    watched = {"WATCHDOG_USEC": str(30 * US), "WATCHDOG_PID": str(os.getpid())}
    environ = ServiceManager({"NOTIFY_SOCKET": name, **watched}).environment()
    with trio.move_on_after(29):
        await ServiceManager(dict(environ)).keep_watchdog(lambda: True)
    assert told(receiver) == ["WATCHDOG=1"] * 2  # at once, and after half of the time
    assert ServiceManager({}).environment() == {}


async def test_it_hears_nothing_while_we_are_not_well(systemd, autojump_clock):
    receiver, name = systemd
    manager = ServiceManager({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": str(30 * US)})
    begun = trio.current_time()
    with trio.move_on_after(44):
        await manager.keep_watchdog(lambda: not 10 < trio.current_time() - begun < 20)
    assert told(receiver) == ["WATCHDOG=1"] * 2


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": str(30 * US), "WATCHDOG_PID": "1"},  # another's
        {"WATCHDOG_USEC": "soon"},
    ],
)
async def test_who_is_not_watched_says_nothing(systemd, environ):
    receiver, name = systemd
    await ServiceManager({"NOTIFY_SOCKET": name, **environ}).keep_watchdog(lambda: True)
    assert told(receiver) == []


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere"}])
def test_nobody_has_to_listen(environ):
    given = dict(environ)
    manager = ServiceManager(environ)
    assert manager.is_there is ("NOTIFY_SOCKET" in given)
    manager.ready("ready")


def test_the_manager_of_this_process_is_asked_for_once():
    code = (
        "import os; from cmdop_appliance.notify import service_manager;"
        "print(service_manager().is_there, service_manager().is_there);"
        "print('NOTIFY_SOCKET' in os.environ)"
    )
    environ = {**os.environ, "NOTIFY_SOCKET": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.stdout == "True True\nFalse\n"


def test_only_what_goes_to_the_journal_itself_counts_as_read_by_others(tmp_path):
    with (tmp_path / "journal").open("w") as journal, (tmp_path / "file").open("w") as file:
        status = os.fstat(journal.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert goes_to_journal(environ, journal)
        assert not goes_to_journal(environ, file)
        assert not goes_to_journal({}, journal)
    assert not goes_to_journal(environ, journal)  # closed
