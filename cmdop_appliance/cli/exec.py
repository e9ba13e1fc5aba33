"""`cmdop exec`: a command on a machine, as if it ran here."""

import os
import shlex
import signal
import sys
import threading
from types import FrameType
from typing import Any, Final, Self

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import Hub, hub_options, open_client
from cmdop_appliance.cli.durations import Duration
from cmdop_appliance.cli.failures import Failure, as_failure, report
from cmdop_appliance.cli.targets import find_machine
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client, CmdopError, Conflict, Ended, Gap, Output
from cmdop_appliance.sdk.types import Command

OURS: Final = 255  # what ssh answers when it, and not the command, failed
TIMED_OUT: Final = 124  # as timeout(1)
_WORDS: Final = "cmdop.exec.words"


class ExecCommand(click.Command):
    """Takes what follows `--` as it is, and fails with 255: every other code is the command's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Click's parsing, for what stands before `--`."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[_WORDS] = tuple(args[at + 1 :])
            args = args[:at]
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as exc:
            raise Failure(
                exc.format_message(),
                exit_code=OURS,
                hint="cmdop exec [OPTIONS] MACHINE -- COMMAND…",
            ) from exc

    def invoke(self, ctx: click.Context) -> Any:
        """Click's, with every failure of ours as 255."""
        try:
            return super().invoke(ctx)
        except CmdopError as exc:
            failure = as_failure(exc)
        except Failure as exc:
            failure = exc
        failure.exit_code = OURS
        raise failure


@click.command("exec", cls=ExecCommand, options_metavar="[OPTIONS]")
@hub_options
@click.argument("machine")
@click.argument("words", nargs=-1, metavar="-- COMMAND…")
@click.option("--timeout", type=Duration(), help="End the command after this: 30s, 5m, 1h.")
@click.option("--cwd", metavar="DIR", help="Working directory on the machine.")
@click.option("--env", metavar="K=V", multiple=True, help="Set a variable; may be repeated.")
@click.option("--user", help="Run as this user of the machine.")
@click.option("--stdin", is_flag=True, help="Pass what is on standard input.")
@click.option("--detach", is_flag=True, help="Only start it, and print its id.")
@click.pass_context
def exec_command(
    ctx: click.Context,
    hub: Hub,
    machine: str,
    words: tuple[str, ...],
    timeout: int | None,
    cwd: str | None,
    env: tuple[str, ...],
    user: str | None,
    *,
    stdin: bool,
    detach: bool,
) -> int:
    """Run COMMAND on MACHINE, and exit with its exit code.

    One word is shell text as it stands: cmdop exec nas -- 'df -h | sort'. Several words are one
    command and its arguments. MACHINE is an id, a name, a host name, or a unique beginning of one.

    Exit codes: the command's own (128+n when signal n ended it), 124 on timeout, 255 when the
    command could not be run or followed. Ctrl-C cancels the command; a second one leaves it alone.
    """
    text, variables = _shell_text(words, ctx.meta.get(_WORDS)), _variables(env)
    with open_client(hub) as client:
        started = client.commands.start(
            find_machine(client, machine)["id"],
            text,
            timeout_ms=timeout,
            cwd=cwd,
            env=variables,
            user=user,
            stdin=_standard_input() if stdin else None,
        )
        if detach:
            print(visible(started["id"]))
            return 0
        return _follow(hub, client, started["id"])


def _shell_text(before: tuple[str, ...], after: tuple[str, ...] | None) -> str:
    if before and after is not None:
        raise Failure(
            f'"{before[0]}" stands before --',
            exit_code=OURS,
            hint="only options and the machine go before it, all of the command after it",
        )
    words = after or before
    if not words:
        raise Failure("no command is given", exit_code=OURS, hint="cmdop exec MACHINE -- COMMAND…")
    text = words[0] if len(words) == 1 else shlex.join(words)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Failure("the command has bytes that are not UTF-8", exit_code=OURS) from None
    return text


def _variables(assignments: tuple[str, ...]) -> dict[str, str] | None:
    variables = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise Failure(f'--env needs NAME=VALUE, not "{assignment}"', exit_code=OURS)
        variables[name] = value
    return variables or None


def _standard_input() -> str:
    from cmdop_appliance.protocol.limits import STDIN_BYTES  # msgspec: only with --stdin

    raw = sys.stdin.buffer.read(STDIN_BYTES + 1)
    if len(raw) > STDIN_BYTES:
        raise Failure(f"standard input is larger than {STDIN_BYTES} bytes", exit_code=OURS)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Failure("standard input has bytes that are not UTF-8", exit_code=OURS) from None


def _follow(hub: Hub, client: Client, command_id: str) -> int:
    with _Interrupts(hub, command_id) as interrupts:
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
                        return _exit_code(command, interrupted=interrupts.seen)
        except BrokenPipeError:  # nobody reads on: end the command, as a local pipe would
            _cancel(hub, command_id)
            return failures.BROKEN_PIPE
        except OSError as exc:  # the same with a reason, such as a full disk
            _cancel(hub, command_id)
            raise Failure(f"cannot write the output: {exc.strerror}", exit_code=OURS) from exc
        except KeyboardInterrupt:
            print(f"{visible(command_id)} is left to itself", file=sys.stderr)
            return failures.INTERRUPTED
        except CmdopError as exc:
            raise Failure(
                f"{exc}; {command_id} may still run",
                exit_code=OURS,
                hint=f"cmdop commands get {command_id}",
            ) from exc
    raise AssertionError("a stream ends with its last item or an error")


def _exit_code(command: Command, *, interrupted: bool) -> int:
    status, code = command["status"], command["exit_code"]
    error = command.get("error")
    reason = (error and (error.get("message") or error["code"])) or "no reason is known"
    match status:
        case "timeout":
            report(Failure("the command ran into its timeout", exit_code=TIMED_OUT))
            return TIMED_OUT
        case "cancelled" if interrupted:
            return failures.INTERRUPTED
        case "cancelled":
            report(Failure("the command was cancelled", exit_code=OURS))
            return OURS if code is None else code
        case "failed" if code is None:
            raise Failure(f"the command could not start: {reason}", exit_code=OURS)
        case _ if code is None:
            raise Failure(f"the command is {status}: {reason}", exit_code=OURS)
    return code


class _Interrupts:
    """While open: the first Ctrl-C cancels the command and goes on, the second interrupts us."""

    def __init__(self, hub: Hub, command_id: str) -> None:
        self._hub = hub
        self._command_id = command_id
        self.seen = False

    def __enter__(self) -> Self:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before != signal.SIG_IGN:  # a shell that put us in the background wants no Ctrl-C
            signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _on_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True
        # Not print(): this may run in the midst of a write to the same buffer.
        os.write(2, b"cancelling; Ctrl-C again leaves it running\n")
        threading.Thread(target=_cancel, args=(self._hub, self._command_id), daemon=True).start()


def _cancel(hub: Hub, command_id: str) -> None:
    try:
        with open_client(hub) as client:
            client.commands.cancel(command_id)
    except Conflict:
        pass  # it has ended by itself
    except CmdopError as exc:
        os.write(2, f"error: could not cancel: {visible(exc)}\n".encode())
