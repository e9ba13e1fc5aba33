"""Webhooks: who is told of which events."""

from collections.abc import Mapping
from typing import Final

import msgspec

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import Conflict, WebhookNotFound
from cmdop_appliance.model import Webhook
from cmdop_appliance.store import events, leftovers, outbox
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.reach import carrying
from cmdop_appliance.store.transaction import Tx, brief, reads, to_json

ORDER: Final = {"created_at": "created_ms"}
# Of a workspace: each of them is looked at with every event.
MOST: Final = 100

_HOUR_MS: Final = 3_600_000
# What fails is tried again within 28.8 h (the last delay of the table, and 20 %). If nothing has
# failed for longer, nothing was tried, or the clock was set: then it fails anew.
_FAILURES_APART_MS: Final = 30 * _HOUR_MS
# After a failure without an answer nothing is begun for as long as it has failed, but so long …
_PAUSE_LEAST_MS: Final = 1_000
# Whoever changes one of these means that what failed may succeed now.
_WAYS: Final = ("url", "secret", "headers", "preset")

_COUNTED: Final = (
    "webhook.*, (SELECT count(*) FROM delivery WHERE delivery.webhook_id = webhook.id"
    " AND delivery.status = 'pending') AS pending"
)


def insert(tx: Tx, webhook: Webhook) -> None:
    """Record a new webhook.

    Raises:
        Conflict: its workspace has as many as it may have.
    """
    there = tx.value(
        "SELECT count(*) FROM webhook WHERE workspace_id = :workspace_id",
        workspace_id=webhook.workspace_id,
    )
    if there >= MOST:
        raise Conflict(
            f"this workspace has {MOST} webhooks, and can have no more",
            hint="delete one that is not needed",
            limit=MOST,
        )
    tx.execute(
        "INSERT INTO webhook (id, workspace_id, url, events_json, secret, preset, headers_json,"
        " description, tags_json, is_enabled, seq, created_ms, updated_ms)"
        " VALUES (:id, :workspace_id, :url, :events, :secret, :preset, :headers,"
        " :description, :tags, :is_enabled, :seq, :created_ms, :updated_ms)",
        id=webhook.id,
        workspace_id=webhook.workspace_id,
        tags=to_json(webhook.tags),
        seq=webhook.seq,
        created_ms=webhook.created_ms,
        **_settings(webhook),
    )


@brief
@reads
def find(tx: Tx, webhook_id: str) -> Webhook | None:
    """The webhook with this id, whosever it is."""
    return tx.one(Webhook, "SELECT * FROM webhook WHERE id = :id", id=webhook_id)


@brief
@reads
def get(tx: Tx, reach: Reach, webhook_id: str) -> Webhook:
    """One webhook.

    Raises:
        WebhookNotFound: there is no such webhook in reach.
    """
    webhook = find(tx, webhook_id)
    if webhook is None or not reach.covers(webhook.workspace_id, webhook.tags):
        raise WebhookNotFound("Webhook not found", webhook_id=webhook_id)
    return webhook


@reads
def counted(tx: Tx, webhook: Webhook) -> Webhook:
    """The same, with how many deliveries wait for it."""
    pending = tx.value(
        "SELECT count(*) FROM delivery WHERE webhook_id = :id AND status = 'pending'",
        id=webhook.id,
    )
    return msgspec.structs.replace(webhook, pending=pending)


@reads
def page(tx: Tx, reach: Reach, paging: Paging, *, is_enabled: bool | None = None) -> Page[Webhook]:
    """The webhooks in reach, counted."""
    return select_page(
        tx,
        Webhook,
        paging,
        columns=_COUNTED,
        source="webhook",
        within=carrying(reach, "webhook"),
        filters={"is_enabled = :is_enabled": None if is_enabled is None else int(is_enabled)},
        order=ORDER,
    )


def edit(tx: Tx, before: Webhook, changes: Mapping[str, object], now_ms: int) -> Webhook:
    """The webhook with these fields of its record changed.

    One that is enabled begins anew; one that is disabled gives up what it was not told yet; one
    that is to be reached in another way is sent at once what was put off.

    Raises:
        Conflict: it is to be enabled, and what it was not told is not given up yet.
    """
    after = msgspec.structs.replace(before, **changes)
    has_new_way = any(getattr(after, name) != getattr(before, name) for name in _WAYS)
    if changes.get("is_enabled") or has_new_way:
        after = msgspec.structs.replace(after, failing_since_ms=None)
    if changes.get("is_enabled"):
        if not before.is_enabled and leftovers.has_any(tx, before.id):
            raise Conflict(
                "the webhook was disabled a moment ago, and what it was to be told is still being"
                " given up",
                hint="try again",
            )
        after = msgspec.structs.replace(after, disabled_reason=None)
    if before.is_enabled and (has_new_way or not after.is_enabled):
        leftovers.leave(tx, before.id)
        tx.notify(outbox.SUBJECT)
    if after == before:
        return before
    after = msgspec.structs.replace(after, updated_ms=now_ms)
    tx.execute(
        "UPDATE webhook SET url = :url, events_json = :events, secret = :secret,"
        " preset = :preset, headers_json = :headers, description = :description,"
        " is_enabled = :is_enabled, disabled_reason = :disabled_reason,"
        " failing_since_ms = :failing_since_ms, updated_ms = :updated_ms WHERE id = :id",
        id=after.id,
        disabled_reason=after.disabled_reason,
        failing_since_ms=after.failing_since_ms,
        **_settings(after),
    )
    return after


def delete(tx: Tx, reach: Reach, webhook_id: str) -> None:
    """Drop a webhook, and with it what it was not told yet.

    Raises:
        WebhookNotFound: there is no such webhook in reach.
    """
    get(tx, reach, webhook_id)
    tx.execute("DELETE FROM webhook WHERE id = :id", id=webhook_id)
    leftovers.leave(tx, webhook_id)


# ── as its receiver answers ──────────────────────────────────────────────────────────────────────


@brief
def succeeded(tx: Tx, webhook_id: str, now_ms: int) -> None:
    """Record that it took something."""
    tx.execute(
        "UPDATE webhook SET succeeded_ms = :now_ms, failing_since_ms = NULL WHERE id = :id",
        now_ms=now_ms,
        id=webhook_id,
    )


@brief
def failed(tx: Tx, webhook_id: str, now_ms: int, *, is_silent: bool) -> int | None:
    """Record that it took nothing; since when that is so, unless it is gone.

    `is_silent`: there was no answer at all.
    """
    since_ms: int | None = tx.value(
        "UPDATE webhook SET failed_ms = :now_ms, failing_since_ms = CASE"
        " WHEN failing_since_ms <= :now_ms AND failed_ms >= :recent_ms THEN failing_since_ms"
        " ELSE :now_ms END WHERE id = :id RETURNING failing_since_ms",
        now_ms=now_ms,
        recent_ms=now_ms - _FAILURES_APART_MS,
        id=webhook_id,
    )
    if since_ms is not None:
        pause_ms = min(max(now_ms - since_ms, _PAUSE_LEAST_MS), outbox.PAUSE_MOST_MS)
        tx.execute(
            "UPDATE webhook SET resume_ms = :resume_ms WHERE id = :id",
            resume_ms=now_ms + pause_ms * is_silent,
            id=webhook_id,
        )
    return since_ms


def disable(tx: Tx, webhook_id: str, reason: str, now_ms: int) -> None:
    """Tell it nothing more, for this reason, unless that is so already."""
    webhook = tx.one(
        Webhook,
        "UPDATE webhook SET is_enabled = 0, disabled_reason = :reason, updated_ms = :now_ms"
        " WHERE id = :id AND is_enabled = 1 RETURNING *",
        reason=reason,
        now_ms=now_ms,
        id=webhook_id,
    )
    if webhook is not None:
        leftovers.leave(tx, webhook_id)
        events.append(
            tx,
            webhook.workspace_id,
            "webhook.disabled",
            subject=webhook_id,
            data={
                "webhook_id": webhook_id,
                "description": webhook.description,
                "reason": reason,
            },
            now_ms=now_ms,
        )


def _settings(webhook: Webhook) -> dict[str, object]:
    """The columns that whoever manages it decides on."""
    return {
        "url": webhook.url,
        "events": to_json(webhook.events),
        "secret": webhook.secret,
        "preset": webhook.preset,
        "headers": to_json(webhook.headers),
        "description": webhook.description,
        "is_enabled": webhook.is_enabled,
        "updated_ms": webhook.updated_ms,
    }
