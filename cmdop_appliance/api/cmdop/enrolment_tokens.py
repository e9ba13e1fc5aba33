"""/enrollment-tokens: let machines join."""

from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from cmdop_appliance.api.cmdop.machines import Deleted
from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import Tags, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import NotFound, ValidationFailed
from cmdop_appliance.model import Enrolment
from cmdop_appliance.store import enrolments as rows

_HOUR_MS: Final = 3_600_000
_TTL_MAX_MS: Final = 365 * 24 * _HOUR_MS  # an unused way in must not stay open for ever
_USES_MAX: Final = 100_000


class TokenBody(Struct, kw_only=True):
    """A new token. `ttl` in ms; machines that join with it get `tags`."""

    ttl: Annotated[int, Meta(ge=1000, le=_TTL_MAX_MS)] = _HOUR_MS
    max_uses: Annotated[int, Meta(ge=1, le=_USES_MAX)] = 1
    tags: Tags = []


class TokenView(Struct, frozen=True, kw_only=True):
    """A token as it may be shown."""

    id: str
    tags: list[str]
    max_uses: int
    uses: int
    expires_at: str | None
    created_at: str | None


class NewToken(TokenView, frozen=True, kw_only=True):
    """A token, with the secret that is shown only now."""

    token: str


@route(
    "POST",
    "/enrollment-tokens",
    scope=Scope.MACHINES_WRITE,
    body=TokenBody,
    answer=NewToken,
    errors=(ValidationFailed,),
    status=201,
)
async def create_enrolment_token(call: Call[TokenBody, None]) -> NewToken:
    """Make a token that carries the hub's key, so that its holder joins this hub and no other."""
    enrolment, token = await call.hub.enrolments.issue(
        call.caller.workspace_id, call.body.ttl, call.body.max_uses, call.body.tags, call.once
    )
    return NewToken(**_fields(enrolment), token=token)


@route("GET", "/enrollment-tokens", scope=Scope.MACHINES_WRITE, query=Paged, answer=list[TokenView])
async def list_enrolment_tokens(call: Call[None, Paged]) -> Listed:
    """The tokens of the workspace, without their secrets."""
    page = await call.hub.store.run(
        rows.page, call.caller.workspace_id, read_paging(call.query, rows.ORDER)
    )
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
    await call.hub.store.run(rows.delete, call.caller.workspace_id, call.path["id"])
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
