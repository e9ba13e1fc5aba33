"""`cmdop webhooks`: who is told of events, and what became of it."""

import itertools
import sys
from collections.abc import Iterable
from typing import Any, Final, get_args

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.durations import Duration, ago
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.names import Names
from cmdop_appliance.cli.options import is_removal_meant, with_unset
from cmdop_appliance.cli.output import is_table, output_option, show, show_one
from cmdop_appliance.cli.targets import pick_by
from cmdop_appliance.cli.text import visible
from cmdop_appliance.cli.webhook_settings import expand, options_of, settings, url_of
from cmdop_appliance.sdk import Client, Conflict
from cmdop_appliance.sdk.resources.resource import PAGE_ITEMS
from cmdop_appliance.sdk.webhook_types import Attempt, Delivery, DeliveryStatus, Webhook

_CREATE: Final = "cmdop webhooks create URL --events A,B"
_STATUSES: Final = get_args(DeliveryStatus)
_KEEP: Final = """\
keep the secret now: it is not shown again
to verify a request, compare its X-Cmdop-Signature with sha256=<hex of HMAC-SHA256(secret, body)>"""
_UNSET: Final[dict[str, Any]] = {"preset": None, "headers": {}}  # without them it has these


@click.group()
def webhooks() -> None:
    """Receivers that the hub tells of events, and what became of it.

    A WEBHOOK is named by its id, its description, or a unique beginning of one.
    """


@webhooks.command("ls")
@client_options
@output_option
def list_webhooks(client: Client, form: str | None) -> None:
    """List the webhooks."""
    found = client.webhooks.list()
    if form in ("json", "jsonl"):
        show(found, [], form)
    elif is_table(form):
        columns = ["id", "state", "pending", "last_success_at", "receiver", "events"]
        rows = [_row(webhook) for webhook in found]
        show(rows, columns, form, spare=["events", "last_success_at"])
    else:
        columns = ["id", "state", "pending", "last_success_at", "description", "url", "events"]
        show([{**webhook, "state": "".join(_state(webhook))} for webhook in found], columns, form)


@webhooks.command("create")
@client_options
@output_option
@click.argument("url")
@click.option(
    "--events",
    type=Names(),
    required=True,
    metavar="A,B",
    help="Such as command.failed; schedule.* is all of a family, * is all.",
)
@settings
@click.option("--disabled", is_flag=True, help="Send nothing yet.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the secret.")
def create_webhook(
    client: Client,
    /,
    form: str | None,
    url: str,
    events: list[str],
    *,
    disabled: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Tell URL of events from now on, and show the secret that they are signed with, this once.

    A URL with a token in it does not belong in a command line, where other users of the machine
    can read it: give - and write the URL to standard input. Without --secret-file the hub makes a
    secret.
    """
    made = client.webhooks.create(
        url_of(url), expand(events), enabled=False if disabled else None, **options_of(given)
    )
    if quiet:
        print(visible(made.get("secret", "")))
        return
    show_one(made, form)
    if made["preset"] is None and form != "name":  # none of the others verifies anything
        print(_KEEP, file=sys.stderr)


@webhooks.command("edit")
@client_options
@output_option
@click.argument("webhook")
@click.option("--url", help="- is standard input.")
@click.option("--events", type=Names(), metavar="A,B", help="All that it is told of.")
@settings
@click.option("--unset", type=click.Choice([*_UNSET]), multiple=True, help="Take it off.")
def edit_webhook(
    client: Client,
    /,
    form: str | None,
    webhook: str,
    url: str | None,
    events: list[str] | None,
    unset: tuple[str, ...],
    **given: Any,
) -> None:
    """Change what is given; headers take the place of all that it had."""
    changes = with_unset(options_of(given), {name: _UNSET[name] for name in unset})
    if url is not None:
        changes["url"] = url_of(url)
    if events is not None:
        changes["events"] = expand(events)
    if not changes:
        raise click.UsageError("nothing to change: give an option")
    found = find_webhook(client, webhook)
    show_one(client.webhooks.update(found["id"], **changes), form)


@webhooks.command("show")
@client_options
@output_option
@click.argument("webhook")
def show_webhook(client: Client, form: str | None, webhook: str) -> None:
    """Show one webhook, without its secret."""
    show_one(find_webhook(client, webhook), form)


@webhooks.command("rm")
@client_options
@click.argument("webhook")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def remove_webhook(client: Client, webhook: str, *, yes: bool) -> int:
    """Remove a webhook, and what it was not told yet."""
    found = find_webhook(client, webhook)
    name = visible(f"{found['id']} ({found['description'] or found['url']})")
    if not is_removal_meant(name, yes=yes):
        return failures.OTHER
    client.webhooks.delete(found["id"])
    print(f"removed {name}", file=sys.stderr)
    return 0


@webhooks.command("pause")
@client_options
@click.argument("webhook")
def pause(client: Client, webhook: str) -> None:
    """Tell it nothing more; what it was not told yet is dead, and can be redelivered."""
    found = find_webhook(client, webhook)
    client.webhooks.update(found["id"], enabled=False)
    print(visible(f"paused {_name(found)}"), file=sys.stderr)


@webhooks.command("resume")
@client_options
@click.argument("webhook")
def resume(client: Client, webhook: str) -> None:
    """Tell it of events again, from now on."""
    found = find_webhook(client, webhook)
    client.webhooks.update(found["id"], enabled=True)
    print(visible(f"resumed {_name(found)}"), file=sys.stderr)


@webhooks.command("test")
@client_options
@output_option
@click.argument("webhook")
def send_test(client: Client, form: str | None, webhook: str) -> int:
    """Send it a test now, also while it is paused. Exits 1 if it was not taken."""
    delivery = client.webhooks.test(find_webhook(client, webhook)["id"])
    if form:
        show_one(delivery, form)
    else:
        for attempt in delivery["attempts"]:  # there is one, or none yet
            print(visible(_attempt_text(attempt)))
        if delivery["status"] == "pending":
            print("not sent yet: the hub has too much to send", file=sys.stderr)
    return 0 if delivery["status"] == "delivered" else failures.OTHER


@webhooks.command("deliveries")
@client_options
@output_option
@click.argument("webhook")
@click.option("--status", type=click.Choice(_STATUSES))
@click.option("--event", help="Only of this type.")
@click.option("--since", type=Duration(), help="How far back: 2h, 7d. Default: all that is kept.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("-v", "--verbose", is_flag=True, help="With each attempt.")
def list_deliveries(
    client: Client,
    form: str | None,
    webhook: str,
    status: DeliveryStatus | None,
    event: str | None,
    since: int | None,
    limit: int,
    *,
    verbose: bool,
) -> None:
    """List what it was told or is to be told, the newest first."""
    if event is not None and "*" in event:
        raise click.UsageError(f"--event takes one event, such as command.failed, not {event}")
    found = client.webhooks.deliveries(
        find_webhook(client, webhook)["id"],
        status=status,
        event=event,
        since=ago(since),
        page_items=min(limit, PAGE_ITEMS),
    )
    newest = itertools.islice(found, limit)
    if verbose and form not in ("json", "jsonl", "name"):
        _show_attempts(newest)
        return
    columns = [
        *("id", "status", "event", "subject", "attempt_count", "created_at"),
        *("next_attempt_at", "reason"),
    ]
    spare = ["attempt_count", "subject", "next_attempt_at", "reason"]
    show(newest, columns, form, spare=spare)


@webhooks.command("redeliver")
@client_options
@output_option
@click.argument("webhook")
@click.argument("delivery_id", metavar="[DELIVERY]", required=False)
@click.option("--since", type=Duration(), help="All that was entered in this time: 2h, 3d.")
@click.option(
    "--status",
    type=click.Choice(_STATUSES),
    help="With --since: only such; pending ones are tried at once. Default: dead.",
)
def redeliver(
    client: Client,
    form: str | None,
    webhook: str,
    delivery_id: str | None,
    since: int | None,
    status: DeliveryStatus | None,
) -> None:
    """Put a DELIVERY in line again, or what is dead of some time; its event id stays the same."""
    if (delivery_id is None) == (since is None):
        raise click.UsageError("give a DELIVERY or --since")
    from_, webhook_id = ago(since), find_webhook(client, webhook)["id"]
    try:
        if delivery_id is not None:
            show_one(client.webhooks.redeliver(webhook_id, delivery_id), form)
        elif from_ is not None:
            count = client.webhooks.redeliver_since(webhook_id, from_, status=status)
            show_one({"redelivered": count}, form, name="redelivered")
    except Conflict as exc:
        hint = f"cmdop webhooks resume {webhook_id}"
        raise Failure(exc.message, exit_code=failures.OTHER, hint=hint) from exc


def find_webhook(client: Client, wanted: str) -> Webhook:
    """The one webhook that `wanted` names: by id, by description, or by the beginning of one.

    Raises:
        Failure: none fits, or more than one does.
    """
    found = list(client.webhooks.list())
    return pick_by(("id", "description"), wanted, found, "webhook", _CREATE)


def _name(webhook: Webhook) -> str:
    return (
        f"{webhook['id']} ({webhook['description']})" if webhook["description"] else webhook["id"]
    )


def _row(webhook: Webhook) -> dict[str, Any]:
    """In few characters, what it is and how it is."""
    receiver = webhook["description"] or webhook["url"]
    return {**webhook, "receiver": receiver, "state": _state(webhook)[0]}


def _state(webhook: Webhook) -> tuple[str, str]:
    """In a word, and what there is to say beside it."""
    reason, since = webhook["disabled_reason"], webhook["failing_since"]
    if not webhook["enabled"]:
        return ("disabled", f": {reason}") if reason else ("paused", "")
    return ("failing", f" since {since}") if since else ("ok", "")


def _show_attempts(deliveries: Iterable[Delivery]) -> None:
    for delivery in deliveries:
        why = f": {delivery['reason']}" if delivery["reason"] else ""
        head = f"{delivery['id']}  {delivery['event']}  {delivery['subject']}"
        print(visible(f"{head}  {delivery['status']}{why}"))
        for attempt in delivery["attempts"]:
            print(visible(f"  {attempt['number']}. {attempt['at']}  {_attempt_text(attempt)}"))


def _attempt_text(attempt: Attempt) -> str:
    said = attempt["error"] or f"HTTP {attempt['response_status']}"
    excerpt = f": {attempt['response_excerpt']}" if attempt["response_excerpt"] else ""
    return f"{said} ({attempt['duration']} ms){excerpt}"
