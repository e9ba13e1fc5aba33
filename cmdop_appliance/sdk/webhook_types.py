"""The shapes of webhooks: plain JSON objects, typed for the reader, never converted."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

Preset = Literal["ntfy", "gotify", "discord", "slack", "telegram"]
DeliveryStatus = Literal["pending", "delivered", "dead"]


class Webhook(TypedDict):
    """Who is told of events. `secret` is there in the answer to its creation only."""

    id: str
    url: str
    events: list[str]
    enabled: bool
    description: str
    preset: Preset | None
    header_names: list[str]
    disabled_reason: str | None  # why the hub sends it nothing more
    failing_since: str | None  # nothing was taken since then
    last_success_at: str | None
    pending: int  # deliveries that wait
    created_at: str
    updated_at: str
    secret: NotRequired[str]


class WebhookOptions(TypedDict, total=False):
    """What a webhook may have beside its address and its events."""

    secret: str | None  # made by the hub, if there is none
    enabled: bool | None
    description: str | None
    preset: Preset | None  # the body that such a receiver takes
    headers: Mapping[str, str] | None  # beside the hub's own; their values are never shown


class WebhookChanges(TypedDict, total=False):
    """What a webhook is to have from now on; None takes it off."""

    url: str
    events: Sequence[str]
    secret: str
    enabled: bool
    description: str
    preset: Preset | None
    headers: Mapping[str, str]  # all that it is to have


class Attempt(TypedDict):
    """One POST of a delivery; `duration` in ms. `error` is None if the receiver took it."""

    number: int
    at: str
    duration: int
    response_status: int | None
    error: str | None
    response_excerpt: str | None  # of what a public receiver answered


class Delivery(TypedDict):
    """One event for one webhook, with its newest attempts, the newest first.

    `seq` counts the deliveries of the webhook without gaps; 0 is a test.
    """

    id: str
    webhook_id: str
    event_id: str
    event: str
    subject: str  # what it is about: of one subject they come in order
    seq: int
    status: DeliveryStatus
    reason: str | None  # why it is dead
    attempt_count: int
    next_attempt_at: str | None
    created_at: str
    ended_at: str | None
    data: dict[str, Any]
    attempts: list[Attempt]
