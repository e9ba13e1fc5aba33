"""`cmdop machines`: list, look at, add, remove."""

import json
import sys
from contextlib import suppress
from datetime import timedelta
from http.client import HTTPException
from typing import Any, Literal

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import (
    ONLY_HERE,
    Hub,
    client_options,
    hub_options,
    open_client,
)
from cmdop_appliance.cli.durations import Duration, ago
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.machine_names import MachineName
from cmdop_appliance.cli.names import Names, split
from cmdop_appliance.cli.options import is_removal_meant
from cmdop_appliance.cli.output import nameless_output_option, output_option, show, show_one
from cmdop_appliance.cli.targets import find_machine
from cmdop_appliance.cli.text import visible
from cmdop_appliance.joining import SERVICE_PAGE, agent_line, fetch_line
from cmdop_appliance.sdk import Client, InvalidRequest
from cmdop_appliance.sdk.types import Cpu, Space

_GIB = 1024**3


@click.group()
def machines() -> None:
    """The managed machines."""


@machines.command("ls")
@client_options
@output_option
@click.option("--status", type=click.Choice(["online", "offline"]))
@click.option("--tags", type=Names(), metavar="A,B", help="Only those that have all of these.")
@click.option("--search", metavar="TEXT")
def list_machines(
    client: Client,
    form: str | None,
    status: Literal["online", "offline"] | None,
    tags: list[str] | None,
    search: str | None,
) -> None:
    """List the machines."""
    found = client.machines.list(status=status, tags=tags or (), search=search)
    by_name = sorted(found, key=lambda machine: machine["name"])
    columns = ["name", "status", "last_seen", "hostname", "os", "tags", "id"]
    show(by_name, columns, form, spare=["id"])


@machines.command("show")
@client_options
@output_option
@click.argument("machine", type=MachineName())
def show_machine(client: Client, form: str | None, machine: str) -> None:
    """Show what a machine reports of itself, and how it is now."""
    found = client.machines.get(find_machine(client, machine)["id"])
    now = client.machines.status(found["id"])
    record: dict[str, Any] = {**found}
    if form in ("json", "jsonl", "name"):
        show_one({**record, "now": now}, form, name="name")
        return
    facts = record.pop("facts")
    uptime = None if now["uptime"] is None else str(timedelta(seconds=now["uptime"]))
    shown = {
        "kernel": facts["kernel"],
        "agent user": facts["user"],
        "connected": now["connected"],
        "uptime": uptime,
        "load of": now["sampled_at"],
        "cpu": _usage(now["cpu"]),
        "memory": _space(now["memory"]),
        "disk": _space(now["disk"]),
    }
    show_one({**record, **shown}, form)


@machines.command("metrics")
@client_options
@nameless_output_option
@click.option("--since", type=Duration(), help="How far back: 30m, 1h (default), 7d, 60d.")
@click.option("--step", type=Duration(), help="The time of a line: 1m, 15m. Default: as fits.")
@click.argument("machine", type=MachineName())
def list_metrics(
    client: Client, form: str | None, since: int | None, step: int | None, machine: str
) -> None:
    """Show the load of a machine over time.

    It is kept by the minute for 2 days, and by 15 minutes for 60.
    """
    found = find_machine(client, machine)
    try:
        points = client.machines.metrics(found["id"], from_=ago(since), step_ms=step)["points"]
    except InvalidRequest as exc:
        if "step" not in exc.details:
            raise
        raise Failure(
            "--step must be a multiple of 1m, or of 15m for what is older than 2 days,"
            " and make no more than 1000 lines",
            exit_code=failures.USAGE,
            hint="without it the lines are as fine as can be",
        ) from exc
    if form in ("json", "jsonl"):
        show(points, [], form)
        return
    columns = {
        "time": "at",  # whole: lines of days ago are told apart by it
        "cpu_%": "cpu_percent",
        "max_%": "cpu_percent_max",
        "memory_%": "memory_percent",
        "disk_%": "disk_percent",
        "received_bytes": "network_rx_bytes",
        "sent_bytes": "network_tx_bytes",
    }
    rows: list[dict[str, Any]] = [{**point} for point in points]
    show(
        [{short: row[name] for short, name in columns.items()} for row in rows],
        list(columns),
        form,
    )


@machines.command("add")
@hub_options
@output_option
@click.option("--uses", type=click.IntRange(min=1), help="Machines that may join (default 1).")
@click.option("--ttl", type=Duration(), help="How long the token is good: 10m, 1h, 7d.")
@click.option("--tags", type=Names(), metavar="A,B", help="Tags the machines start with.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the token.")
def add_machine(
    hub: Hub,
    form: str | None,
    uses: int | None,
    ttl: int | None,
    tags: list[str] | None,
    *,
    quiet: bool,
) -> None:
    """Print the line that joins a machine: paste it there."""
    with open_client(hub) as client:
        made = client.enrollment_tokens.create(ttl_ms=ttl, max_uses=uses, tags=tags)
    if quiet:
        print(visible(made["token"]))
        return
    if form:
        show_one(made, form)
        return
    url, token = hub.url.rstrip("/"), visible(made["token"])
    is_fetched, pin, public_url = _programs(hub)
    if hub.is_here and public_url:
        url = public_url
    print(fetch_line(url, token, pin) if is_fetched else agent_line(url, token))
    print(
        f"run this on the machine; good until {visible(made['expires_at'])}"
        f" for {visible(made['max_uses'])} machine(s)",
        file=sys.stderr,
    )
    if is_fetched:
        print(f"or, where cmdop is installed: {agent_line(url, token)}", file=sys.stderr)
    as_root = "as root, where systemd runs, it becomes a service; else " if is_fetched else ""
    print(
        f"{as_root}the agent runs until that shell closes or the machine restarts;"
        f" to keep it: {url}{SERVICE_PAGE}",
        file=sys.stderr,
    )
    if hub.is_here and not public_url:
        print(ONLY_HERE, file=sys.stderr)


@machines.command("edit")
@client_options
@click.argument("machine", type=MachineName())
@click.option("--name", metavar="NAME", help="What it is called from now on.")
@click.option("--tags", metavar="A,B", help='All the tags it is to have; "" for none.')
def edit_machine(client: Client, machine: str, name: str | None, tags: str | None) -> None:
    """Change the name or the tags of a machine."""
    if name is None and tags is None:
        raise click.UsageError("nothing to change: give --name or --tags")
    found = find_machine(client, machine)
    made = client.machines.edit(found["id"], name=name, tags=None if tags is None else split(tags))
    tagged = f", tagged {', '.join(made['tags'])}" if made["tags"] else ""
    print(visible(f"changed {made['name']} ({made['id']}){tagged}"), file=sys.stderr)


@machines.command("rename")
@client_options
@click.argument("machine", type=MachineName())
@click.argument("name")
def rename_machine(client: Client, machine: str, name: str) -> None:
    """Call a machine NAME from now on."""
    made = client.machines.edit(find_machine(client, machine)["id"], name=name)
    print(visible(f"renamed {made['name']} ({made['id']})"), file=sys.stderr)


@machines.command("label")
@client_options
@click.argument("machine", type=MachineName())
@click.argument("tags", nargs=-1, metavar="TAG…")
@click.option("--remove", type=Names(), metavar="A,B", help="Tags that it is to have no more.")
def label_machine(
    client: Client, machine: str, tags: tuple[str, ...], remove: list[str] | None
) -> None:
    """Give a machine tags, beside those that it has, or take some off."""
    if not (tags or remove):
        raise click.UsageError("nothing to change: name tags, or give --remove")
    found = find_machine(client, machine)
    kept = [tag for tag in found["tags"] if tag not in {*(remove or ())}]
    wanted = list(dict.fromkeys([*kept, *tags]))
    made = client.machines.edit(found["id"], tags=wanted)
    told = ", ".join(made["tags"]) or "nothing"
    print(visible(f"{made['name']} is tagged {told}"), file=sys.stderr)


@machines.command("rm")
@client_options
@click.argument("machine", type=MachineName())
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def remove_machine(client: Client, machine: str, *, yes: bool) -> int:
    """Remove a machine: its credential is revoked and its connection cut."""
    found = find_machine(client, machine)
    name = visible(f"{found['name']} ({found['id']})")
    if not is_removal_meant(name, yes=yes):
        return failures.OTHER
    client.machines.delete(found["id"])
    print(f"removed {name}", file=sys.stderr)
    return 0


def _programs(hub: Hub) -> tuple[bool, str, str]:
    """Whether machines can fetch cmdop from the hub, the pin of its key (`fetch_line`), and where
    they reach it; "": neither is known."""
    from cmdop_appliance.cli.probing import probe  # 10 ms

    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, HTTPException):
        said = json.loads(probe(hub, "/dl").body)
        pin, public_url = (visible(said.get(name) or "") for name in ("key_pin", "public_url"))
        return bool(said["files"]), pin, public_url
    return False, "", ""


def _usage(cpu: Cpu | None) -> str | None:
    return None if cpu is None else f"{cpu['usage']:.0f} % of {cpu['cores']}"


def _space(space: Space | None) -> str | None:
    if space is None:
        return None
    return f"{space['used'] / _GIB:.1f} of {space['total'] / _GIB:.1f} GiB"
