"""A command's output and end, shown as if it ran here: what `exec` and `commands follow` share."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Self

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.failures import Failure, as_failure
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client, CmdopError, Conflict, Ended, Gap, NotFound, Output
from cmdop_appliance.sdk.types import Command

OURS: Final = 255  # what ssh answers when it, and not the command, failed
TIMED_OUT: Final = 124  # as timeout(1)

_SAID: Final = {
    "failed": "the command could not start",
    "expired": "the command expired",
    "cancelled": "the command was cancelled",
    "skipped": "the command was skipped",
}


class FollowingCommand(click.Command):
    """Fails with 255: every other code is that of the command on the machine."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Click's, with a wrong use as 255."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as exc:
            raise Failure(
                exc.format_message(), exit_code=OURS, hint=f"{ctx.command_path} --help"
            ) from exc

    def invoke(self, ctx: click.Context) -> Any:
        """Click's, with every failure of ours as 255."""
        try:
            return super().invoke(ctx)
        except CmdopError as exc:
            failure = as_failure(exc)
        except Failure as exc:
            failure = exc
        if failure.exit_code != TIMED_OUT:
            failure.exit_code = OURS
        raise failure


class Foreground:
    """What ends with us. While open, the first Ctrl-C cancels it; a second one leaves it alone."""

    def __init__(self, client: Client, cancel: Callable[[Client], None]) -> None:
        """`cancel` is given a client of its own."""
        self._client = client
        self._cancel = cancel
        self.is_interrupted = False

    def __enter__(self) -> Self:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before != signal.SIG_IGN:  # a shell that put us in the background wants no Ctrl-C
            signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def cancel(self) -> None:
        """Cancel it, or say why that failed."""
        try:
            with self._client.copy() as client:
                self._cancel(client)
        except Conflict:
            pass  # it has ended by itself
        except CmdopError as exc:
            os.write(2, f"error: could not cancel: {visible(exc)}\n".encode())

    def _on_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_interrupted:
            raise KeyboardInterrupt
        self.is_interrupted = True
        # Not print(): this may run in the midst of a write to the same buffer.
        os.write(2, b"cancelling; Ctrl-C again leaves it running\n")
        threading.Thread(target=self.cancel, daemon=True).start()


def follow(client: Client, command_id: str, foreground: Foreground | None = None) -> int:
    """Show all output of a command, from its first byte, and return its exit code.

    `foreground`: the command ends with us; without it Ctrl-C and a reader that leaves only end
    the view.

    Raises:
        Failure: it ended without an exit code, or could not be followed to its end.
        NotFound: no such command.
    """
    try:
        for item in client.commands.stream(command_id):
            match item:
                case Output(stream="stdout", data=data):
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()
                case Output(data=data):
                    sys.stderr.buffer.write(data)
                    sys.stderr.buffer.flush()
                case Gap(stream=stream, size=size):
                    print(f"[{size} bytes of {stream} were not kept]", file=sys.stderr)
                case Ended(command=command):
                    by_us = foreground is not None and foreground.is_interrupted
                    if by_us and command["status"] == "cancelled":
                        return failures.INTERRUPTED
                    return exit_code(command)
    except BrokenPipeError:  # nobody reads on: end the command, as a local pipe would
        if foreground is not None:
            foreground.cancel()
        return failures.BROKEN_PIPE
    except OSError as exc:  # the same with a reason, such as a full disk
        if foreground is not None:
            foreground.cancel()
        raise Failure(f"cannot write the output: {exc.strerror}", exit_code=OURS) from exc
    except KeyboardInterrupt:
        shown = visible(command_id)
        print(f"{shown} is left to itself; see: cmdop commands follow {shown}", file=sys.stderr)
        return failures.INTERRUPTED
    except NotFound:
        raise
    except CmdopError as exc:
        raise Failure(
            f"{exc}; {command_id} may still run",
            exit_code=OURS,
            hint=f"cmdop commands follow {command_id}",
        ) from exc
    raise AssertionError("a stream ends with its last item or an error")


def exit_code(command: Command) -> int:
    """The exit code of a command that has ended.

    Raises:
        Failure: it has none, and why.
    """
    status, code = command["status"], command["exit_code"]
    if code is not None and status in ("completed", "failed"):
        return code
    if status == "timeout":
        raise Failure("the command ran into its timeout", exit_code=TIMED_OUT)
    said = _SAID.get(status, f"the command is {status}")
    if reason := _reason(command):
        said += f": {reason}"
    raise Failure(said, exit_code=OURS)


def _reason(command: Command) -> str:
    if error := command.get("error"):
        return error.get("message") or error["code"]
    match command["status"]:
        case "expired" if command["session_id"] is None:
            return "its machine was not there in time"
        case "expired":
            return "it did not come to its turn in time"
        case "failed" | "lost":
            return "no reason is known"
    return ""
