"""`cmdop context`: the hubs one has logged in to."""

import os
import sys

import click

from cmdop_appliance.cli.contexts import read_contexts, write_contexts
from cmdop_appliance.cli.login import logout
from cmdop_appliance.cli.output import output_option, show
from cmdop_appliance.cli.text import visible


@click.group()
def context() -> None:
    """The hubs that cmdop login has kept a key for."""


@context.command("ls")
@output_option
def list_contexts(form: str | None) -> None:
    """List them, without their keys."""
    contexts = read_contexts(os.environ)
    rows = [
        {"name": name, "current": name == contexts.current, "url": each.url}
        for name, each in sorted(contexts.known.items())
    ]
    show(rows, ["name", "current", "url"], form)


@context.command("use")
@click.argument("name")
def use_context(name: str) -> None:
    """Talk to this hub from now on."""
    contexts = read_contexts(os.environ).using(name)
    write_contexts(contexts, os.environ)
    print(visible(f"using {contexts.get(name).url}"), file=sys.stderr)


context.add_command(logout, "rm")
