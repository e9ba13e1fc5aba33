"""`cmdop machines`: list, add, remove."""

import shlex
import sys
from typing import Literal
from urllib.parse import urlsplit

import click

from cmdop_appliance.cli.connection import Hub, client_options, hub_options, open_client
from cmdop_appliance.cli.durations import Duration
from cmdop_appliance.cli.output import output_option, show
from cmdop_appliance.cli.targets import find_machine
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client

_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")


@click.group()
def machines() -> None:
    """The managed machines."""


@machines.command("ls")
@client_options
@output_option
@click.option("--status", type=click.Choice(["online", "offline"]))
@click.option("--tags", metavar="A,B", help="Only machines that have all of these.")
@click.option("--search", metavar="TEXT")
def list_machines(
    client: Client,
    form: str | None,
    status: Literal["online", "offline"] | None,
    tags: str | None,
    search: str | None,
) -> None:
    """List the machines."""
    found = client.machines.list(status=status, tags=_split(tags), search=search)
    show(found, ["name", "status", "id", "last_seen", "hostname", "os", "tags"], form)


@machines.command("add")
@hub_options
@click.option("--uses", type=click.IntRange(min=1), help="Machines that may join (default 1).")
@click.option("--ttl", type=Duration(), help="How long the token is good: 10m, 1h, 7d.")
@click.option("--tags", metavar="A,B", help="Tags the machines start with.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the token.")
def add_machine(
    hub: Hub, uses: int | None, ttl: int | None, tags: str | None, *, quiet: bool
) -> None:
    """Print the line that joins a machine: paste it there."""
    with open_client(hub) as client:
        made = client.enrollment_tokens.create(ttl_ms=ttl, max_uses=uses, tags=_split(tags))
    if quiet:
        print(visible(made["token"]))
        return
    print(f"cmdop agent --hub {shlex.quote(hub.url)} --token {visible(made['token'])}")
    print(
        f"run this on the machine; good until {visible(made['expires_at'])}"
        f" for {visible(made['max_uses'])} machine(s)",
        file=sys.stderr,
    )
    if urlsplit(hub.url).hostname in _THIS_MACHINE:
        print(
            "this address is good on the hub's own machine only: elsewhere put the hub's there",
            file=sys.stderr,
        )


@machines.command("rm")
@client_options
@click.argument("machine")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def remove_machine(client: Client, machine: str, *, yes: bool) -> int:
    """Remove a machine: its credential is revoked and its connection cut."""
    found = find_machine(client, machine)
    name = visible(f"{found['name']} ({found['id']})")
    on_terminal = sys.stdin is not None and sys.stdin.isatty()
    if on_terminal and not yes and not click.confirm(f"remove {name}?", err=True):
        return 1
    client.machines.delete(found["id"])
    print(f"removed {name}", file=sys.stderr)
    return 0


def _split(tags: str | None) -> list[str]:
    return [tag.strip() for tag in (tags or "").split(",") if tag.strip()]
