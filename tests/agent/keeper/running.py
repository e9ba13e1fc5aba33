"""Real keeper processes for tests, and the proof that a test left no process behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio

from cmdop_appliance.agent.keeper_client import (
    Exited,
    Keeper,
    Record,
    Refused,
    Started,
    open_keeper,
)

MARK = "TEST_STATE_DIR"  # in the environment of every process that a test brings about
PACKAGE_PARENT = Path(__file__).parents[3]

DYING_S = 2.0  # a process that was killed is gone after this, one that was left is not

_MAIN = (
    "import sys; sys.path.insert(0, sys.argv[3]);"
    " from cmdop_appliance.agent.keeper.main import main;"
    " sys.exit(main(sys.argv[2], kill_grace={grace}, idle_exit={idle}, room_patience={room}))"
)


@contextmanager
def clean_machine(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """A state directory; at the end its keepers are killed, and no other process may be left."""
    state_dir = tmp_path / "state"
    monkeypatch.setenv(MARK, str(state_dir))
    yield state_dir
    dying_until = time.monotonic() + DYING_S
    while (left := commands_of(state_dir)) and time.monotonic() < dying_until:
        time.sleep(0.01)
    words = {pid: cmdline(pid) for pid in left}
    for pid in marked(state_dir):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not any(map(any, words.values())), f"left behind: {words}"


def marked(state_dir: Path) -> list[int]:
    """Every live process that descends from this test's keepers, and they themselves."""
    mark = f"{MARK}={state_dir}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def commands_of(state_dir: Path) -> list[int]:
    """Like `marked`, without the keepers."""
    return [pid for pid in marked(state_dir) if "keeper" not in cmdline(pid)]


def cmdline(pid: int) -> list[str]:
    """The words of a process's command line; none when it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return []


async def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - what we wait for cannot set an event of ours
            await trio.sleep(0.01)


@asynccontextmanager
async def keeper_process(
    state_dir: Path,
    *,
    kill_grace: float = 0.3,
    idle_exit: float = 60,
    room_patience: float = 60,
    **popen,
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A keeper with a test's patience, its socket bound; killed at the end."""
    code = _MAIN.format(grace=kill_grace, idle=idle_exit, room=room_patience)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, "keeper", str(state_dir), str(PACKAGE_PARENT)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **popen,
    ) as process:
        try:
            await wait_until(
                lambda: process.poll() is not None or (state_dir / "keeper/keeper.sock").exists()
            )
            yield process
        finally:
            process.kill()


@asynccontextmanager
async def quick_keeper(state_dir: Path, **options) -> AsyncIterator[Keeper]:
    """A keeper with a test's patience, and a connection to it."""
    async with keeper_process(state_dir, **options), open_keeper(state_dir) as keeper:
        yield keeper


async def event_of(keeper: Keeper, command_id: str) -> Started | Refused | Exited | Record:
    """The next event of one command; others in between are dropped."""
    with trio.fail_after(20):
        while (event := await keeper.next_event()).id != command_id:
            pass
    return event


async def start(keeper: Keeper, command_id: str, *argv: str, **options) -> Started:
    """Start a command that must start."""
    await keeper.start(id=command_id, argv=argv, **options)
    event = await event_of(keeper, command_id)
    assert isinstance(event, Started), event
    return event


async def run(keeper: Keeper, command_id: str, *argv: str, **options) -> tuple[Started, Exited]:
    """Run a command to its end."""
    started = await start(keeper, command_id, *argv, **options)
    exited = await event_of(keeper, command_id)
    assert isinstance(exited, Exited), exited
    return started, exited


async def refusal(keeper: Keeper, command_id: str, *argv: str, **options) -> Refused:
    """Start a command that must be refused."""
    await keeper.start(id=command_id, argv=argv, **options)
    event = await event_of(keeper, command_id)
    assert isinstance(event, Refused), event
    return event
