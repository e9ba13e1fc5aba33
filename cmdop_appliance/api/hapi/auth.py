"""/api/auth: a token for an API key, for whoever is not to hold the key itself."""

from typing import Annotated

from msgspec import Meta, Struct

from cmdop_appliance.api.exchange import Call, count
from cmdop_appliance.api.registry import HAPI, route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import RateLimited, Unauthorized

_ACCESS_TOKEN_CHARS = 200  # of key and namespace together


class SignInBody(Struct, kw_only=True, rename="camel"):
    """An API key, with or without `:` and the namespace of its workspace behind it."""

    access_token: Annotated[str, Meta(max_length=_ACCESS_TOKEN_CHARS)]


class User(Struct, frozen=True, kw_only=True, rename="camel"):
    """Who signed in: an API key, by the names that HAPI has for a person."""

    id: str
    username: str
    first_name: str
    name: str
    email: str
    namespace: str


class SignedIn(Struct, frozen=True, kw_only=True, rename="camel"):
    """A token, which is good as a Bearer wherever its key is, and no longer than that."""

    token: str
    expires_at: int  # ms since 1970
    user: User


@route(
    "POST",
    "/api/auth",
    scope=Scope.PUBLIC,
    body=SignInBody,
    answer=SignedIn,
    errors=(Unauthorized, RateLimited),
    plane=HAPI,
)
async def sign_in(call: Call[SignInBody, None]) -> SignedIn:
    """A token for an API key, good for four hours."""
    signed_in = await call.hub.callers.sign_in(call.body.access_token, call.request.peer)
    caller = signed_in.caller
    count(call.hub, caller, call.request)
    user = User(
        id=caller.key_id,
        username=caller.email,
        first_name=caller.name,
        name=caller.name,
        email=caller.email,
        namespace=caller.namespace,
    )
    return SignedIn(token=signed_in.token, expires_at=signed_in.until_ms, user=user)
