"""`cmdop auth`: API keys, and who we are."""

import socket
import sys
from typing import Final

import click

from cmdop_appliance.auth import GRANTABLE, Scope
from cmdop_appliance.cli.connection import Hub, client_options, hub_options, open_client
from cmdop_appliance.cli.names import Names
from cmdop_appliance.cli.output import output_option, show, show_one
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client

_SCOPES: Final = [str(scope) for scope in GRANTABLE]


class Scopes(Names):
    """Names of scopes with commas between them."""

    name = "scopes"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        """The names; each must be one."""
        choice = click.Choice(_SCOPES)
        names = super().convert(value, param, ctx)
        return [choice.convert(name, param, ctx) for name in names]


@click.group()
def auth() -> None:
    """API keys, and who the hub takes you for."""


@click.group()
def keys() -> None:
    """API keys. The same as those verbs of cmdop auth."""


@auth.command("create-key")
@client_options
@output_option
@click.argument("name", default=lambda: f"cmdop on {socket.gethostname()}")
@click.option(
    "--scopes",
    type=Scopes(),
    metavar="A,B",
    help=f"What it allows, of: {', '.join(_SCOPES)}. Default: everything but admin.",
)
@click.option(
    "--tags", type=Names(), metavar="A,B", help="Good only for machines that have all of these."
)
@click.option("--expires-in-days", type=click.IntRange(min=1), help="Default: never.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the key.")
def create_key(
    client: Client,
    form: str | None,
    name: str,
    scopes: list[str] | None,
    tags: list[str] | None,
    expires_in_days: int | None,
    *,
    quiet: bool,
) -> None:
    """Make an API key called NAME and show it, this once."""
    made = client.keys.create(
        name,
        [scope for scope in _SCOPES if scope != Scope.ADMIN] if scopes is None else scopes,
        expires_in_days=expires_in_days,
        tags=tags,
    )
    if quiet:
        print(visible(made["key"]))
        return
    show_one(made, form)
    print("keep the key now: it is not shown again", file=sys.stderr)


@auth.command("list-keys")
@client_options
@output_option
def list_keys(client: Client, form: str | None) -> None:
    """List the API keys, without their secrets."""
    show(
        client.keys.list(),
        ["id", "name", "last_used_at", "expires_at", "created_at", "tags", "scopes"],
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
    if form:
        show_one(me, form)
        return
    workspace = "{namespace} ({id})".format(**me["workspace"])
    found = {"hub": hub.url, "found_by": hub.source}
    show_one({**found, **me, "workspace": workspace}, form)


keys.add_command(create_key, "create")
keys.add_command(list_keys, "ls")
keys.add_command(revoke_key, "revoke")
