"""Deliveries: what became of the events that webhooks were to be told, as long as it is kept."""

from collections.abc import Sequence
from typing import Final

import msgspec

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import DeliveryNotFound
from cmdop_appliance.model import Attempt, DeliveredType, Delivery, DeliveryStatus, Record
from cmdop_appliance.store import leftovers, webhooks
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.transaction import Tx, brief, is_any, reads

ORDER: Final = {"created_at": "created_ms"}

_DAY_MS: Final = 86_400_000
# How long it can be seen what became of a delivery (semantics.md, Webhooks 3).
KEPT_MS: Final[dict[DeliveryStatus, int]] = {"delivered": 7 * _DAY_MS, "dead": 30 * _DAY_MS}


class _Id(Record, frozen=True, kw_only=True):
    id: str


@brief
@reads
def find(tx: Tx, delivery_id: str) -> Delivery | None:
    """The delivery with this id, of whichever webhook, without its attempts."""
    return tx.one(Delivery, "SELECT * FROM delivery WHERE id = :id", id=delivery_id)


@brief
@reads
def get(tx: Tx, reach: Reach, webhook_id: str, delivery_id: str) -> Delivery:
    """One delivery of a webhook, with its attempts.

    Raises:
        WebhookNotFound: there is no such webhook in reach.
        DeliveryNotFound: it has no such delivery, or it is kept no more.
    """
    webhooks.get(tx, reach, webhook_id)
    delivery = find(tx, delivery_id)
    if delivery is None or delivery.webhook_id != webhook_id:
        raise DeliveryNotFound("delivery not found", delivery_id=delivery_id)
    (tried,) = _with_attempts(tx, [delivery])
    return tried


@reads
def page(
    tx: Tx,
    reach: Reach,
    webhook_id: str,
    paging: Paging,
    *,
    status: DeliveryStatus | None = None,
    kind: DeliveredType | None = None,
    since_ms: int | None = None,
) -> Page[Delivery]:
    """The deliveries of a webhook, with their attempts; `kind` is the type of their events.

    Raises:
        WebhookNotFound: there is no such webhook in reach.
    """
    webhooks.get(tx, reach, webhook_id)
    found = select_page(
        tx,
        Delivery,
        paging,
        columns="*",
        source="delivery",
        within=("webhook_id = :webhook_id", {"webhook_id": webhook_id}),
        filters={
            "status = :status": status,
            "type = :type": kind,
            "created_ms >= :since_ms": since_ms,
        },
        order=ORDER,
    )
    return Page(_with_attempts(tx, found.items), found.total, found.paging)


@reads
def between(
    tx: Tx, webhook_id: str, since_ms: int, until_ms: int | None, status: DeliveryStatus
) -> list[str]:
    """The ids of a webhook's deliveries from a time on, up to another; tests are left out."""
    found = tx.all(
        _Id,
        "SELECT id FROM delivery WHERE webhook_id = :webhook_id AND created_ms >= :since_ms"
        " AND created_ms < coalesce(:until_ms, created_ms + 1) AND status = :status AND seq > 0"
        " ORDER BY created_ms, id",
        webhook_id=webhook_id,
        since_ms=since_ms,
        until_ms=until_ms,
        status=status,
    )
    return [each.id for each in found]


def forget(tx: Tx, now_ms: int) -> None:
    """Drop some of what is older than is kept; called again and again, it drops all."""
    for status, kept_ms in KEPT_MS.items():
        tx.execute(
            "DELETE FROM delivery WHERE id IN (SELECT id FROM delivery"
            " WHERE status = :status AND ended_ms < :before ORDER BY ended_ms LIMIT :most)",
            status=status,
            before=now_ms - kept_ms,
            most=leftovers.AT_ONCE,
        )


def _with_attempts(tx: Tx, found: Sequence[Delivery]) -> list[Delivery]:
    """Each with the attempts that are kept, the newest first."""
    if not found:
        return []
    is_of_them, ids = is_any("delivery_id", (delivery.id for delivery in found))
    tries: dict[str, list[Attempt]] = {delivery.id: [] for delivery in found}
    for attempt in tx.each(
        Attempt,
        f"SELECT * FROM attempt WHERE {is_of_them}"  # noqa: S608 - names of our own
        " ORDER BY delivery_id DESC, number DESC",
        **ids,
    ):
        tries[attempt.delivery_id].append(attempt)
    return [msgspec.structs.replace(each, tries=tries[each.id]) for each in found]
