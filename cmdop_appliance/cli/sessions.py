"""`cmdop sessions`: the terminals and coding sessions of all machines."""

import itertools
import sys
from contextlib import suppress
from typing import Any, Final

import click

from cmdop_appliance.cli.attaching import attach, detach_key_option
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.detach_key import DetachKey
from cmdop_appliance.cli.follow import FollowingCommand
from cmdop_appliance.cli.local_terminal import LocalTerminal
from cmdop_appliance.cli.machine_names import MachineName
from cmdop_appliance.cli.output import output_option, show
from cmdop_appliance.cli.targets import find_machine, pick_by
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client, Forbidden
from cmdop_appliance.sdk.terminal_types import Terminal

_LIVE: Final = ("starting", "running")


@click.group()
def sessions() -> None:
    """Terminals and coding sessions: what one can leave and come back to."""


@sessions.command("ls")
@client_options
@output_option
@click.option("--machine", type=MachineName(), help="Only of this machine.")
@click.option(
    "--kind",
    type=click.Choice(("terminal", "coding")),
    help="Only terminals, or only coding sessions.",
)
@click.option("-a", "--all", "ended", is_flag=True, help="Also those that have ended.")
def list_sessions(
    client: Client, form: str | None, machine: str | None, kind: str | None, *, ended: bool
) -> None:
    """List what runs, newest first; a coding session that waits for somebody says so."""
    machine_id = find_machine(client, machine)["id"] if machine else None
    full_kind = "coding_session" if kind == "coding" else kind
    statuses = (None,) if ended else _LIVE
    wanted = itertools.chain.from_iterable(
        client.terminals.list(machine_id=machine_id, kind=full_kind, status=status)
        for status in statuses
    )
    if form in ("json", "jsonl", "name"):
        show(wanted, ["name"], form)
        return
    names = {}
    with suppress(Forbidden):  # of a key that may not see machines, lists have ids
        names = {each["id"]: each["name"] for each in client.machines.list()}
    columns = ["name", "kind", "machine", "state", "who", "viewers", "size", "created_at"]
    show([_row(each, names) for each in wanted], columns, form, spare=["viewers", "size", "who"])


@sessions.command("attach", cls=FollowingCommand)
@client_options
@click.argument("name")
@click.option("--observe", is_flag=True, help="Only look.")
@detach_key_option
def attach_session(client: Client, name: str, detach_key: DetachKey, *, observe: bool) -> int:
    """Come back to a terminal or coding session, by its name, id, or a unique beginning of one.

    Exit codes are those of cmdop connect.
    """
    local = LocalTerminal(otherwise="cmdop sessions ls needs none")
    terminal = _find(client, name)
    where = terminal["machine_id"]
    with suppress(Forbidden):
        where = client.machines.get(where)["name"]
    return attach(client, local, terminal, where, detach_key, observe=observe)


@sessions.command("end")
@client_options
@click.argument("name")
def end_session(client: Client, name: str) -> None:
    """End a terminal or coding session, and all that runs in it."""
    terminal = _find(client, name)
    client.terminals.end(terminal["id"])
    shown = visible(terminal["name"])
    terminal = client.terminals.get(terminal["id"])
    print(
        f"{shown} has ended" if terminal["status"] == "ended" else f"ending {shown}",
        file=sys.stderr,
    )


def _find(client: Client, name: str) -> Terminal:
    """The one that runs and that `name` names.

    Raises:
        Failure: none does, or more than one.
    """
    found = [each for status in _LIVE for each in client.terminals.list(status=status)]
    return pick_by(("id", "name"), name, found, "session", "cmdop connect MACHINE")


def _row(terminal: Terminal, names: dict[str, str]) -> dict[str, Any]:
    viewers = terminal["viewers"]
    return {
        **terminal,
        "kind": terminal["agent"] or "terminal",
        "machine": names.get(terminal["machine_id"], terminal["machine_id"]),
        "state": _state(terminal),
        "who": terminal["user_email"],
        "viewers": viewers["operators"] + viewers["observers"],
        "size": f"{terminal['cols']}x{terminal['rows']}",
    }


def _state(terminal: Terminal) -> str:
    """What one must know of it at first sight."""
    match terminal:
        case {"status": "ended", "end": "exited", "exit_code": int(code)}:
            return f"exited {code}"
        case {"status": "ended", "error": {"code": code}}:
            return f"{terminal['end']}: {code}"
        case {"status": "ended"}:
            return terminal["end"] or "ended"
        case {"ending": True}:
            return "ending"
        case {"stale_since": str()}:
            return "away"
        case {"waiting": True}:
            return "waiting"
    return terminal["status"]
