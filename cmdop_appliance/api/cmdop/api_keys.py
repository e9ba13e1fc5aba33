"""/api-keys and /auth/me."""

from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from cmdop_appliance.api.cmdop.machines import Deleted
from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import Name, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import GRANTABLE, Scope, new_key, secret_hash, shown_prefix
from cmdop_appliance.errors import Conflict, Forbidden, NotFound, ValidationFailed
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import ApiKey
from cmdop_appliance.store import api_keys as rows

_DAY_MS: Final = 86_400_000


class KeyBody(Struct, kw_only=True):
    """A new key. Without `expires_in_days` it does not expire."""

    name: Name
    scopes: Annotated[list[str], Meta(min_length=1)]
    expires_in_days: Annotated[int, Meta(ge=1, le=36_500)] | None = None
    tags: list[str] = []  # refused: a key without the restriction would be wider than asked for


class KeyView(Struct, frozen=True, kw_only=True):
    """A key as it may be shown."""

    id: str
    name: str
    key_prefix: str
    scopes: list[str]
    expires_at: str | None
    created_at: str | None


class NewKey(KeyView, frozen=True, kw_only=True):
    """A key, with the secret that is shown only now."""

    key: str


class Me(Struct, frozen=True):
    """Who is asking."""

    id: str
    email: str
    name: str
    permissions: list[str]


@route(
    "POST",
    "/api-keys",
    scope=Scope.ADMIN,
    body=KeyBody,
    answer=NewKey,
    errors=(Forbidden, ValidationFailed),
    status=201,
)
async def create_api_key(call: Call[KeyBody, None]) -> NewKey:
    """Make a key; it can never have a right that its maker lacks."""
    if call.body.tags:
        raise ValidationFailed("Validation failed", tags="is not supported by this version")
    scopes = []
    for name in dict.fromkeys(call.body.scopes):
        if name not in GRANTABLE:
            raise ValidationFailed(
                "Validation failed", scopes=f"unknown scope; known are {', '.join(GRANTABLE)}"
            )
        call.caller.require(Scope(name))
        scopes.append(name)
    now_ms = call.hub.clock.now_ms()
    days = call.body.expires_in_days
    once = call.once
    secret = new_key(None if once is None else once.secret(once.salt))
    key = ApiKey(
        id=new_id("key"),
        workspace_id=call.caller.workspace_id,
        namespace=call.caller.namespace,
        name=call.body.name,
        key_prefix=shown_prefix(secret),
        scopes=scopes,
        created_ms=now_ms,
        expires_ms=None if days is None else now_ms + days * _DAY_MS,
    )
    made = await call.hub.store.run(rows.insert, key, secret_hash(secret), once)
    if once is not None and made is not None and made.made_id != key.id:
        key = await call.hub.store.run(rows.get, key.workspace_id, made.made_id)
        secret = new_key(once.secret(made.salt))
    return NewKey(**_fields(key), key=secret)


@route("GET", "/api-keys", scope=Scope.ADMIN, query=Paged, answer=list[KeyView])
async def list_api_keys(call: Call[None, Paged]) -> Listed:
    """The keys of the workspace, without their secrets."""
    page = await call.hub.store.run(
        rows.page, call.caller.workspace_id, read_paging(call.query, rows.ORDER)
    )
    return Listed([KeyView(**_fields(key)) for key in page.items], page)


@route("DELETE", "/api-keys/:id", scope=Scope.ADMIN, answer=Deleted, errors=(NotFound, Conflict))
async def delete_api_key(call: Call[None, None]) -> Deleted:
    """Revoke a key; it stops working within a second."""
    await call.hub.store.run(rows.delete, call.caller.workspace_id, call.path["id"])
    call.hub.callers.forget()
    return Deleted()


@route("GET", "/auth/me", scope=Scope.ANY_KEY, answer=Me)
async def get_me(call: Call[None, None]) -> Me:
    """Who is asking, and what they may do."""
    caller = call.caller
    return Me(caller.key_id, caller.email, caller.name, sorted(caller.scopes))


def _fields(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "key_prefix": key.key_prefix,
        "scopes": key.scopes,
        "expires_at": when(key.expires_ms),
        "created_at": when(key.created_ms),
    }
