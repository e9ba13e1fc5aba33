"""A hub and an agent of this very program, in a folder of their own, for somebody to kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cmdop_appliance.agent.keeper.environment import original_environment, process_environment
from cmdop_appliance.packed import ONEFILE, own_program
from cmdop_appliance.sdk import Client
from cmdop_appliance.selftest.ledger import BrokenPromiseError

# For anything that must happen: a bound, never a pace.
PATIENCE_S: Final = 90.0
_LOOK_S: Final = 0.02
_STOP_S: Final = 10.0
_SAID_CHARS: Final = 300  # of a log, in a message
_POLICY: Final = """[files]
roots = []
[terminals]
enabled = false
"""


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Return once the condition holds.

    Raises:
        BrokenPromiseError: it does not within `PATIENCE_S`.
    """
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > give_up:
            raise BrokenPromiseError(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(_LOOK_S)


class Site:
    """The two processes. Whoever kills one starts it again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data_dir, self._state_dir = folder / "hub", folder / "agent"
        self._hub: subprocess.Popen[bytes] | None = None
        self._agent: subprocess.Popen[bytes] | None = None
        self._listen = "127.0.0.1:0"
        self._variables: dict[str, str] = {}

    def start(self) -> Client:
        """Start both, and join them; a client of the hub."""
        self.start_hub()
        wait_for(self._is_ready, "the hub is ready")
        url = json.loads((self._data_dir / "hub.json").read_text())["url"]
        self._listen = urlsplit(url).netloc  # a restarted one is found where it was
        key = (self._data_dir / "admin.key").read_text().strip()
        client = Client(url, key, timeout_s=PATIENCE_S)
        token = client.enrollment_tokens.create()["token"]
        self._state_dir.mkdir(mode=0o700)
        (self._state_dir / "agent.toml").write_text(_POLICY)
        self._variables = {"CMDOP_SERVER_URL": url, "CMDOP_JOIN_KEY": token}
        self.start_agent()
        wait_for(lambda: any(client.machines.list(status="online")), "the agent has joined")
        return client

    def _is_ready(self) -> bool:
        assert self._hub is not None
        if (code := self._hub.poll()) is not None:
            said = (self.folder / "hub.log").read_text(errors="replace").strip()[-_SAID_CHARS:]
            raise BrokenPromiseError(f"the hub does not start; exit code {code}: {said}")
        return (self._data_dir / "hub.json").exists()

    def start_hub(self) -> None:
        """Start the hub; nobody waits until it is ready."""
        self._hub = self._begin(
            "serve", "--data-dir", str(self._data_dir), "--listen", self._listen, name="hub"
        )

    def start_agent(self) -> None:
        """Start the agent; nobody waits until it is connected."""
        self._agent = self._begin("agent", "--state-dir", str(self._state_dir), name="agent")

    def kill_hub(self) -> None:
        """kill -9."""
        assert self._hub is not None
        _end(self._hub, signal.SIGKILL)

    def kill_agent(self) -> None:
        """kill -9; what it started runs on."""
        assert self._agent is not None
        _end(self._agent, signal.SIGKILL)

    def stop(self) -> None:
        """End both, and the keeper, which outlives its agent."""
        for process in (self._agent, self._hub):
            if process is not None:
                _end(process, signal.SIGTERM)
        with suppress(OSError, ValueError):
            pid = int((self._state_dir / "keeper" / "keeper.lock").read_text())
            if str(self._state_dir).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGTERM)

    def _begin(self, *args: str, name: str) -> subprocess.Popen[bytes]:
        packed = getattr(sys, "frozen", False)
        program = [own_program()] if packed else [sys.executable, "-I", "-m", "cmdop_appliance"]
        environ = original_environment(process_environment()) | {
            "HOME": str(self.folder),
            ONEFILE: os.environ.get(ONEFILE, ""),
            **self._variables,
        }
        environ.pop("NOTIFY_SOCKET", None)  # a service manager's concern is with us alone
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*program, *args],
                cwd=self.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, who then end them
            )


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    process.send_signal(number)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running_site(folder: Path) -> Iterator[tuple[Site, Client]]:
    """Within, a hub and an agent run there; in the end nothing of them does."""
    folder.mkdir()
    site = Site(folder)
    try:
        with site.start() as client:
            yield site, client
    finally:
        site.stop()
