"""`cmdop export`: a hub's configuration as a file."""

import sys
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path
from typing import Final

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.configuration import (
    Entry,
    Names,
    machine_entry,
    oldest_first,
    schedule_entry,
    to_toml,
    webhook_entry,
)
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.private import write_private
from cmdop_appliance.sdk import Client

_HEAD: Final = "# The machines, schedules and webhooks of a cmdop hub: cmdop apply FILE\n\n"


@click.command("export")
@client_options
@click.argument("file", type=click.Path(path_type=Path), required=False)
def export_hub(client: Client, file: Path | None) -> None:
    """Write the machines' names and tags, the schedules and the webhooks as TOML.

    Without FILE it goes to standard output. Secrets are not in it: of the headers of webhooks it
    has the names. But URLs of webhooks and variables of schedules stand there as they are.
    """
    machines = list(client.machines.list())
    names = Names({machine["id"]: machine["name"] for machine in machines})
    schedules = oldest_first(client.schedules.list())
    kinds: dict[str, Iterable[Entry]] = {
        "machines": [machine_entry(each) for each in sorted(machines, key=itemgetter("name"))],
        "schedules": [schedule_entry(each, names) for each in schedules],
        "webhooks": [webhook_entry(each) for each in oldest_first(client.webhooks.list())],
    }
    text = _HEAD + to_toml(kinds)
    if file is None or file == Path("-"):
        sys.stdout.write(text)
        return
    try:
        write_private(file, text)
    except OSError as exc:
        raise Failure(f"cannot write {file}: {exc.strerror}", exit_code=failures.OTHER) from exc
