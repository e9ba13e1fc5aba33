"""`cmdop serve --local-agent` as a person starts it, and nothing left of it afterwards."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cmdop_appliance.sdk import Client, ConnectionFailed

START_S = 30  # for anything a test waits for: a bound, never a pace
STOP_S = 10


@contextmanager
def served(
    program: Sequence[str | Path], place: Path, *, port: int = 0, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The hub's process, once its own machine is online. All it keeps is in `place`/data.

    `more` is for its environment.
    """
    environ = {"PATH": os.environ["PATH"], "HOME": str(place), **more}
    listen = f"127.0.0.1:{port}"
    args = ["serve", "--local-agent", "--listen", listen, "--data-dir", place / "data"]
    with (
        (place / "log").open("ab") as log,
        subprocess.Popen(
            [*program, *args],
            cwd=place,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            wait_until(lambda: _is_online(process, place), place)
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            if process.poll() is None:
                process.kill()


@contextmanager
def swept(place: Path) -> Iterator[Path]:
    """Leaving it ends every process whose command line names `place`: the keepers, above all."""
    try:
        yield place
    finally:
        for pid in processes(place):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def client(place: Path) -> Client:
    """The admin of the hub that runs in `place`."""
    url = json.loads((place / "data/hub.json").read_text())["url"]
    return Client(url, (place / "data/admin.key").read_text().strip())


def processes(place: Path) -> list[int]:
    """Whose command line names `place`: hub, agent, keeper, and nobody else's."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fsencode(place) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool], place: Path) -> None:
    """Wait until it is true; after half a minute fail with the hub's log."""
    give_up = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < give_up, (place / "log").read_text()
        time.sleep(0.05)


def _is_online(process: subprocess.Popen[bytes], place: Path) -> bool:
    assert process.poll() is None, (place / "log").read_text()
    if not (place / "data/hub.json").exists():
        return False
    with client(place) as hub, suppress(ConnectionFailed):  # hub.json may be a dead hub's
        return any(machine["status"] == "online" for machine in hub.machines.list())
    return False
