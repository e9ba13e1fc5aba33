"""`serve --local-agent`: the hub's own machine, managed by an agent in a process of its own."""

import logging
import os
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance.agent.keeper.environment import original_environment, process_environment
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.model import DEFAULT_WORKSPACE
from cmdop_appliance.packed import ONEFILE, own_program

STATE_FOLDER: Final = "local-agent"
# The exit code after which another start would end the same way: its machine was removed
# (agent/main.py). One that cannot start may find that the agent of a killed hub is still leaving.
_FINAL: Final = 3
# An agent that ended comes back after this, and, if it ends again and again, after twice as long
# each time, up to the most.
_RESTART_S: Final = 1.0
_RESTART_MOST_S: Final = 30.0
# An agent that is told to stop has so long; the hub itself must be gone within 5 s (contract §11).
_STOP_S: Final = 2.0
_TOKEN_TTL_MS: Final = 60_000
# -I: neither our working directory nor PYTHONPATH says what is imported.
_SOURCE: Final = (sys.executable, "-I", "-m", "cmdop_appliance")

_log = logging.getLogger("cmdop.local_agent")


async def run_local_agent(
    hub: Hub, url: str, data_dir: Path, umask: int, open_files: tuple[int, int]
) -> None:
    """Keep an agent running; when cancelled, it has stopped. Its commands run on.

    The agent watches its standard input, a pipe that we hold, so that it ends even if we are
    killed; it gets its token by environment, which no other user can read. `umask` and
    `open_files` (soft and hard limit) are what the hub itself was started with.
    """
    state_dir = data_dir / STATE_FOLDER
    is_packed = getattr(sys, "frozen", False)
    extra = {"CMDOP_SERVER_URL": url, ONEFILE: os.environ.get(ONEFILE, "")}
    restart_s = _RESTART_S
    while True:
        begun_s = trio.current_time()
        environ = original_environment(process_environment()) | extra
        if not (state_dir / "hub.json").exists():
            _, environ["CMDOP_JOIN_KEY"] = await hub.enrolments.issue(
                DEFAULT_WORKSPACE, _TOKEN_TTL_MS, 1, []
            )
        process = await trio.lowlevel.open_process(
            [
                *([own_program()] if is_packed else _SOURCE),
                *("agent", "--stop-on-eof", "--state-dir", str(state_dir)),
                *("--keep-out", str(data_dir)),  # whoever may read files is not to read our keys
            ],
            stdin=subprocess.PIPE,
            env=environ,
            umask=umask,
            start_new_session=True,  # Ctrl-C is for the hub, which then ends the agent
        )
        # Before it, or any command of its machine, has begun: Python takes longer to start.
        with suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, open_files)
        try:
            code = await process.wait()
        finally:
            assert process.stdin is not None
            with trio.CancelScope(shield=True), trio.move_on_after(_STOP_S):
                await process.stdin.aclose()
                await process.wait()
        _log.warning("the local agent ended", extra={"exit_code": code})
        if code == _FINAL:
            return
        if trio.current_time() - begun_s > _RESTART_MOST_S:
            restart_s = _RESTART_S
        await trio.sleep(restart_s)
        restart_s = min(2 * restart_s, _RESTART_MOST_S)
