"""/enrollment-tokens: let machines join."""

from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta, Struct

from cmdop_appliance.api.cmdop.api_keys import handed_on
from cmdop_appliance.api.cmdop.machines import Deleted
from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import Tags, Time, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import Conflict, Forbidden, NotFound, ValidationFailed
from cmdop_appliance.model import Enrolment
from cmdop_appliance.store import enrolments as rows

_HOUR_MS: Final = 3_600_000
_TTL_MAX_MS: Final = 365 * 24 * _HOUR_MS  # an unused way in must not stay open for ever
_USES_MAX: Final = 100_000


class TokenBody(Struct, kw_only=True):
    """A new token. `ttl` in ms; machines that join with it get `tags`, else those of the key."""

    ttl: Annotated[int, Meta(ge=1000, le=_TTL_MAX_MS)] = _HOUR_MS
    max_uses: Annotated[int, Meta(ge=1, le=_USES_MAX)] = 1
    tags: Tags | None = None


class TokenList(Paged, frozen=True):
    """A page of the list of tokens."""

    ORDER: ClassVar = rows.ORDER


class TokenView(Struct, frozen=True, kw_only=True):
    """A token as it may be shown."""

    id: str
    tags: list[str]
    max_uses: int
    uses: int
    expires_at: Time | None
    created_at: Time | None


class NewToken(TokenView, frozen=True, kw_only=True):
    """A token, with the secret that is shown only now."""

    token: str


@route(
    "POST",
    "/enrollment-tokens",
    scope=Scope.MACHINES_WRITE,
    body=TokenBody,
    answer=NewToken,
    errors=(Forbidden, Conflict, ValidationFailed),
    status=201,
)
async def create_enrolment_token(call: Call[TokenBody, None]) -> NewToken:
    """Make a token that carries the hub's key, so that its holder joins this hub and no other."""
    tags = handed_on(call.caller, call.body.tags)
    enrolment, token = await call.hub.enrolments.issue(
        call.caller.workspace_id, call.body.ttl, call.body.max_uses, tags, call.once, call.caller
    )
    return NewToken(**_fields(enrolment), token=token)


@route(
    "GET", "/enrollment-tokens", scope=Scope.MACHINES_WRITE, query=TokenList, answer=list[TokenView]
)
async def list_enrolment_tokens(call: Call[None, TokenList]) -> Listed:
    """The tokens of the workspace, without their secrets; by a restricted key, those within it."""
    page = await call.hub.store.run(rows.page, call.caller.reach, read_paging(call.query))
    return Listed([TokenView(**_fields(item)) for item in page.items], page)


@route(
    "DELETE",
    "/enrollment-tokens/:id",
    scope=Scope.MACHINES_WRITE,
    answer=Deleted,
    errors=(NotFound,),
)
async def delete_enrolment_token(call: Call[None, None]) -> Deleted:
    """Revoke a token; machines that joined with it stay."""
    entry = call.entry("enrolment_token.revoked", call.path["id"])
    await call.hub.store.run(entry.recording(rows.delete), call.caller.reach, call.path["id"])
    return Deleted()


def _fields(enrolment: Enrolment) -> dict[str, Any]:
    return {
        "id": enrolment.id,
        "tags": enrolment.tags,
        "max_uses": enrolment.max_uses,
        "uses": enrolment.uses,
        "expires_at": when(enrolment.expires_ms),
        "created_at": when(enrolment.created_ms),
    }
