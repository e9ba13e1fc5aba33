"""Webhooks as callers make, change, delete and test them, and what was told, told again.

Each is one transaction with its record, but for what many deliveries have a part in: that is done
in steps, so that nobody waits long for the store.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from cmdop_appliance.addresses import Networks
from cmdop_appliance.auth import Caller
from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import Conflict, ValidationFailed, WebhookNotFound
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import EVENT_TYPES, Delivery, DeliveryStatus, Webhook
from cmdop_appliance.store import audit, deliveries, leftovers, outbox, webhooks
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.idempotency import Once, claim
from cmdop_appliance.store.transaction import Tx
from cmdop_appliance.webhooks.presets import check_preset_url
from cmdop_appliance.webhooks.sending import check_headers
from cmdop_appliance.webhooks.signing import check_secret, new_webhook_secret
from cmdop_appliance.webhooks.targets import Target, check_url, parse_url

KNOWN: Final = ("*", *EVENT_TYPES)

# Fields of the record that callers know by another name.
_NAMES: Final = {"is_enabled": "enabled"}
# Deliveries that one transaction puts in line again: some 20 ms of the store's writer.
_AT_ONCE: Final = 500


# ── made, changed, deleted ───────────────────────────────────────────────────────────────────────


def make(
    tx: Tx, caller: Caller, webhook: Webhook, networks: Networks, once: Once | None
) -> Webhook:
    """The new webhook, or the one that the same request made before, as it is now.

    With the secret that it was made with; one is made for it if it comes without (`""`).

    Raises:
        ValidationFailed, Conflict, IdempotencyConflict: nothing was recorded.
    """
    made = None if once is None else claim(tx, once, webhook.id)
    if not webhook.secret:
        key = None if once is None or made is None else once.secret(made.salt)
        webhook = msgspec.structs.replace(webhook, secret=new_webhook_secret(key))
    if made is not None and made.made_id != webhook.id:
        try:
            first = webhooks.get(tx, caller.reach, made.made_id)
        except WebhookNotFound:
            reason = "the webhook that this request made was deleted"
            raise Conflict(reason, webhook_id=made.made_id) from None
        return msgspec.structs.replace(webhooks.counted(tx, first), secret=webhook.secret)
    fields = webhook.__struct_fields__
    _require_sound({name: getattr(webhook, name) for name in fields}, networks)
    target = _target_of(webhook, fields)
    webhooks.insert(tx, webhook)
    noted = _noted(webhook, target, fields)
    audit.append(tx, Entry.by(caller, webhook.created_ms, "webhook.created", webhook.id, **noted))
    return webhook


async def change(
    store: Store,
    clock: Clock,
    caller: Caller,
    webhook_id: str,
    changes: Mapping[str, Any],
    networks: Networks,
) -> Webhook:
    """The webhook with these fields of its record changed.

    Raises:
        WebhookNotFound, ValidationFailed, Conflict: nothing was changed.
    """
    _require_sound(changes, networks)
    if changes.get("is_enabled"):
        await store.run(webhooks.get, caller.reach, webhook_id)
        while await store.run(leftovers.clear_away, webhook_id, clock.now_ms()):
            pass
    return await store.run(_change, caller, webhook_id, changes, clock.now_ms())


def _change(
    tx: Tx, caller: Caller, webhook_id: str, changes: Mapping[str, Any], now_ms: int
) -> Webhook:
    before = webhooks.get(tx, caller.reach, webhook_id)
    target = _target_of(msgspec.structs.replace(before, **changes), changes)
    # Whoever may not read the values of its headers must not have them sent elsewhere either.
    if (
        before.headers
        and "headers" not in changes
        and target.origin != parse_url(before.url).origin
    ):
        raise ValidationFailed(
            "Validation failed", headers="give them again: the URL leads elsewhere"
        )
    webhook = webhooks.edit(tx, before, changes, now_ms)
    if webhook != before:
        names = sorted(_NAMES.get(name, name) for name in changes)
        noted = _noted(webhook, target, changes)
        entry = Entry.by(caller, now_ms, "webhook.changed", webhook_id, changed=names, **noted)
        audit.append(tx, entry)
    return webhooks.counted(tx, webhook)


def delete(tx: Tx, caller: Caller, webhook_id: str, now_ms: int) -> None:
    """Drop a webhook, and with it what it was not told yet.

    Raises:
        WebhookNotFound: nothing was recorded.
    """
    webhooks.delete(tx, caller.reach, webhook_id)
    audit.append(tx, Entry.by(caller, now_ms, "webhook.deleted", webhook_id))


def _require_sound(given: Mapping[str, Any], networks: Networks) -> None:
    """Pass fields that are each what they must be, whatever the others are.

    Raises:
        ValidationFailed: one is not; `details` has the reasons.
    """
    checks: dict[str, Callable[[Any], str | None]] = {
        "url": partial(_refused, networks=networks),
        "events": _unknown,
        "secret": check_secret,
        "headers": check_headers,
    }
    reasons = {name: check(given[name]) for name, check in checks.items() if name in given}
    if wrong := {name: reason for name, reason in reasons.items() if reason}:
        raise ValidationFailed("Validation failed", **wrong)


def _target_of(webhook: Webhook, given: Collection[str]) -> Target:
    """Where it leads, if its URL is one of its preset.

    Raises:
        ValidationFailed: it is not, as far as one of them is given.
    """
    target = parse_url(webhook.url)
    if {"url", "preset"} & set(given) and (reason := check_preset_url(webhook.preset, target)):
        raise ValidationFailed("Validation failed", url=reason)
    return target


def _refused(url: str, networks: Networks) -> str | None:
    try:
        check_url(url, networks)
    except ValueError as exc:
        return str(exc)
    return None


def _unknown(events: list[str]) -> str | None:
    unknown = next((name for name in events if name not in KNOWN), None)
    if unknown is None:
        return None
    return f"there is no event {unknown[:64]!r}; known are {', '.join(KNOWN)}"


def _noted(webhook: Webhook, target: Target, given: Collection[str]) -> Mapping[str, object]:
    """What the audit log has of these fields: of the URL the host, of headers the names."""
    noted = {
        "url": ("host", target.host),
        "events": ("events", webhook.events),
        "is_enabled": ("enabled", webhook.is_enabled),
        "preset": ("preset", webhook.preset),
        "headers": ("headers", sorted(webhook.headers)),
    }
    return dict(noted[name] for name in noted if name in given)


# ── tested, told again ───────────────────────────────────────────────────────────────────────────


def test(tx: Tx, caller: Caller, webhook_id: str, once: Once | None, now_ms: int) -> str:
    """Put a test in line; the id of its delivery, or of that which the same request made before.

    Raises:
        WebhookNotFound, IdempotencyConflict: nothing was recorded.
    """
    webhooks.get(tx, caller.reach, webhook_id)
    test_id = new_id("dlv")
    if once is not None and (made := claim(tx, once, test_id).made_id) != test_id:
        return made
    outbox.insert(
        tx,
        Delivery(
            id=test_id,
            webhook_id=webhook_id,
            seq=0,
            event_id=new_id("evt"),
            type="webhook.test",
            subject=test_id,
            data={"webhook_id": webhook_id, "user_email": caller.email},
            status="pending",
            next_attempt_ms=now_ms,
            created_ms=now_ms,
        ),
    )
    audit.append(tx, Entry.by(caller, now_ms, "webhook.tested", webhook_id))
    return test_id


def redeliver(
    tx: Tx, caller: Caller, webhook_id: str, delivery_id: str, once: Once | None, now_ms: int
) -> Delivery:
    """A delivery as it is now: in line again, unless the same request has seen to that before.

    Raises:
        WebhookNotFound, DeliveryNotFound, IdempotencyConflict: nothing was recorded.
        Conflict: the webhook is disabled; nothing was recorded.
    """
    deliveries.get(tx, caller.reach, webhook_id, delivery_id)
    if once is None or claim(tx, once, delivery_id).salt == once.salt:
        _in_line_again(tx, caller, webhook_id, [delivery_id], now_ms)
        details = {"delivery_id": delivery_id}
        entry = Entry.by(caller, now_ms, "webhook.redelivered", webhook_id, **details)
        audit.append(tx, entry)
    return deliveries.get(tx, caller.reach, webhook_id, delivery_id)


async def redeliver_between(
    store: Store,
    caller: Caller,
    webhook_id: str,
    span: tuple[int, int | None],
    status: DeliveryStatus,
    once: Once | None,
    entry: Entry,
) -> int:
    """Put in line again what was entered from a time on, up to another; how many there are.

    The same request again puts nothing in line, and is told the same number.

    Raises:
        WebhookNotFound, IdempotencyConflict: nothing was recorded.
        Conflict: the webhook is disabled. What was put in line before it was, is dead again.
    """
    ids = await store.run(deliveries.between, webhook_id, *span, status)
    made = await store.run(_begin_again, caller, len(ids), once, entry)
    if made is not None:
        return made
    for first in range(0, len(ids), _AT_ONCE):
        some = ids[first : first + _AT_ONCE]
        await store.run(_in_line_again, caller, webhook_id, some, entry.at_ms)
    return len(ids)


def _begin_again(
    tx: Tx, caller: Caller, number: int, once: Once | None, entry: Entry
) -> int | None:
    """How many the same request has put in line before; None: it is the first."""
    webhooks.get(tx, caller.reach, entry.target)
    if once is not None and (made := claim(tx, once, str(number))).salt != once.salt:
        return int(made.made_id)
    _require_enabled(tx, caller, entry.target)
    audit.append(tx, entry)
    return None


def _in_line_again(
    tx: Tx, caller: Caller, webhook_id: str, delivery_ids: list[str], now_ms: int
) -> None:
    _require_enabled(tx, caller, webhook_id)
    outbox.redeliver(tx, webhook_id, delivery_ids, now_ms)


def _require_enabled(tx: Tx, caller: Caller, webhook_id: str) -> None:
    if not webhooks.get(tx, caller.reach, webhook_id).is_enabled:
        raise Conflict(
            "the webhook is disabled", hint='enable it first: PATCH it with {"enabled": true}'
        )
