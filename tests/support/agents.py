"""Real agents over real state directories, and nothing left of them afterwards."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from cmdop_appliance.agent.enrolment import enrolment_of
from cmdop_appliance.agent.journal import Journal
from cmdop_appliance.agent.main import serve
from cmdop_appliance.agent.pace import Pace
from cmdop_appliance.agent.policy import Policy
from cmdop_appliance.agent.state import locked_state
from tests.support.hub_peer import PATIENCE_S, HubPeer

QUICK = Pace(retry_least_s=0.02, retry_most_s=0.1, handshake_s=5, close_s=0.2)


@asynccontextmanager
async def running_agent(
    state_dir: Path,
    hub: HubPeer,
    *,
    pace: Pace = QUICK,
    join: bool = True,
    policy: Policy = Policy(),  # noqa: B008 - it is frozen
) -> AsyncIterator[None]:
    """An agent in this process; leaving the context ends it like a kill: without a word."""
    token = hub.token if join else None
    with locked_state(state_dir) as state:
        enrolment = enrolment_of(state, hub.url, token, None)
        journal = Journal(state_dir / "journal.log")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    serve, state, state.make_identity(), enrolment, journal, False, pace, policy
                )
                yield
                nursery.cancel_scope.cancel()
        finally:
            journal.close()


@contextmanager
def clean_state_dir(path: Path) -> Iterator[Path]:
    """A directory for an agent; its processes, keeper and commands are killed in the end."""
    try:
        yield path
    finally:
        for pid in _named_in_argv(path) + commands_of(path):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def keepers_of(state_dir: Path) -> list[int]:
    """The processes whose command line names the keeper and this directory."""
    return [pid for pid in _named_in_argv(state_dir) if b"keeper" in _argv(pid)]


def commands_of(state_dir: Path) -> list[int]:
    """The processes whose stdout is a file of this directory."""
    found = []
    for pid in _pids():
        try:
            stdout = Path(f"/proc/{pid}/fd/1").readlink()
        except OSError:
            continue
        if stdout.is_relative_to(state_dir / "keeper" / "output"):
            found.append(pid)
    return found


async def eventually(condition, what: str) -> None:
    """Wait until `condition()` is true."""
    with trio.move_on_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nobody tells of files and processes
            await trio.sleep(0.01)
        return
    raise AssertionError(f"not within {PATIENCE_S} s: {what}")


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _named_in_argv(state_dir: Path) -> list[int]:
    return [pid for pid in _pids() if os.fsencode(state_dir) in _argv(pid)]


def _argv(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended
        return []
