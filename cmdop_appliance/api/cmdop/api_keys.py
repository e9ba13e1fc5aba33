"""/api-keys and /auth/me."""

from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta, Struct

from cmdop_appliance import __version__
from cmdop_appliance.api.cmdop.machines import Deleted
from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import Name, Tags, Time, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import GRANTABLE, Caller, Scope, new_key, secret_hash, shown_prefix
from cmdop_appliance.errors import Conflict, Forbidden, NotFound, ValidationFailed
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import ApiKey
from cmdop_appliance.store import api_keys as rows
from cmdop_appliance.store.idempotency import Claim

_DAY_MS: Final = 86_400_000


# Read by the handler, which says what is known.
_ScopeName = Annotated[str, Meta(extra_json_schema={"enum": list(GRANTABLE)})]


class KeyBody(Struct, kw_only=True):
    """A new key. What is not said of tags and expiry is as with the key that makes it.

    With `tags` the key is good only for machines that carry all of them.
    """

    name: Name
    scopes: Annotated[list[_ScopeName], Meta(min_length=1)]
    expires_in_days: Annotated[int, Meta(ge=1, le=36_500)] | None = None
    tags: Tags | None = None


class KeyList(Paged, frozen=True):
    """A page of the list of keys."""

    ORDER: ClassVar = rows.ORDER


class Key(Struct, frozen=True, kw_only=True):
    """A key as it was made."""

    id: str
    name: str
    key_prefix: str
    scopes: list[str]
    tags: list[str]
    expires_at: Time | None
    created_at: Time | None


class KeyView(Key, frozen=True, kw_only=True):
    """A key as it may be shown. `last_used_at` is right to a minute."""

    last_used_at: Time | None
    last_used_ip: str | None


class NewKey(Key, frozen=True, kw_only=True):
    """A key, with the secret that is shown only now."""

    key: str


class Owner(Struct, frozen=True):
    """The workspace of a key."""

    id: str
    namespace: str


class Me(Struct, frozen=True, kw_only=True):
    """Who is asking."""

    id: str
    email: str
    name: str
    permissions: list[str]
    workspace: Owner
    tags: list[str]
    expires_at: Time | None
    sign_in_id: str | None  # of a browser that asks by its cookie
    hub_version: str


@route(
    "POST",
    "/api-keys",
    scope=Scope.ADMIN,
    body=KeyBody,
    answer=NewKey,
    errors=(Forbidden, Conflict, ValidationFailed),
    status=201,
)
async def create_api_key(call: Call[KeyBody, None]) -> NewKey:
    """Make a key; it can never do what its maker cannot, reach farther or live longer."""
    scopes = []
    for name in dict.fromkeys(call.body.scopes):
        if name not in GRANTABLE:
            raise ValidationFailed(
                "Validation failed", scopes=f"unknown scope; known are {', '.join(GRANTABLE)}"
            )
        call.caller.require(Scope(name))
        scopes.append(name)
    tags = handed_on(call.caller, call.body.tags)
    now_ms = call.hub.clock.now_ms()
    secret = new_key(None if call.once is None else call.once.secret(call.once.salt))
    key = ApiKey(
        id=new_id("key"),
        workspace_id=call.caller.workspace_id,
        namespace=call.caller.namespace,
        name=call.body.name,
        key_prefix=shown_prefix(secret),
        scopes=scopes,
        tags=tags,
        created_ms=now_ms,
        expires_ms=_expiry(call, now_ms),
    )
    entry = call.entry("api_key.created", key.id, name=key.name, scopes=scopes, tags=tags)
    insert = entry.recording(rows.insert)
    made = await call.hub.store.run(insert, key, secret_hash(secret), call.once)
    return with_secret(*await first_made(call, key, secret, made))


async def first_made(
    call: Call[Any, Any], key: ApiKey, secret: str, made: Claim | None
) -> tuple[ApiKey, str]:
    """`key` and its secret, or those that the same request made before.

    Raises:
        Conflict: they have been revoked since.
        Forbidden: the key made them, and its token asks now; they would outlive it.
    """
    if call.once is None or made is None or made.made_id == key.id:
        return key, secret
    first = await call.hub.store.run(rows.by_id, made.made_id)
    if first is None:
        raise Conflict("the key that this request made was revoked", key_id=made.made_id)
    call.caller.require_outlives(first.expires_ms)
    return first, new_key(call.once.secret(made.salt))


def with_secret(key: ApiKey, secret: str) -> NewKey:
    """The answer to who made a key."""
    return NewKey(**_fields(key), key=secret)


def handed_on(caller: Caller, tags: list[str] | None) -> list[str]:
    """The tags of what a caller makes: those that were asked for, or the caller's own.

    Raises:
        Forbidden: one of the caller's own is missing.
    """
    if tags is None:
        return list(caller.tags)
    if missing := [tag for tag in caller.tags if tag not in tags]:
        raise Forbidden(
            f"this key is restricted to {', '.join(caller.tags)}, and so is whatever it makes",
            missing_tags=missing,
        )
    return list(dict.fromkeys(tags))


def _expiry(call: Call[KeyBody, None], now_ms: int) -> int | None:
    days = call.body.expires_in_days
    if days is None:
        return call.caller.until_ms
    expires_ms = now_ms + days * _DAY_MS
    call.caller.require_outlives(expires_ms)
    return expires_ms


@route("GET", "/api-keys", scope=Scope.ADMIN, query=KeyList, answer=list[KeyView])
async def list_api_keys(call: Call[None, KeyList]) -> Listed:
    """The keys of the workspace, without their secrets; by a restricted key, those within it."""
    page = await call.hub.store.run(rows.page, call.caller.reach, read_paging(call.query))
    return Listed([_view(key) for key in page.items], page)


@route("GET", "/api-keys/:id", scope=Scope.ADMIN, answer=KeyView, errors=(NotFound,))
async def get_api_key(call: Call[None, None]) -> KeyView:
    """One key, without its secret."""
    return _view(await call.hub.store.run(rows.get, call.caller.reach, call.path["id"]))


@route("DELETE", "/api-keys/:id", scope=Scope.ADMIN, answer=Deleted, errors=(NotFound, Conflict))
async def delete_api_key(call: Call[None, None]) -> Deleted:
    """Revoke a key; it stops working within a second."""
    entry = call.entry("api_key.revoked", call.path["id"])
    await call.hub.store.run(entry.recording(rows.delete), call.caller.reach, call.path["id"])
    call.hub.callers.forget()
    return Deleted()


@route("GET", "/auth/me", scope=Scope.ANY_KEY, answer=Me)
async def get_me(call: Call[None, None]) -> Me:
    """Who is asking, and what they may do."""
    caller = call.caller
    return Me(
        id=caller.key_id,
        email=caller.email,
        name=caller.name,
        permissions=sorted(caller.scopes),
        workspace=Owner(caller.workspace_id, caller.namespace),
        tags=list(caller.tags),
        expires_at=when(caller.until_ms),
        sign_in_id=caller.sign_in_id,
        hub_version=__version__,
    )


def _view(key: ApiKey) -> KeyView:
    last_used_at = when(key.last_used_ms)
    return KeyView(**_fields(key), last_used_at=last_used_at, last_used_ip=key.last_used_ip)


def _fields(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "key_prefix": key.key_prefix,
        "scopes": key.scopes,
        "tags": key.tags,
        "expires_at": when(key.expires_ms),
        "created_at": when(key.created_ms),
    }
