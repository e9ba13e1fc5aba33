"""`cmdop dashboard`: a link by which a browser signs in."""

import sys

import click

from cmdop_appliance.cli.connection import ONLY_HERE, Hub, hub_options, open_client
from cmdop_appliance.cli.text import visible


@click.command()
@hub_options
@click.option("-q", "--quiet", is_flag=True, help="Print only the link.")
def dashboard(hub: Hub, *, quiet: bool) -> None:
    """Print a link that opens the dashboard in a browser, signed in as this key.

    It is good once, within 10 minutes.
    """
    with open_client(hub) as client:
        made = client.request("POST", "/sign-in-links")["data"]
    print(visible(made["url"] or f"{hub.url.rstrip('/')}/sign-in#{made['token']}"))
    if not quiet:
        print("good once, within 10 minutes: whoever opens it acts as this key", file=sys.stderr)
        if hub.is_here and not made["url"]:
            print(ONLY_HERE, file=sys.stderr)
