"""The trial of another release: it takes this agent's place for a while, and has to be good.

    old agent                                  new agent
      closes link, journal and lock
      starts it, which dies with us ─────────►   joins the keeper, connects, is answered
      ◄──────────────────────────── healthy
      makes it the current version
      ends it, and becomes it (execve)

So our process id stays, and with it whoever watches over us: systemd, a container, a hub. What is
not healthy in time, or dies, is ended, and we go on as we were. Commands and terminals are the
keeper's, and see nothing of this. Whoever is killed meanwhile, `current` names a whole version.
"""

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, NoReturn

import trio

from cmdop_appliance.agent.keeper.environment import original_environment, process_environment
from cmdop_appliance.agent.keeper.files import open_private
from cmdop_appliance.agent.linux import die_with_parent
from cmdop_appliance.agent.upgrade import HEALTHY, Plan
from cmdop_appliance.notify import service_manager

# A new agent has so long until the hub answers it.
PATIENCE_S: Final = 60.0
# What it says meanwhile, and how much of its end is told if it is no good.
_LOG: Final = "upgrade.log"
_SAID_BYTES: Final = 500
_END_S: Final = 1.0  # from its last word to its end


class NotGood(Exception):
    """The new agent cannot take our place; `code` says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


async def try_out(state_dir: Path, plan: Plan, arguments: Sequence[str], stop: trio.Event) -> None:
    """Have the new program take our place until it is healthy; then it is the current version.

    It has ended when this returns, or raises.

    Raises:
        NotGood: it was not healthy in time, or `stop` was set, and all is as before.
    """
    log = state_dir / _LOG
    listener, speaker = os.pipe2(os.O_CLOEXEC)
    async with trio.lowlevel.FdStream(listener) as words:
        process = _start(plan.version.program, arguments, speaker, log)
        try:
            verdict = await _verdict(words, stop)
            if verdict == "exited":
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_END_S)
                raise NotGood("exited", f"the new agent ended: {_end_of(process)}{_said(log)}")
            if verdict == "silent":
                text = f"the new agent was not connected within {PATIENCE_S:.0f} s"
                raise NotGood("silent", text + _said(log))
            if verdict == "interrupted":
                text = "the agent was stopped while the new one was on trial"
                raise NotGood("interrupted", text)
            plan.home.switch(plan.version)
        except OSError as exc:
            raise NotGood("not_writable", f"{plan.home.path} cannot be written: {exc}") from exc
        finally:
            process.kill()
            process.wait()


def become(program: Path, arguments: Sequence[str]) -> NoReturn:
    """Be this program from now on; our process stays, and so do its first three descriptors."""
    environ = _environment() | service_manager().environment()
    os.execve(program, [str(program), *arguments], environ)  # noqa: S606 - there is no shell


def _start(
    program: Path, arguments: Sequence[str], speaker: int, log: Path
) -> subprocess.Popen[bytes]:
    errors = open_private(str(log), os.O_WRONLY | os.O_TRUNC)
    try:
        # In this thread, for it dies with the one that has started it.
        return subprocess.Popen(
            [program, *arguments, "--on-trial", str(speaker)],
            stdin=subprocess.DEVNULL,
            stderr=errors,
            env=_environment(),
            pass_fds=[speaker],
            preexec_fn=die_with_parent,
        )
    except OSError as exc:
        raise NotGood("exited", f"the new agent does not start: {exc}") from exc
    finally:
        os.close(speaker)
        os.close(errors)


async def _verdict(
    words: trio.lowlevel.FdStream, stop: trio.Event
) -> Literal["healthy", "exited", "silent", "interrupted"]:
    said = None
    with trio.move_on_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:

            async def give_up() -> None:
                await stop.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(give_up)
            said = await words.receive_some(len(HEALTHY))  # written in one go
            nursery.cancel_scope.cancel()
    if said is None:
        return "interrupted" if stop.is_set() else "silent"
    return "healthy" if said == HEALTHY else "exited"


def _end_of(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"exit code {code}" if code is None or code >= 0 else f"signal {-code}"


def _said(log: Path) -> str:
    said = log.read_bytes()[-_SAID_BYTES:].decode(errors="replace").strip()
    return f"; it said {said!a}" if said else ""


def _environment() -> dict[str, str]:
    return original_environment(process_environment())
