"""`cmdop workspaces`: list, add."""

import sys

import click

from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.output import output_option, show, show_one
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client


@click.group()
def workspaces() -> None:
    """Owners of machines and keys that know nothing of each other."""


@workspaces.command("ls")
@client_options
@output_option
def list_workspaces(client: Client, form: str | None) -> None:
    """List the workspaces of the hub."""
    show(client.workspaces.list(), ["namespace", "id", "created_at"], form)


@workspaces.command("add")
@client_options
@output_option
@click.argument("namespace")
@click.option("-q", "--quiet", is_flag=True, help="Print only the key.")
def add_workspace(client: Client, form: str | None, namespace: str, *, quiet: bool) -> None:
    """Make a workspace and show its first admin key, this once."""
    made = client.workspaces.create(namespace)
    if form:
        show_one(made, form, name="namespace")
        return
    print(visible(made["api_key"]["key"]))
    if not quiet:
        print(
            f"the admin key of {visible(made['namespace'])} ({visible(made['id'])}):"
            " keep it now, it is not shown again",
            file=sys.stderr,
        )
