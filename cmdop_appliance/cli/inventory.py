"""`cmdop inventory`: the machines as Ansible asks a script for them."""

import re
from collections import Counter
from typing import Any, Final

import click

from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.targets import pick
from cmdop_appliance.cli.text import visible_json
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.types import Machine

# What Ansible takes for no template, and ssh for no option.
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")


@click.command()
@client_options
@click.option("--list", "lists", is_flag=True, help="All machines, in groups.")
@click.option("--host", metavar="NAME", help="What is known of one machine.")
def inventory(client: Client, host: str | None, *, lists: bool) -> None:
    """Print the machines as a dynamic inventory of Ansible.

    Each machine is in the group online or offline, and in tag_NAME for each of its tags. Ansible
    reaches them by their host names, not through the hub. A machine whose name is another's, too,
    or has other characters than letters, digits and . _ : - is there by its id.
    """
    if lists == (host is not None):
        raise click.UsageError("give --list, or --host NAME")
    machines = list(client.machines.list())
    if host is not None:
        print(visible_json(_facts(pick(host, machines)), indent=2))
        return
    names = Counter(machine["name"] for machine in machines)
    groups: dict[str, Any] = {}
    known: dict[str, Any] = {}
    for machine in machines:
        name = machine["name"]
        if names[name] > 1 or not _HOST.fullmatch(name):
            name = machine["id"]
        known[name] = _facts(machine)
        tags = [re.sub(r"\W", "_", f"tag_{tag}", flags=re.ASCII) for tag in machine["tags"]]
        for group in (machine["status"], *tags):
            groups.setdefault(group, {"hosts": []})["hosts"].append(name)
    print(visible_json({**groups, "_meta": {"hostvars": known}}, indent=2))


def _facts(machine: Machine) -> dict[str, Any]:
    host = machine["hostname"]
    return {
        **({"ansible_host": host} if _HOST.fullmatch(host) else {}),
        "cmdop_id": machine["id"],
        "cmdop_os": _plain(machine["os"]),
        "cmdop_status": machine["status"],
        "cmdop_tags": [_plain(tag) for tag in machine["tags"]],
    }


def _plain(text: str | None) -> dict[str, str] | None:
    """A text that Ansible takes as it is: in others it runs `{{ … }}` as code."""
    return None if text is None else {"__ansible_unsafe": text}
