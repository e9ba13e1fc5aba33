"""Running git: without a shell, a prompt or an end to wait for, and all of it ended if need be."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio
from trio.lowlevel import FdStream

from cmdop_appliance.agent.coding.refusal import Refusal
from cmdop_appliance.agent.files.failures import shown

# The hub waits a minute for a terminal: what takes longer than this is undone instead.
GIT_S: Final = 50.0

_END_S: Final = 5.0  # from SIGTERM to SIGKILL: git takes its locks away before it ends
_PIPE_BYTES: Final = 64 * 1024  # what a pipe holds (pipe(7)), and more than any answer has
_SHOWN_LINES: Final = 5  # of what git says, in a message
_SHOWN_CHARS: Final = 500  # of such a line: the reason stands at its end, behind two paths

# The agent may itself have been started by git, as from a hook (git rev-parse --local-env-vars), or
# by sudo: then git would trust the repositories of who did that, and run their hooks.
_DROPPED: Final = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
    "SUDO_UID",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call of git."""

    code: int  # of its exit; below 0: the signal that ended it
    output: bytes  # the last 64 KiB
    errors: bytes  # the same

    @property
    def words(self) -> str:
        """What it says is wrong, for a message: one line that does nothing to a terminal."""
        lines = self.errors.splitlines()[-_SHOWN_LINES:]
        told = [
            shown(line, _SHOWN_CHARS)
            for line in lines
            if not line.startswith(b"Preparing worktree")
        ]
        return " ".join(told) or f"it ended with {self.code}"


class Git:
    """The git of this machine."""

    def __init__(self, program: str, environment: Mapping[str, str]) -> None:
        self._program = program
        self._environment = {
            **{name: value for name, value in environment.items() if name not in _DROPPED},
            "LC_ALL": "C",  # we read what it says
            "GIT_TERMINAL_PROMPT": "0",
        }

    async def ask(self, directory: str, *words: str, keep: Sequence[int] = ()) -> Answer:
        """Run it in a directory. It and its descendants keep the descriptors `keep` open.

        When this is cancelled, git has ended, and so has all that it started in its session.

        Raises:
            Refusal: it cannot be started, or was ended because it took `GIT_S`.
        """
        with trio.move_on_after(GIT_S):
            return await self._ask([self._program, "-C", directory, *words], keep)
        raise Refusal("git_failed", f"git on {socket.gethostname()} was ended after {GIT_S:g} s")

    async def _ask(self, argv: list[str], keep: Sequence[int]) -> Answer:
        try:
            process = await trio.lowlevel.open_process(
                argv,
                env=self._environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=keep,
            )
        except OSError as exc:
            reason = f"cannot start {self._program}: {exc.strerror}"
            raise Refusal("git_failed", reason) from exc
        output, errors = process.stdout, process.stderr
        assert isinstance(output, FdStream)
        assert isinstance(errors, FdStream)
        told = {output: bytearray(), errors: bytearray()}
        try:
            async with trio.open_nursery() as nursery:
                for stream, kept in told.items():
                    nursery.start_soon(_follow, stream, kept)
                await process.wait()
                nursery.cancel_scope.cancel()  # a hook's daemon may keep them open for ever
            for stream, kept in told.items():
                with suppress(BlockingIOError):  # nothing is left
                    kept += os.read(stream.fileno(), _PIPE_BYTES)
        except BaseException:
            with trio.CancelScope(shield=True):
                await _end(process, told)
            raise
        finally:
            output.close()
            errors.close()
        assert process.returncode is not None
        return Answer(process.returncode, bytes(told[output]), bytes(told[errors]))


async def _follow(stream: FdStream, kept: bytearray) -> None:
    async for chunk in stream:
        kept += chunk
        del kept[:-_PIPE_BYTES]


async def _end(process: trio.Process, streams: Iterable[FdStream]) -> None:
    """End it and its group. Whoever still has a stream of its still runs."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with trio.move_on_after(_END_S):
            await process.wait()
            for stream in streams:
                await _follow(stream, bytearray())
            return
