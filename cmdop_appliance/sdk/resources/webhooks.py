# Made from sdk/aio/resources/webhooks.py by scripts/fix: change it there.
"""Webhooks: who is told of events, and what became of it."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Unpack, cast

from cmdop_appliance.sdk.errors import UnexpectedAnswer
from cmdop_appliance.sdk.resources.resource import PAGE_ITEMS, Resource, path_to, require_known
from cmdop_appliance.sdk.webhook_types import (
    Delivery,
    DeliveryStatus,
    Webhook,
    WebhookChanges,
    WebhookOptions,
)


class Webhooks(Resource):
    """Receivers that the hub tells of events."""

    def list(self) -> Iterator[Webhook]:
        """All webhooks, newest first, page by page, without their secrets."""
        return self._pages("/webhooks", {})

    def get(self, webhook_id: str) -> Webhook:
        """One webhook, without its secret."""
        return cast("Webhook", self._answer("GET", path_to("webhooks", webhook_id)))

    def create(
        self,
        url: str,
        events: Sequence[str],
        *,
        idempotency_key: str | None = None,
        **options: Unpack[WebhookOptions],
    ) -> Webhook:
        """A new webhook; what it is signed with is in `secret`, here and never again.

        `events`: names such as "command.failed", or "*" for all that there are and will be.

        Raises:
            InvalidRequest: the URL, an event or another field is wrong; `details` names it.
            TypeError: there is no such option.
        """
        require_known(options, WebhookOptions.__optional_keys__)
        body = {"url": url, "events": [*events], **options}
        return cast(
            "Webhook",
            self._answer("POST", "/webhooks", body=body, idempotency_key=idempotency_key),
        )

    def update(self, webhook_id: str, **changes: Unpack[WebhookChanges]) -> Webhook:
        """The webhook with these changes; what is missing stays as it is.

        None takes off a `preset`. `headers` are all that it is to have. A webhook that is disabled
        gives up what it was not told yet.

        Raises: as `create`, and NotFound when there is no such webhook.
        """
        require_known(changes, WebhookChanges.__optional_keys__)
        path = path_to("webhooks", webhook_id)
        return cast("Webhook", self._answer("PATCH", path, body={**changes}))

    def delete(self, webhook_id: str) -> None:
        """Forget the webhook, and what it was not told yet."""
        self._transport.request("DELETE", path_to("webhooks", webhook_id))

    def test(self, webhook_id: str, *, idempotency_key: str | None = None) -> Delivery:
        """Send it a test now, also when it is disabled; what came of it is in `attempts`."""
        path = path_to("webhooks", webhook_id) + "/test"
        return cast("Delivery", self._answer("POST", path, idempotency_key=idempotency_key))

    def deliveries(
        self,
        webhook_id: str,
        *,
        status: DeliveryStatus | None = None,
        event: str | None = None,
        since: datetime | None = None,
        page_items: int = PAGE_ITEMS,
    ) -> Iterator[Delivery]:
        """What it was told or is to be told, newest first, page by page. `since` needs its zone."""
        query = {"status": status, "event": event, "since": since.isoformat() if since else None}
        return self._pages(path_to("webhooks", webhook_id) + "/deliveries", query, page_items)

    def delivery(self, webhook_id: str, delivery_id: str) -> Delivery:
        """One delivery with its attempts."""
        return cast("Delivery", self._answer("GET", _delivery(webhook_id, delivery_id)))

    def redeliver(
        self, webhook_id: str, delivery_id: str, *, idempotency_key: str | None = None
    ) -> Delivery:
        """Put a delivery in line again, whatever became of it, with the same event id.

        Raises:
            NotFound: there is no such delivery, or it is kept no more.
            Conflict: the webhook is disabled.
        """
        path = _delivery(webhook_id, delivery_id) + "/redeliver"
        return cast("Delivery", self._answer("POST", path, idempotency_key=idempotency_key))

    def redeliver_since(
        self,
        webhook_id: str,
        since: datetime,
        *,
        until: datetime | None = None,
        status: DeliveryStatus | None = None,
        idempotency_key: str | None = None,
    ) -> int:
        """Put in line again what was made from `since` on; how many those are.

        By default only what is dead. Times need their zone.

        Raises:
            Conflict: the webhook is disabled.
        """
        path = path_to("webhooks", webhook_id) + "/redeliver"
        body = {
            "since": since.isoformat(),
            "until": until.isoformat() if until else None,
            "status": status,
        }
        made = self._answer("POST", path, body=body, idempotency_key=idempotency_key)
        count = made.get("redelivered")
        if not isinstance(count, int):
            raise UnexpectedAnswer("the hub did not say how many deliveries are in line again")
        return count


def _delivery(webhook_id: str, delivery_id: str) -> str:
    return path_to("webhooks", webhook_id) + path_to("deliveries", delivery_id)
