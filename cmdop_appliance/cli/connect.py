"""`cmdop connect`: a terminal on a machine, which one can leave and come back to."""

import shlex

import click

from cmdop_appliance.cli.attaching import attach, detach_key_option
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.detach_key import DetachKey
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.follow import OURS, FollowingCommand
from cmdop_appliance.cli.local_terminal import LocalTerminal
from cmdop_appliance.cli.machine_names import MachineName
from cmdop_appliance.cli.targets import find_machine, require_connected
from cmdop_appliance.cli.words import WordsCommand, shell_text, variables, words_behind
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.terminal_types import Terminal
from cmdop_appliance.sdk.types import Machine


class ConnectCommand(WordsCommand, FollowingCommand):
    """Takes what follows `--` as it is, and fails with 255."""


@click.command("connect", cls=ConnectCommand, options_metavar="[OPTIONS]")
@client_options
@click.argument("machine", type=MachineName())
@click.argument("words", nargs=-1, metavar="[-- COMMAND…]")
@click.option("--session", metavar="NAME", help="The terminal of this name; a new one if none is.")
@click.option("--observe", is_flag=True, help="Only look, at one that runs.")
@detach_key_option
@click.option(
    "--cwd",
    metavar="DIR",
    help="Working directory on the machine. Default: its user's home, also '~'.",
)
@click.option("--env", metavar="K=V", multiple=True, help="Set a variable; may be repeated.")
@click.option("--user", help="Run as this user of the machine.")
@click.option("--record/--no-record", default=None, help="Keep what it shows, to play it again.")
def connect(
    client: Client,
    machine: str,
    words: tuple[str, ...],
    session: str | None,
    detach_key: DetachKey,
    cwd: str | None,
    env: tuple[str, ...],
    user: str | None,
    *,
    observe: bool,
    record: bool | None,
) -> int:
    """Open a terminal on MACHINE, or come back to one.

    It runs on when you leave it, and when your connection, the hub or the agent breaks. COMMAND
    runs in place of the login shell: one word is shell text, several are one command and its
    arguments. COMMAND and the options about it are for a new terminal; one that runs stays as it
    is. MACHINE is an id, a name, a host name, or a unique beginning of one.

    Exit codes: the program's own when it ends (128+n by signal n), 0 when you leave, 255 when the
    terminal could not be opened, or was lost.
    """
    local = LocalTerminal()
    argv, variable = _argv(words, words_behind()), variables(env)
    found = find_machine(client, machine)
    running = None
    if observe or session is not None:
        running = _find(client, found, session, observe=observe)
    if running is not None:
        return attach(client, local, running, found["name"], detach_key, observe=observe)
    require_connected(found)
    if cwd is not None and cwd.partition("/")[0] == "~":  # a relative one counts from there
        cwd = "." + cwd[1:]
    cols, rows = local.size
    opened = client.terminals.open(
        found["id"],
        name=session,
        argv=argv or None,
        cwd=cwd,
        env=variable or None,
        user=user,
        cols=cols,
        rows=rows,
        record=record,
    )
    return attach(client, local, opened, found["name"], detach_key, is_new=opened["created"])


def _argv(before: tuple[str, ...], after: tuple[str, ...] | None) -> list[str]:
    """The words of a command as its argv; none: the login shell's."""
    if not before and not after:
        return []
    text = shell_text(before, after, "cmdop connect MACHINE -- COMMAND…")
    words = [*(after or before)]
    is_plain = len(words) > 1 or shlex.quote(text) == text
    return words if is_plain else ["/bin/sh", "-c", text]


def _find(client: Client, machine: Machine, name: str | None, *, observe: bool) -> Terminal | None:
    """The running terminal of this name, or for an observer the only one; None: a new one is due.

    Raises:
        Failure: there is nothing to observe, or more than one.
    """
    running = list(client.terminals.list(machine_id=machine["id"], status="running"))
    if name is not None:
        running = [each for each in running if name in (each["name"], each["id"])]
    if len(running) == 1 or not (running or observe):
        return running[0] if running else None
    if running:
        names = ", ".join(each["name"] for each in running)
        said, hint = f"which one on {machine['name']}: {names}?", "--session NAME"
    else:
        called = f" called {name}" if name else ""
        said, hint = f"no terminal{called} runs on {machine['name']}", "cmdop sessions ls"
    raise Failure(said, exit_code=OURS, hint=hint)
