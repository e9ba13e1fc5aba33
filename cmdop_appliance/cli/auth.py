"""`cmdop auth`: API keys, and who we are."""

import socket
import sys
from typing import Final

import click

from cmdop_appliance.cli.connection import Hub, client_options, hub_options, open_client
from cmdop_appliance.cli.output import output_option, show, show_one
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client

SCOPES: Final = (
    "machines:read",
    "machines:write",
    "sessions:read",
    "sessions:write",
    "commands:execute",
    "files:read",
    "files:write",
    "schedules:read",
    "schedules:write",
    "webhooks:manage",
    "admin",
)


@click.group()
def auth() -> None:
    """API keys, and who the hub takes you for."""


@auth.command("create-key")
@client_options
@click.argument("name", default=lambda: f"cmdop on {socket.gethostname()}")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="What it allows; may be repeated. Default: everything but admin.",
)
@click.option("--expires-in-days", type=click.IntRange(min=1), help="Default: never.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the key.")
def create_key(
    client: Client, name: str, scopes: tuple[str, ...], expires_in_days: int | None, *, quiet: bool
) -> None:
    """Make an API key called NAME and show it, this once."""
    wanted = scopes or tuple(scope for scope in SCOPES if scope != "admin")
    made = client.keys.create(name, wanted, expires_in_days=expires_in_days)
    if quiet:
        print(visible(made["key"]))
        return
    show_one(made, None)
    print("keep the key now: it is not shown again", file=sys.stderr)


@auth.command("list-keys")
@client_options
@output_option
def list_keys(client: Client, form: str | None) -> None:
    """List the API keys, without their secrets."""
    show(
        client.keys.list(),
        ["id", "name", "expires_at", "created_at", "scopes"],
        form,
    )


@auth.command("revoke-key")
@client_options
@click.argument("key_id", metavar="ID")
def revoke_key(client: Client, key_id: str) -> None:
    """Make an API key worthless, at once."""
    client.keys.revoke(key_id)
    print(f"revoked {visible(key_id)}", file=sys.stderr)


@auth.command("status")
@hub_options
@output_option
def status(hub: Hub, form: str | None) -> None:
    """Show the hub, where its address was found, and what the key allows."""
    with open_client(hub) as client:
        me = client.me()
    show_one(me if form else {"hub": hub.url, "found_by": hub.source, **me}, form)
