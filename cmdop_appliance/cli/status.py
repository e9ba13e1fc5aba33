"""`cmdop status`: how all of it is, on one screen."""

import json
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import click

from cmdop_appliance.cli.connection import Hub, hub_options, open_client
from cmdop_appliance.cli.output import nameless_output_option, show_one
from cmdop_appliance.cli.probing import probe
from cmdop_appliance.sdk import Client, Forbidden


@click.command()
@hub_options
@nameless_output_option
def status(hub: Hub, form: str | None) -> None:
    """Show the hub, how many machines are there, what runs, and what is due.

    What the key does not allow to see is null, or a dash.
    """
    with open_client(hub) as client:
        me = client.me()
        record = {
            "hub": hub.url,
            "found_by": hub.source,
            "version": me["hub_version"],
            "not_ready": _not_ready(hub),
            "key": me["name"],
            "machines_online": _total(client, "/machines", status="online"),
            "machines_offline": _total(client, "/machines", status="offline"),
            "commands_running": _total(client, "/commands", status="running"),
            "commands_waiting": _total(client, "/commands", status="pending"),
            **(_seen(lambda: _schedules(client)) or {"schedules_enabled": None, "next_run": None}),
            "dead_deliveries": _seen(lambda: _dead(client)),
            **(_seen(lambda: _backups(client)) or {"last_backup": None, "backup_error": None}),
        }
    show_one(record, form)


def _not_ready(hub: Hub) -> str | None:
    """Why the hub does not do all that it is asked for, such as a full disk; None: it does.

    Or what stands in front of it keeps that from us.
    """
    try:
        reasons = json.loads(probe(hub, "/readyz").body)["reasons"]
    except (OSError, HTTPException, ValueError, KeyError):
        return None
    return "; ".join(reasons) or None


def _total(client: Client, path: str, **filters: str) -> int | None:
    """How many a list has."""
    query = {"limit": 1, **filters}
    answer = _seen(lambda: client.request("GET", path, query=query))
    return None if answer is None else answer["meta"]["total"]


def _schedules(client: Client) -> dict[str, Any]:
    enabled = [schedule for schedule in client.schedules.list() if schedule["enabled"]]
    times = [schedule["next_run"] for schedule in enabled if schedule["next_run"] is not None]
    return {"schedules_enabled": len(enabled), "next_run": min(times, default=None)}


def _dead(client: Client) -> int:
    """Deliveries that were given up, of all webhooks."""
    return sum(
        _total(client, f"/webhooks/{webhook['id']}/deliveries", status="dead") or 0
        for webhook in client.webhooks.list()
    )


def _backups(client: Client) -> dict[str, Any]:
    """Those that the hub makes by itself."""
    kept = client.request("GET", "/backups")["data"]
    return {"last_backup": kept["last_at"], "backup_error": kept["error"]}


def _seen(look: Callable[[], Any]) -> Any:
    """What `look` gives; None: the key may not see it."""
    try:
        return look()
    except Forbidden:
        return None
