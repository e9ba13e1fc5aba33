"""The outbox: which events are to be told to which webhooks, and when each is tried next.

The pending deliveries of a webhook about one subject are a line, in the order of their numbers.
Only the head of a line has a time for its next attempt, so that what waits behind it is never
looked at, however much that is. How many wait is bounded by time and by no number: what fails is
dead after its last attempt, and all of a webhook once that has taken nothing for five days.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Delivery, DeliveryStatus, Event, Record
from cmdop_appliance.store import leftovers
from cmdop_appliance.store.transaction import Tx, brief, is_any, reads, to_json

# What is notified when there may be something to send.
SUBJECT: Final = "outbox"

# Of what was delivered, it can be seen for so many of the newest of a webhook: about 100 MB.
KEPT_MOST: Final = 100_000
ATTEMPTS_KEPT: Final = 10  # of a delivery

# For so long a webhook that gave no answer is left alone, at the most.
PAUSE_MOST_MS: Final = 60_000

# No attempt is put off for so long (24 h and 20 %): a time beyond it is of a clock that was ahead.
_FAR_MS: Final = 29 * 3_600_000
_NEVER_MS: Final = 2**62
# What is a test, and what is not: each has an index of its own.
_KIND: Final = {True: "delivery.seq = 0", False: "delivery.seq > 0"}
# A new delivery; behind another of its line it has no time.
_INSERT: Final = (
    "INSERT INTO delivery (id, webhook_id, seq, event_id, type, subject, data_json, status,"
    " attempts, tried, next_attempt_ms, created_ms) VALUES (:id, :webhook_id, :seq, :event_id,"
    " :type, :subject, :data, 'pending', 0, 0, CASE WHEN EXISTS (SELECT 1 FROM delivery"
    " WHERE webhook_id = :webhook_id AND subject = :subject AND status = 'pending')"
    " THEN NULL ELSE :next_attempt_ms END, :created_ms)"
)
# Each webhook with what waits for it.
_LINES: Final = (
    "SELECT id, is_enabled, failing_since_ms IS NOT NULL AS is_failing,"  # noqa: S608
    " coalesce(resume_ms, 0) AS resume_ms,"
    " (SELECT min(next_attempt_ms) FROM delivery WHERE webhook_id = webhook.id"
    f" AND next_attempt_ms IS NOT NULL AND {_KIND[False]}) AS first_ms,"
    " EXISTS (SELECT 1 FROM delivery WHERE webhook_id = webhook.id"
    f" AND next_attempt_ms IS NOT NULL AND {_KIND[True]}) AS has_tests FROM webhook"
)


class Head(Record, frozen=True, kw_only=True):
    """A delivery that no other is in front of; `is_failing`: its webhook took nothing lately."""

    id: str
    webhook_id: str
    subject: str
    next_attempt_ms: int
    is_test: bool
    is_failing: bool


class Due(Struct, frozen=True):
    """What there is to do now, and `next_ms`: when more of it comes due, if anything does.

    `leftover` is a webhook that `leftovers.clear_away` has to do with.
    """

    heads: list[Head]
    next_ms: int | None
    leftover: str | None


class _Lines(Record, frozen=True, kw_only=True):
    """What waits for a webhook."""

    id: str
    is_enabled: bool
    is_failing: bool
    resume_ms: int
    first_ms: int | None
    has_tests: int


class _Hearer(Record, frozen=True, kw_only=True):
    id: str
    tags: list[str]


class _Numbered(Record, frozen=True, kw_only=True):
    id: str
    seq: int


class _Tags(Record, frozen=True, kw_only=True):
    tags: list[str]


class _Place(Record, frozen=True, kw_only=True):
    id: str
    subject: str
    seq: int


def subject_of(delivery_id: str) -> str:
    """What is notified when a delivery has ended."""
    return f"delivery.{delivery_id}"


# ── entered ──────────────────────────────────────────────────────────────────────────────────────


def enter(tx: Tx, event: Event, data: str) -> None:
    """Enter a delivery of an event, whose data is this JSON, for each webhook that hears it."""
    hearers = tx.all(
        _Hearer,
        "SELECT id, tags_json FROM webhook WHERE workspace_id = :workspace_id AND is_enabled = 1"
        " AND (replace(events_json, :type, '') <> events_json"
        " OR replace(events_json, :every, '') <> events_json)",
        workspace_id=event.workspace_id,
        type=to_json(event.type),
        every=to_json("*"),
    )
    if any(hearer.tags for hearer in hearers):
        carried = _carried(tx, event.machine_id)
        hearers = [hearer for hearer in hearers if carried.issuperset(hearer.tags)]
    if not hearers:
        return
    is_hearer, ids = is_any("id", (hearer.id for hearer in hearers))
    numbered = tx.all(
        _Numbered,
        f"UPDATE webhook SET seq = seq + 1 WHERE {is_hearer} RETURNING id, seq",  # noqa: S608
        **ids,
    )
    told = {
        "event_id": event.id,
        "type": event.type,
        "subject": event.subject,
        "data": data,
        "next_attempt_ms": event.created_ms,
        "created_ms": event.created_ms,
    }
    tx.many(
        _INSERT,
        (
            {"id": new_id("dlv"), "webhook_id": webhook.id, "seq": webhook.seq, **told}
            for webhook in numbered
        ),
    )
    tx.many(
        "DELETE FROM delivery WHERE webhook_id = :webhook_id AND seq = :seq"
        " AND status = 'delivered'",
        (
            {"webhook_id": webhook.id, "seq": webhook.seq - KEPT_MOST}
            for webhook in numbered
            if webhook.seq > KEPT_MOST
        ),
    )
    tx.notify(SUBJECT)


def insert(tx: Tx, delivery: Delivery) -> None:
    """Enter a delivery that is pending, and was not tried yet."""
    tx.execute(
        _INSERT,
        id=delivery.id,
        webhook_id=delivery.webhook_id,
        seq=delivery.seq,
        event_id=delivery.event_id,
        type=delivery.type,
        subject=delivery.subject,
        data=to_json(delivery.data),
        next_attempt_ms=delivery.next_attempt_ms,
        created_ms=delivery.created_ms,
    )
    tx.notify(SUBJECT)


def _carried(tx: Tx, machine_id: str | None) -> set[str]:
    """The tags of the machine that an event is of, if it is of any."""
    found = tx.one(_Tags, "SELECT tags_json FROM machine WHERE id = :id", id=machine_id)
    return set() if found is None else set(found.tags)


# ── sent ─────────────────────────────────────────────────────────────────────────────────────────


@reads
def due(tx: Tx, now_ms: int, most: int) -> Due:
    """The heads whose time has come: of each webhook the `most` that are due longest.

    Just as many of its tests; of a disabled webhook nothing else. One that gave no answer has a
    pause.
    """
    heads: list[Head] = []
    later: list[int] = []
    for webhook in tx.all(_Lines, _LINES):
        if webhook.has_tests:
            heads += _heads(tx, webhook, _NEVER_MS, most, is_test=True)
        if webhook.first_ms is None or not webhook.is_enabled:
            continue
        begin_ms = webhook.first_ms
        if webhook.is_failing and webhook.resume_ms <= now_ms + PAUSE_MOST_MS:
            begin_ms = max(begin_ms, webhook.resume_ms)
        if begin_ms > now_ms:
            later.append(begin_ms)
            continue
        found = _heads(tx, webhook, now_ms, most)
        heads += found
        if len(found) < most:
            later += _next_ms(tx, webhook, now_ms)
    return Due(heads, min(later, default=None), leftovers.first(tx))


def _heads(
    tx: Tx, webhook: _Lines, until_ms: int, most: int, *, is_test: bool = False
) -> list[Head]:
    """Its heads that are due until then, the first first."""
    return tx.all(
        Head,
        "SELECT id, webhook_id, subject, next_attempt_ms, :is_test AS is_test,"  # noqa: S608
        " :is_failing AS is_failing FROM delivery WHERE webhook_id = :webhook_id"
        f" AND next_attempt_ms <= :until_ms AND {_KIND[is_test]}"
        " ORDER BY next_attempt_ms LIMIT :most",
        webhook_id=webhook.id,
        is_test=is_test,
        is_failing=webhook.is_failing,
        until_ms=until_ms,
        most=most,
    )


def _next_ms(tx: Tx, webhook: _Lines, now_ms: int) -> list[int]:
    """When more of it comes due, if anything does."""
    next_ms = tx.value(
        "SELECT min(next_attempt_ms) FROM delivery WHERE webhook_id = :webhook_id"  # noqa: S608
        f" AND next_attempt_ms > :now_ms AND {_KIND[False]}",
        webhook_id=webhook.id,
        now_ms=now_ms,
    )
    return [] if next_ms is None else [next_ms]


def mend(tx: Tx, now_ms: int) -> None:
    """What only a clock that was ahead can have put off, is due now: call this at the start."""
    tx.execute(
        "UPDATE delivery SET next_attempt_ms = :now_ms"  # noqa: S608
        " WHERE webhook_id IN (SELECT id FROM webhook) AND next_attempt_ms > :now_ms"
        f" AND {_KIND[False]} AND (attempts = 0 OR next_attempt_ms > :far_ms)",
        now_ms=now_ms,
        far_ms=now_ms + _FAR_MS,
    )


@brief
def attempted(
    tx: Tx,
    delivery_id: str,
    *,
    at_ms: int,
    duration_ms: int,
    response_status: int | None,
    error: str | None,
    excerpt: str | None,
) -> Delivery | None:
    """Record an attempt, under the next number; its delivery as it is now, unless it is gone."""
    delivery = tx.one(
        Delivery,
        "UPDATE delivery SET attempts = attempts + 1, tried = tried + 1 WHERE id = :id RETURNING *",
        id=delivery_id,
    )
    if delivery is None:
        return None
    tx.execute(
        "INSERT INTO attempt (delivery_id, number, at_ms, duration_ms, response_status, error,"
        " excerpt) VALUES (:delivery_id, :number, :at_ms, :duration_ms, :response_status, :error,"
        " :excerpt)",
        delivery_id=delivery.id,
        number=delivery.tried,
        at_ms=at_ms,
        duration_ms=duration_ms,
        response_status=response_status,
        error=error,
        excerpt=excerpt,
    )
    tx.execute(
        "DELETE FROM attempt WHERE delivery_id = :delivery_id AND number = :number",
        delivery_id=delivery.id,
        number=delivery.tried - ATTEMPTS_KEPT,
    )
    return delivery


@brief
def put_off(tx: Tx, delivery: Delivery, next_ms: int) -> None:
    """Set the time of the next attempt, unless another delivery has come in front of this one."""
    tx.execute(
        "UPDATE delivery SET next_attempt_ms = :next_ms"
        " WHERE id = :id AND next_attempt_ms IS NOT NULL",
        next_ms=next_ms,
        id=delivery.id,
    )


@brief
def end(
    tx: Tx, delivery: Delivery, status: DeliveryStatus, now_ms: int, reason: str | None = None
) -> None:
    """Record that a pending delivery came to this end; the next one of its line moves up."""
    if tx.execute(
        "UPDATE delivery SET status = :status, reason = :reason, next_attempt_ms = NULL,"
        " ended_ms = :now_ms WHERE id = :id AND status = 'pending'",
        status=status,
        reason=reason,
        now_ms=now_ms,
        id=delivery.id,
    ):
        _advance(tx, delivery.webhook_id, delivery.subject, now_ms)
        tx.notify(subject_of(delivery.id))


def _head_of(tx: Tx, webhook_id: str, subject: str) -> _Place | None:
    return tx.one(
        _Place,
        "SELECT id, subject, seq FROM delivery WHERE webhook_id = :webhook_id"
        " AND subject = :subject AND status = 'pending' ORDER BY seq LIMIT 1",
        webhook_id=webhook_id,
        subject=subject,
    )


def _advance(tx: Tx, webhook_id: str, subject: str, now_ms: int) -> None:
    """Let whatever is first in a line now be tried."""
    head = _head_of(tx, webhook_id, subject)
    if head is not None:
        tx.execute(
            "UPDATE delivery SET next_attempt_ms = :now_ms"
            " WHERE id = :id AND next_attempt_ms IS NULL",
            now_ms=now_ms,
            id=head.id,
        )


# ── sent again ───────────────────────────────────────────────────────────────────────────────────


def redeliver(tx: Tx, webhook_id: str, delivery_ids: Iterable[str], now_ms: int) -> int:
    """Put deliveries of a webhook in line again, from the first attempt; how many there were.

    Each takes the place of its number: in front of later ones of its subject.
    """
    found = 0
    for delivery_id in delivery_ids:
        place = tx.one(
            _Place,
            "SELECT id, subject, seq FROM delivery WHERE id = :id AND webhook_id = :webhook_id",
            id=delivery_id,
            webhook_id=webhook_id,
        )
        if place is None:
            continue
        found += 1
        head = _head_of(tx, webhook_id, place.subject)
        is_first = head is None or place.seq <= head.seq
        if head is not None and is_first:
            tx.execute("UPDATE delivery SET next_attempt_ms = NULL WHERE id = :id", id=head.id)
        tx.execute(
            "UPDATE delivery SET status = 'pending', reason = NULL, attempts = 0, ended_ms = NULL,"
            " next_attempt_ms = :next_attempt_ms WHERE id = :id",
            next_attempt_ms=now_ms if is_first else None,
            id=delivery_id,
        )
    tx.notify(SUBJECT)
    return found
