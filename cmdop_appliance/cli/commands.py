"""`cmdop commands`: what has run, and what runs."""

import itertools
import sys
from typing import Any

import click

from cmdop_appliance.cli.batch_view import show_batch, telling_of_no_answer, view_options
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.follow import FollowingCommand, follow
from cmdop_appliance.cli.machine_names import MachineName
from cmdop_appliance.cli.output import output_option, show, show_one
from cmdop_appliance.cli.targets import find_machine
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.resources.resource import PAGE_ITEMS
from cmdop_appliance.sdk.types import Command


@click.group()
def commands() -> None:
    """The executions on all machines."""


@commands.command("ls")
@client_options
@output_option
@click.option("--machine", type=MachineName(), help="Only of this machine.")
@click.option("--status", help="Only running, completed, failed, …")
@click.option("--batch", metavar="ID", help="Only of this batch.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True)
def list_commands(
    client: Client,
    form: str | None,
    machine: str | None,
    status: str | None,
    batch: str | None,
    limit: int,
) -> None:
    """List the newest commands first."""
    machine_id = find_machine(client, machine)["id"] if machine else None
    newest = client.commands.list(
        machine_id=machine_id,
        status=status,
        batch_id=batch,
        page_items=min(limit, PAGE_ITEMS),
    )
    found = itertools.islice(newest, limit)
    if form in ("json", "jsonl"):
        show(found, [], form)
        return
    columns = ["id", "status", "exit_code", "started_at", "note", "command"]
    show(map(_noted, found), columns, form)


def _noted(command: Command) -> dict[str, Any]:
    """The record, and in its `note` what one must know beside its status."""
    notes = []
    if command["finished_at"] is None:
        if command["session_id"] is None:
            notes.append("not sent yet")
        if command["cancel_requested"]:
            notes.append("cancelling")
        if command["stale_since"] is not None:
            notes.append(f"no word since {command['stale_since']}")
    if command["error"] is not None:
        notes.append(command["error"]["code"])
    if command["late"]:
        notes.append("late")
    if command["unknown_to_hub"]:
        notes.append("unknown to the hub")
    return {**command, "note": notes}


@commands.command("show")
@client_options
@output_option
@click.argument("command_id", metavar="ID")
def show_command(client: Client, form: str | None, command_id: str) -> None:
    """Show one command, with its output."""
    show_one(client.commands.get(command_id), form)


commands.add_command(show_command, "get")  # as the API calls it


@commands.command("follow", cls=FollowingCommand)
@client_options
@click.argument("command_id", metavar="ID")
def follow_command(client: Client, command_id: str) -> int:
    """Show a command's output from its first byte, and exit as it does.

    Exit codes are those of cmdop exec. Ctrl-C ends the view; the command runs on.
    """
    return follow(client, command_id)


@commands.command("cancel")
@client_options
@click.argument("command_id", metavar="ID")
def cancel_command(client: Client, command_id: str) -> None:
    """End a command: SIGTERM to all of it, SIGKILL 10 s later; one that waits never starts."""
    client.commands.cancel(command_id)
    command, shown = client.commands.get(command_id), visible(command_id)
    if command["finished_at"] is not None:
        said = f"{shown} is {visible(command['status'])}"
    elif command["stale_since"] is not None:
        said = f"cancelling {shown}: its machine is away and hears of it when it is back"
    else:
        said = f"cancelling {shown}"
    print(said, file=sys.stderr)


@commands.command("resume")
@client_options
@click.argument("batch_id", metavar="BATCH")
@view_options
def resume_batch(
    client: Client, batch_id: str, exit_rule: str, form: str | None, *, no_fold: bool
) -> int:
    """Run what a batch has skipped, as a new batch, and show it as cmdop run does.

    Exit codes and Ctrl-C are those of cmdop run, too.
    """
    machines = list(client.machines.list())
    with telling_of_no_answer():
        batch = client.commands.resume_batch(batch_id, wait=False)
    return show_batch(client, batch, machines, form, exit_rule, folds=not no_fold)
