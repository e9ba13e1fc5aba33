"""/sign-ins: browsers that act as an API key, and links by which they begin to."""

from typing import Annotated, ClassVar, Final

from msgspec import Meta, Struct

from cmdop_appliance.api.cmdop.api_keys import Owner
from cmdop_appliance.api.cmdop.machines import Deleted
from cmdop_appliance.api.cookies import cookie_header, cookie_in
from cmdop_appliance.api.exchange import Call, Listed, Paged, count, read_paging
from cmdop_appliance.api.fields import Time, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.api.same_origin import require_own_page
from cmdop_appliance.auth import Caller, Scope, new_link, new_secret, secret_hash
from cmdop_appliance.errors import (
    CrossOrigin,
    Forbidden,
    NotFound,
    RateLimited,
    Unauthorized,
    ValidationFailed,
    WrongHost,
)
from cmdop_appliance.hub.sign_ins import LINK_MS, address_of
from cmdop_appliance.model import SignIn
from cmdop_appliance.store import sign_ins as rows
from cmdop_appliance.store.audit import append
from cmdop_appliance.store.idempotency import claim

_SECRET_CHARS: Final = 200
_CURRENT: Final = "current"

_Secret = Annotated[str, Meta(max_length=_SECRET_CHARS)]


class SignInBody(Struct, kw_only=True):
    """What signs a browser in: a sign-in link, which is good once, or an API key."""

    link: _Secret | None = None
    key: _Secret | None = None


class SignInList(Paged, frozen=True):
    """A page of the list of sign-ins."""

    ORDER: ClassVar = rows.ORDER


class NewSignIn(Struct, frozen=True, kw_only=True):
    """A browser that is signed in, and what it may do. It holds the secret, as a cookie."""

    id: str
    key_id: str
    key_name: str
    email: str
    permissions: list[str]
    workspace: Owner
    tags: list[str]
    created_at: Time | None
    expires_at: Time | None


class SignInView(Struct, frozen=True, kw_only=True):
    """A sign-in as it may be shown.

    `last_seen_at` and `ip` are right to a minute. It ends at `expires_at`, or before, when it is
    not used for long.
    """

    id: str
    key_id: str
    key_name: str
    created_at: Time | None
    last_seen_at: Time | None
    ip: str
    user_agent: str
    expires_at: Time | None
    current: bool  # it is the one that asks


class SignInLink(Struct, frozen=True, kw_only=True):
    """A link, good once. `url` is null where the hub does not know how browsers reach it.

    Then the link is `/sign-in#` and the token, at the hub's address.
    """

    token: str
    url: str | None
    expires_at: Time | None


@route(
    "POST",
    "/sign-ins",
    scope=Scope.PUBLIC,
    body=SignInBody,
    answer=NewSignIn,
    errors=(Unauthorized, CrossOrigin, WrongHost, RateLimited, ValidationFailed),
    status=201,
)
async def create_sign_in(call: Call[SignInBody, None]) -> NewSignIn:
    """Sign this browser in as an API key: by a link, or by the key itself.

    The answer sets a cookie, by which pages of the hub, and no others, may ask from then on.
    """
    hub, request = call.hub, call.request
    require_own_page(request.method, request.headers, hub.config.server.public_host)
    caller = await _shown(call)
    count(hub, caller, request)
    before = await _before(call)
    user_agent = request.headers.get("user-agent", "")
    sign_in, cookie = await hub.sign_ins.begin(caller, request.peer, user_agent, before)
    age_s = (sign_in.expires_ms - sign_in.created_ms) // 1000
    request.answer_headers |= cookie_header(cookie, age_s, is_secure=request.is_secure)
    return NewSignIn(
        id=sign_in.id,
        key_id=caller.key_id,
        key_name=caller.name,
        email=caller.email,
        permissions=sorted(caller.scopes),
        workspace=Owner(caller.workspace_id, caller.namespace),
        tags=list(caller.tags),
        created_at=when(sign_in.created_ms),
        expires_at=when(sign_in.expires_ms),
    )


async def _shown(call: Call[SignInBody, None]) -> Caller:
    """Whose link or key was sent.

    Raises:
        ValidationFailed: neither was, or both.
        Unauthorized, RateLimited
    """
    link, key = call.body.link, call.body.key
    if link is not None and key is None:
        return await call.hub.sign_ins.redeem(link, call.request.peer)
    if key is not None and link is None:
        return await call.hub.callers.identify_key(key, call.request.peer)
    raise ValidationFailed("Validation failed", link="give either a link or a key")


async def _before(call: Call[SignInBody, None]) -> str | None:
    """The sign-in that this browser had until now."""
    headers, is_secure = call.request.headers, call.request.is_secure
    cookie = cookie_in(headers, is_secure=is_secure)
    if cookie is None:
        return None
    now_ms = call.hub.clock.now_ms()
    found = await call.hub.store.run(rows.by_hash, secret_hash(cookie), now_ms)
    return None if found is None else found[0].id


@route("GET", "/sign-ins", scope=Scope.ANY_KEY, query=SignInList, answer=list[SignInView])
async def list_sign_ins(call: Call[None, SignInList]) -> Listed:
    """The browsers that act as this key; by an admin, as any key of the workspace."""
    page = await call.hub.store.run(
        rows.page, call.caller.reach, read_paging(call.query), api_key_id=_own_key(call.caller)
    )
    return Listed([_view(item, call.caller) for item in page.items], page)


@route("DELETE", "/sign-ins/:id", scope=Scope.ANY_KEY, answer=Deleted, errors=(NotFound,))
async def delete_sign_in(call: Call[None, None]) -> Deleted:
    """Sign a browser out, within a second; `current` is the one that asks."""
    sign_in_id, own = call.path["id"], call.caller.sign_in_id
    if sign_in_id == _CURRENT:
        if own is None:
            raise NotFound("sign-in not found", hint="a key was shown: nobody is signed in by it")
        sign_in_id = own
    entry = call.entry("sign_in.removed", sign_in_id)
    await call.hub.store.run(
        entry.recording(rows.delete), call.caller.reach, sign_in_id, _own_key(call.caller)
    )
    call.hub.callers.forget()
    if sign_in_id == own:
        call.request.answer_headers |= cookie_header("", 0, is_secure=call.request.is_secure)
    return Deleted()


@route(
    "POST",
    "/sign-in-links",
    scope=Scope.ANY_KEY,
    answer=SignInLink,
    errors=(Forbidden,),
    status=201,
)
async def create_sign_in_link(call: Call[None, None]) -> SignInLink:
    """A link that signs one browser in as this key: good once, within 10 minutes.

    By a browser's sign-in it makes one that ends no later than that.
    """
    caller = call.caller
    if caller.token_until_ms is not None:
        raise Forbidden("a token makes no sign-in link", hint="send the API key itself")
    secret, made_ms, is_again = new_secret(), call.hub.clock.now_ms(), False
    if call.once is not None:
        made = await call.hub.store.run(claim, call.once, caller.key_id)
        secret, made_ms = call.once.secret(made.salt), made.created_ms
        is_again = made.salt != call.once.salt
    token = new_link(secret)
    if not is_again:
        await call.hub.store.run(append, call.entry("sign_in.link_made", caller.key_id))
        call.hub.sign_ins.put_link(caller, token)
    public_url = call.hub.config.server.public_url
    return SignInLink(
        token=token,
        url=address_of(token, public_url) if public_url else None,
        expires_at=when(made_ms + LINK_MS),
    )


def _own_key(caller: Caller) -> str | None:
    """The one key whose sign-ins this caller may know of; None: those of all in its reach."""
    return None if caller.allows(Scope.ADMIN) else caller.key_id


def _view(sign_in: SignIn, caller: Caller) -> SignInView:
    return SignInView(
        id=sign_in.id,
        key_id=sign_in.api_key_id,
        key_name=sign_in.key_name,
        created_at=when(sign_in.created_ms),
        last_seen_at=when(sign_in.last_seen_ms),
        ip=sign_in.ip,
        user_agent=sign_in.user_agent,
        expires_at=when(sign_in.expires_ms),
        current=sign_in.id == caller.sign_in_id,
    )
