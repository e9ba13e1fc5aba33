"""/api/auth: a token for an API key, for whoever is not to hold the key itself."""

from typing import Annotated

from msgspec import Meta, Struct

from cmdop_appliance.api.exchange import Call, count
from cmdop_appliance.api.registry import HAPI, route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import RateLimited, Unauthorized

_ACCESS_TOKEN_CHARS = 200  # of key and namespace together


class AccessTokenBody(Struct, kw_only=True, rename="camel"):
    """An API key, with or without `:` and the namespace of its workspace behind it."""

    access_token: Annotated[str, Meta(max_length=_ACCESS_TOKEN_CHARS)]


class User(Struct, frozen=True, kw_only=True, rename="camel"):
    """Whose token it is: an API key, by the names that HAPI has for a person."""

    id: str
    username: str
    first_name: str
    name: str
    email: str
    namespace: str


class AccessToken(Struct, frozen=True, kw_only=True, rename="camel"):
    """A token, which is good as a Bearer wherever its key is, and no longer than that."""

    token: str
    expires_at: int  # ms since 1970
    user: User


@route(
    "POST",
    "/api/auth",
    scope=Scope.PUBLIC,
    body=AccessTokenBody,
    answer=AccessToken,
    errors=(Unauthorized, RateLimited),
    plane=HAPI,
)
async def create_access_token(call: Call[AccessTokenBody, None]) -> AccessToken:
    """A token for an API key, good for four hours."""
    given = await call.hub.callers.issue_token(call.body.access_token, call.request.peer)
    caller = given.caller
    count(call.hub, caller, call.request)
    user = User(
        id=caller.key_id,
        username=caller.email,
        first_name=caller.name,
        name=caller.name,
        email=caller.email,
        namespace=caller.namespace,
    )
    return AccessToken(token=given.token, expires_at=given.until_ms, user=user)
