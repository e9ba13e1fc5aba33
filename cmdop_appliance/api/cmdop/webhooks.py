"""/webhooks: who is told of events."""

from typing import Annotated, Any, ClassVar, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from cmdop_appliance.api.cmdop.machines import Deleted
from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import Description, Time, changes_of, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Reach, Scope
from cmdop_appliance.errors import (
    Conflict,
    IdempotencyConflict,
    ValidationFailed,
    WebhookNotFound,
)
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Preset, Webhook
from cmdop_appliance.store import webhooks as rows
from cmdop_appliance.store.transaction import Tx, reads
from cmdop_appliance.webhooks import editing

# Fields of the record that callers know by another name.
_FIELDS: Final = {"enabled": "is_enabled"}

# Read by `editing`, which says what is known, and what is wrong with a URL.
_EventName = Annotated[str, Meta(extra_json_schema={"enum": list(editing.KNOWN)})]
_Events = Annotated[list[_EventName], Meta(min_length=1)]
_Url = Annotated[str, Meta(extra_json_schema={"format": "uri"})]
_Secret = Annotated[str, Meta(min_length=1)]


class WebhookBody(Struct, kw_only=True):
    """Whom to tell of which events; `*`: of all. Without a `secret` the hub makes one.

    `headers` go with each request; `preset` is the kind of a receiver that wants its own body.
    """

    url: _Url
    events: _Events
    secret: _Secret | None = None
    enabled: bool = True
    description: Description = ""
    preset: Preset | None = None
    headers: dict[str, str] = {}


class WebhookChanges(Struct, kw_only=True):
    """What to change; what is left out stays as it is. `headers` are all that it is to have."""

    url: _Url | UnsetType = UNSET
    events: _Events | UnsetType = UNSET
    secret: _Secret | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    preset: Preset | UnsetType | None = UNSET
    headers: dict[str, str] | UnsetType = UNSET


class WebhookList(Paged, frozen=True):
    """Filters of the list of webhooks."""

    ORDER: ClassVar = rows.ORDER

    enabled: bool | None = None


class WebhookView(Struct, frozen=True, kw_only=True):
    """A webhook as it may be shown; of its headers, the names."""

    id: str
    url: str
    events: list[str]
    enabled: bool
    description: str
    preset: Preset | None
    header_names: list[str]
    disabled_reason: str | None  # why the hub disabled it
    failing_since: Time | None  # its receiver has taken nothing since then
    last_success_at: Time | None
    pending: int  # deliveries that wait
    created_at: Time | None
    updated_at: Time | None


class NewWebhook(WebhookView, frozen=True, kw_only=True):
    """A webhook, with the secret that is shown only now."""

    secret: str


@route("GET", "/webhooks", scope=Scope.WEBHOOKS_MANAGE, query=WebhookList, answer=list[WebhookView])
async def list_webhooks(call: Call[None, WebhookList]) -> Listed:
    """The webhooks of the workspace, newest first; by a restricted key, those within it."""
    page = await call.hub.store.run(
        rows.page, call.caller.reach, read_paging(call.query), is_enabled=call.query.enabled
    )
    return Listed([WebhookView(**_fields(webhook)) for webhook in page.items], page)


@route(
    "POST",
    "/webhooks",
    scope=Scope.WEBHOOKS_MANAGE,
    body=WebhookBody,
    answer=NewWebhook,
    errors=(Conflict, IdempotencyConflict, ValidationFailed),
    status=201,
)
async def create_webhook(call: Call[WebhookBody, None]) -> NewWebhook:
    """Tell a receiver of events from now on, signed with the secret that is shown only here.

    What a key that is restricted to tags makes, hears of machines only that carry them all.
    """
    body, now_ms = call.body, call.hub.clock.now_ms()
    webhook = Webhook(
        id=new_id("hook"),
        workspace_id=call.caller.workspace_id,
        url=body.url,
        events=_each_once(body.events),
        secret=body.secret or "",
        preset=body.preset,
        headers=body.headers,
        description=body.description,
        tags=list(call.caller.tags),
        is_enabled=body.enabled,
        created_ms=now_ms,
        updated_ms=now_ms,
    )
    made = await call.hub.store.run(
        editing.make, call.caller, webhook, call.hub.networks, call.once
    )
    return NewWebhook(**_fields(made), secret=made.secret)


@route(
    "GET",
    "/webhooks/:id",
    scope=Scope.WEBHOOKS_MANAGE,
    answer=WebhookView,
    errors=(WebhookNotFound,),
)
async def get_webhook(call: Call[None, None]) -> WebhookView:
    """One webhook, without its secret."""
    webhook = await call.hub.store.run(_found, call.caller.reach, call.path["id"])
    return WebhookView(**_fields(webhook))


@route(
    "PATCH",
    "/webhooks/:id",
    scope=Scope.WEBHOOKS_MANAGE,
    body=WebhookChanges,
    answer=WebhookView,
    errors=(WebhookNotFound, Conflict, ValidationFailed),
)
async def edit_webhook(call: Call[WebhookChanges, None]) -> WebhookView:
    """Change a webhook.

    One that is disabled gives up what it was not told yet, and hears of nothing that happens
    until it is enabled again. With a URL of another origin, its headers are to be given again.
    """
    changes = {_FIELDS.get(name, name): value for name, value in changes_of(call.body).items()}
    if "events" in changes:
        changes["events"] = _each_once(changes["events"])
    webhook = await editing.change(
        call.hub.store,
        call.hub.clock,
        call.caller,
        call.path["id"],
        changes,
        call.hub.networks,
    )
    return WebhookView(**_fields(webhook))


@route(
    "DELETE",
    "/webhooks/:id",
    scope=Scope.WEBHOOKS_MANAGE,
    answer=Deleted,
    errors=(WebhookNotFound,),
)
async def delete_webhook(call: Call[None, None]) -> Deleted:
    """Drop a webhook, with what it was not told yet."""
    now_ms = call.hub.clock.now_ms()
    await call.hub.store.run(editing.delete, call.caller, call.path["id"], now_ms)
    return Deleted()


@reads
def _found(tx: Tx, reach: Reach, webhook_id: str) -> Webhook:
    return rows.counted(tx, rows.get(tx, reach, webhook_id))


def _each_once(events: list[str]) -> list[str]:
    return list(dict.fromkeys(events))


def _fields(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": webhook.events,
        "enabled": webhook.is_enabled,
        "description": webhook.description,
        "preset": webhook.preset,
        "header_names": sorted(webhook.headers),
        "disabled_reason": webhook.disabled_reason,
        "failing_since": when(webhook.failing_since_ms),
        "last_success_at": when(webhook.succeeded_ms),
        "pending": webhook.pending,
        "created_at": when(webhook.created_ms),
        "updated_at": when(webhook.updated_ms),
    }
