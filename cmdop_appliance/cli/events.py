"""`cmdop events`: what happens on all machines, as it happens."""

import sys

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.machine_names import MachineName
from cmdop_appliance.cli.targets import find_machine
from cmdop_appliance.cli.text import visible, visible_json
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.types import Event, EventGap


@click.command("events")
@client_options
@click.option(
    "--type", "types", multiple=True, help="Only these, such as command.failed, or session.*"
)
@click.option("--machine", type=MachineName(), help="Only of this machine.")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="Begin behind the event of this number (0: all that is kept). Default: from now on.",
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(("line", "jsonl")),
    default="line",
    help="jsonl: the hub's own records.",
)
def follow_events(
    client: Client, types: tuple[str, ...], machine: str | None, after: int | None, form: str
) -> int:
    """Show what happens on all machines until Ctrl-C; a restart of the hub is not noticed."""
    machine_id = find_machine(client, machine)["id"] if machine else None
    try:
        for item in client.events.follow(types=types, machine_id=machine_id, after=after):
            if isinstance(item, EventGap):
                said = f"[events {item.first} to {item.last} are kept no more]"
                print(said, file=sys.stderr)
            else:
                print(visible_json(item) if form == "jsonl" else _line(item), flush=True)
    except KeyboardInterrupt:
        return failures.INTERRUPTED
    raise AssertionError("events end with an error")


def _line(event: Event) -> str:
    data = event["data"]
    said = [
        f"{name}={value}"
        for name, value in data.items()
        if not (value is None or value is False or value == "")  # 0 is a value, and equals False
    ]
    return visible(f"{event['seq']}  {event['timestamp']}  {event['type']}  {'  '.join(said)}")
