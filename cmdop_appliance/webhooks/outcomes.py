"""What becomes of a delivery and of its webhook, by what the receiver answers: transactions."""

from typing import Final, NamedTuple

from cmdop_appliance.model import Delivery, Webhook
from cmdop_appliance.store import deliveries, machines, outbox, webhooks
from cmdop_appliance.store.transaction import Tx, brief, reads
from cmdop_appliance.webhooks.backoff import next_delay_s
from cmdop_appliance.webhooks.sending import Answer

# A receiver that takes nothing for so long is sent nothing more (semantics.md, Webhooks 3).
FAILING_DAYS: Final = 5

_DAY_MS: Final = 86_400_000
_GONE: Final = 410  # RFC 9110 §15.5.11: for good


class ToSend(NamedTuple):
    """A delivery, whom to tell, and for what people read, the name of its machine, if of any."""

    delivery: Delivery
    webhook: Webhook
    machine_name: str | None


@brief
@reads
def to_send(tx: Tx, delivery_id: str) -> ToSend | None:
    """A pending delivery and its webhook as they are now; None: it is not to be sent."""
    delivery = deliveries.find(tx, delivery_id)
    if delivery is None or delivery.status != "pending":
        return None
    webhook = webhooks.find(tx, delivery.webhook_id)
    if webhook is None or not (webhook.is_enabled or _is_test(delivery)):
        return None
    name = None
    if webhook.preset is not None:
        name = machines.name_of(tx, delivery.data.get("machine_id"))
    return ToSend(delivery, webhook, name)


def record(tx: Tx, delivery_id: str, answer: Answer, at_ms: int, now_ms: int, share: float) -> None:
    """Record an attempt, and what follows from it. `share` is uniform in [0, 1): how long to wait.

    A test says what it says, once: nothing follows from it for the webhook.
    """
    delivery = outbox.attempted(
        tx,
        delivery_id,
        at_ms=at_ms,
        duration_ms=answer.duration_ms,
        response_status=answer.status,
        error=answer.error,
        excerpt=answer.excerpt,
    )
    if delivery is None or delivery.status != "pending":  # it was taken away meanwhile
        return
    if answer.error is None:
        outbox.end(tx, delivery, "delivered", now_ms)
        if not _is_test(delivery):
            webhooks.succeeded(tx, delivery.webhook_id, now_ms)
        return
    delay_s = None
    if not _is_test(delivery):
        _note_failure(tx, delivery.webhook_id, answer, now_ms)
        delay_s = next_delay_s(delivery.attempts, share, answer.retry_after_s)
    if delay_s is None:
        tries = "1 attempt" if delivery.attempts == 1 else f"{delivery.attempts} attempts"
        outbox.end(tx, delivery, "dead", now_ms, f"{tries} failed")
    else:
        outbox.put_off(tx, delivery, now_ms + round(delay_s * 1000))


def _note_failure(tx: Tx, webhook_id: str, answer: Answer, now_ms: int) -> None:
    since_ms = webhooks.failed(tx, webhook_id, now_ms, is_silent=answer.status is None)
    if answer.status == _GONE:
        webhooks.disable(tx, webhook_id, "its receiver answered 410 Gone", now_ms)
    elif since_ms is not None and now_ms - since_ms >= FAILING_DAYS * _DAY_MS:
        reason = f"its receiver took nothing for {FAILING_DAYS} days"
        webhooks.disable(tx, webhook_id, reason, now_ms)


def _is_test(delivery: Delivery) -> bool:
    return delivery.seq == 0
