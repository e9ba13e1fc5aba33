"""`cmdop commands`: what has run, and what runs."""

import itertools
import sys

import click

from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.output import output_option, show, show_one
from cmdop_appliance.cli.targets import find_machine
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.client import PAGE_ITEMS


@click.group()
def commands() -> None:
    """The executions on all machines."""


@commands.command("ls")
@client_options
@output_option
@click.option("--machine", help="Only of this machine.")
@click.option("--status", help="Only running, completed, failed, …")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True)
def list_commands(
    client: Client, form: str | None, machine: str | None, status: str | None, limit: int
) -> None:
    """List the newest commands first."""
    machine_id = find_machine(client, machine)["id"] if machine else None
    newest = client.commands.list(
        machine_id=machine_id, status=status, page_items=min(limit, PAGE_ITEMS)
    )
    columns = ["id", "status", "exit_code", "started_at", "command"]
    show(itertools.islice(newest, limit), columns, form)


@commands.command("get")
@client_options
@output_option
@click.argument("command_id", metavar="ID")
def get_command(client: Client, form: str | None, command_id: str) -> None:
    """Show one command, with its output."""
    show_one(client.commands.get(command_id), form)


@commands.command("cancel")
@client_options
@click.argument("command_id", metavar="ID")
def cancel_command(client: Client, command_id: str) -> None:
    """End a command: SIGTERM to all of it, SIGKILL 10 s later."""
    client.commands.cancel(command_id)
    print(f"cancelling {visible(command_id)}", file=sys.stderr)
