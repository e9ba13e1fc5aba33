"""/webhooks/:id/deliveries: what receivers were told, are to be told, and are told again."""

from contextlib import suppress
from typing import Any, ClassVar, Final

import trio
from msgspec import Struct

from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import Time, moment_ms, since_ms, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import (
    Conflict,
    DeliveryNotFound,
    IdempotencyConflict,
    InvalidRequest,
    Unavailable,
    ValidationFailed,
    WebhookNotFound,
)
from cmdop_appliance.model import DeliveredType, Delivery, DeliveryStatus
from cmdop_appliance.store import deliveries as rows
from cmdop_appliance.store import outbox
from cmdop_appliance.webhooks import editing

# The caller of a test waits for it: the time of an attempt, and some to come to it.
_TEST_S: Final = 20.0


class DeliveryList(Paged, frozen=True):
    """Filters of the list of deliveries."""

    ORDER: ClassVar = rows.ORDER

    status: DeliveryStatus | None = None
    event: DeliveredType | None = None
    since: Time | None = None


class AgainBody(Struct, kw_only=True):
    """Which deliveries to put in line again: from `since` on, up to `until`, with this status."""

    since: Time
    until: Time | None = None
    status: DeliveryStatus = "dead"


class AttemptView(Struct, frozen=True, kw_only=True):
    """One POST; `duration` in ms. Of what private receivers answer, nothing is kept."""

    number: int
    at: Time | None
    duration: int
    response_status: int | None
    error: str | None  # null: the receiver took it
    response_excerpt: str | None


class DeliveryView(Struct, frozen=True, kw_only=True):
    """One event for one webhook. Its `attempts` are the newest 10, newest first.

    `seq` counts the deliveries of the webhook without gaps; 0 is a test. Those about one subject
    go out in this order: until its turn comes, a delivery has no `next_attempt_at`.
    """

    id: str
    webhook_id: str
    event_id: str
    event: str
    subject: str
    seq: int
    status: DeliveryStatus
    reason: str | None  # why it is dead
    attempt_count: int
    next_attempt_at: Time | None
    created_at: Time | None
    ended_at: Time | None
    data: dict[str, Any]
    attempts: list[AttemptView]


class Again(Struct, frozen=True):
    """How many deliveries are in line again."""

    redelivered: int


@route(
    "POST",
    "/webhooks/:id/test",
    scope=Scope.WEBHOOKS_MANAGE,
    answer=DeliveryView,
    errors=(WebhookNotFound, DeliveryNotFound, IdempotencyConflict),
)
async def test_webhook(call: Call[None, None]) -> DeliveryView:
    """Send `webhook.test` now and once, also if the webhook is disabled; wait for what comes."""
    hub, caller, webhook_id = call.hub, call.caller, call.path["id"]
    test_id = await hub.store.run(editing.test, caller, webhook_id, call.once, hub.clock.now_ms())
    # What was recorded is answered with 200, come what may.
    with hub.bus.subscribe(outbox.subject_of(test_id)) as news, suppress(Unavailable):
        with trio.move_on_after(_TEST_S):
            while (found := await hub.store.run(rows.find, test_id)) and found.status == "pending":
                await news.next()
    return _view(await hub.store.run(rows.get, caller.reach, webhook_id, test_id))


@route(
    "GET",
    "/webhooks/:id/deliveries",
    scope=Scope.WEBHOOKS_MANAGE,
    query=DeliveryList,
    answer=list[DeliveryView],
    errors=(WebhookNotFound,),
)
async def list_deliveries(call: Call[None, DeliveryList]) -> Listed:
    """What the receiver was told or is to be told, newest first.

    Kept are delivered ones for 7 days, of the newest 100,000 of a webhook, and dead ones for 30.
    """
    query = call.query
    page = await call.hub.store.run(
        rows.page,
        call.caller.reach,
        call.path["id"],
        read_paging(query),
        status=query.status,
        kind=query.event,
        since_ms=since_ms(query.since),
    )
    return Listed([_view(delivery) for delivery in page.items], page)


@route(
    "GET",
    "/webhooks/:id/deliveries/:delivery",
    scope=Scope.WEBHOOKS_MANAGE,
    answer=DeliveryView,
    errors=(WebhookNotFound, DeliveryNotFound),
)
async def get_delivery(call: Call[None, None]) -> DeliveryView:
    """One delivery with its attempts."""
    webhook_id, delivery_id = call.path["id"], call.path["delivery"]
    return _view(await call.hub.store.run(rows.get, call.caller.reach, webhook_id, delivery_id))


@route(
    "POST",
    "/webhooks/:id/deliveries/:delivery/redeliver",
    scope=Scope.WEBHOOKS_MANAGE,
    answer=DeliveryView,
    errors=(WebhookNotFound, DeliveryNotFound, Conflict, IdempotencyConflict),
)
async def redeliver(call: Call[None, None]) -> DeliveryView:
    """Put a delivery in line again, whatever became of it: the same event, from the first attempt.

    It goes in front of later ones about the same subject.
    """
    delivery = await call.hub.store.run(
        editing.redeliver,
        call.caller,
        call.path["id"],
        call.path["delivery"],
        call.once,
        call.hub.clock.now_ms(),
    )
    return _view(delivery)


@route(
    "POST",
    "/webhooks/:id/redeliver",
    scope=Scope.WEBHOOKS_MANAGE,
    body=AgainBody,
    answer=Again,
    errors=(WebhookNotFound, Conflict, IdempotencyConflict, ValidationFailed),
)
async def redeliver_since(call: Call[AgainBody, None]) -> Again:
    """Put in line again what was entered in a span of time, by default what is dead."""
    body, webhook_id = call.body, call.path["id"]
    since = _moment_ms("since", body.since)
    until = None if body.until is None else _moment_ms("until", body.until)
    entry = call.entry("webhook.redelivered", webhook_id, since=body.since, status=body.status)
    number = await editing.redeliver_between(
        call.hub.store, call.caller, webhook_id, (since, until), body.status, call.once, entry
    )
    return Again(number)


def _moment_ms(name: str, text: str) -> int:
    """A time in a body.

    Raises:
        ValidationFailed: it is none.
    """
    try:
        moment = moment_ms(name, text)
    except InvalidRequest as exc:
        reasons = {name: str(reason) for name, reason in exc.details.items()}
        raise ValidationFailed("Validation failed", **reasons) from None
    assert moment is not None
    return moment


def _view(delivery: Delivery) -> DeliveryView:
    return DeliveryView(
        id=delivery.id,
        webhook_id=delivery.webhook_id,
        event_id=delivery.event_id,
        event=delivery.type,
        subject=delivery.subject,
        seq=delivery.seq,
        status=delivery.status,
        reason=delivery.reason,
        attempt_count=delivery.tried,
        next_attempt_at=when(delivery.next_attempt_ms),
        created_at=when(delivery.created_ms),
        ended_at=when(delivery.ended_ms),
        data=delivery.data,
        attempts=[
            AttemptView(
                number=attempt.number,
                at=when(attempt.at_ms),
                duration=attempt.duration_ms,
                response_status=attempt.response_status,
                error=attempt.error,
                response_excerpt=attempt.excerpt,
            )
            for attempt in delivery.tries
        ],
    )
