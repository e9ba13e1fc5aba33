"""`cmdop api`: any call of the API, for what has no command of its own."""

import json
import sys

import click

from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.text import visible_json
from cmdop_appliance.sdk import Client


@click.command("api")
@client_options
@click.argument("method", type=click.Choice(["GET", "POST", "PATCH", "DELETE"], False))
@click.argument("path")
@click.option("-d", "--data", metavar="JSON", help="The body, an object; - is standard input.")
def call_api(client: Client, method: str, path: str, data: str | None) -> None:
    """Print what the hub answers to METHOD PATH, as JSON.

    PATH is below /api/v1 and may have a query: cmdop api GET '/machines?limit=5'. The hub's /docs
    shows all there is.
    """
    body = None
    if data is not None:
        try:
            body = json.loads(sys.stdin.read() if data == "-" else data)
        except (ValueError, RecursionError) as exc:
            raise click.UsageError(f"--data is not JSON: {exc}") from exc
        if not isinstance(body, dict):
            raise click.UsageError("--data is not an object")
    answer = client.request(method, f"/{path.removeprefix('/')}", body=body)
    print(visible_json(answer, indent=2))
