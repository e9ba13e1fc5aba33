"""`cmdop exec`: a command on a machine, as if it ran here."""

import sys
from contextlib import suppress
from typing import Any

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.execution import execution, execution_options
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.follow import OURS, FollowingCommand, Foreground, follow
from cmdop_appliance.cli.machine_names import MachineName
from cmdop_appliance.cli.targets import find_machine
from cmdop_appliance.cli.text import visible
from cmdop_appliance.cli.words import WordsCommand, shell_text, words_behind
from cmdop_appliance.sdk import Client, CmdopError, Conflict
from cmdop_appliance.sdk.types import CommandOptions, Machine


class ExecCommand(WordsCommand, FollowingCommand):
    """Takes what follows `--` as it is, and fails with 255."""


@click.command("exec", cls=ExecCommand, options_metavar="[OPTIONS]")
@client_options
@click.argument("machine", type=MachineName())
@click.argument("words", nargs=-1, metavar="-- COMMAND…")
@execution_options
@click.option("--stdin", is_flag=True, help="Pass what is on standard input.")
@click.option("--pty", "-t", is_flag=True, help="In a terminal; all it writes is its stdout.")
@click.option("--serial-key", metavar="K", help="Start after those before it with this key.")
@click.option("--supersede-key", metavar="K", help="Replace unsent commands with this key.")
@click.option("--detach", is_flag=True, help="Only start it, and print its id.")
def exec_command(
    client: Client,
    /,
    machine: str,
    words: tuple[str, ...],
    serial_key: str | None,
    supersede_key: str | None,
    *,
    stdin: bool,
    pty: bool,
    detach: bool,
    **given: Any,
) -> int:
    """Run COMMAND on MACHINE, and exit with its exit code.

    One word is shell text as it stands: cmdop exec nas -- 'df -h | sort'. Several words are one
    command and its arguments. MACHINE is an id, a name, a host name, or a unique beginning of one.

    Exit codes: the command's own (128+n when signal n ended it), 124 on timeout, 255 when the
    command could not be run or followed. Ctrl-C cancels the command; a second one leaves it alone.
    """
    text = shell_text(words, words_behind(), "cmdop exec MACHINE -- COMMAND…")
    options: CommandOptions = {
        **execution(**given),
        "stdin": _standard_input() if stdin else None,
        "pty": pty or None,
        "serial_key": serial_key,
        "supersede_key": supersede_key,
    }
    found = find_machine(client, machine)
    try:
        started = client.commands.start(found["id"], text, **options)
    except Conflict as exc:
        if exc.code != "session_not_active":
            raise
        status = exc.details.get("current_status", "DISCONNECTED")
        raise Failure(
            f"{found['name']} is not connected ({status})",
            exit_code=OURS,
            hint="--queue waits for it",
        ) from exc
    except KeyboardInterrupt:
        said = "the hub has not answered; if the command was recorded: cmdop commands ls shows it"
        print(said, file=sys.stderr)
        return failures.INTERRUPTED
    if detach:
        print(visible(started["id"]))
        return 0
    with Foreground(client, lambda own: own.commands.cancel(started["id"])) as foreground:
        if options["queue"]:
            _tell_if_waiting(client, found, started["id"])
        return follow(client, started["id"], foreground)


def _tell_if_waiting(client: Client, machine: Machine, command_id: str) -> None:
    command = None
    with suppress(CmdopError):  # whoever follows it next says what is wrong
        command = client.commands.get(command_id)
    if command and command["status"] == "pending" and command["session_id"] is None:
        name, shown = visible(machine["name"]), visible(command_id)
        print(f"{name} is away: {shown} waits for it; Ctrl-C cancels it", file=sys.stderr)


def _standard_input() -> str:
    from cmdop_appliance.protocol.limits import STDIN_BYTES  # msgspec: only with --stdin

    raw = sys.stdin.buffer.read(STDIN_BYTES + 1)
    if len(raw) > STDIN_BYTES:
        raise Failure(f"standard input is larger than {STDIN_BYTES} bytes", exit_code=OURS)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Failure("standard input has bytes that are not UTF-8", exit_code=OURS) from None
