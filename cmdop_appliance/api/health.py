"""/healthz, /readyz and /health: for whoever decides where requests go, and when to restart."""

from typing import Final, Literal

import msgspec
from msgspec import Struct

from cmdop_appliance.api.exchange import Call, Response
from cmdop_appliance.api.registry import HAPI, JSON, ROOT, route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import Unavailable

# A store that has not got on with its writes for so long is as good as none.
STORE_S: Final = 5.0


class Alive(Struct, frozen=True):
    """The process serves."""

    status: Literal["ok"] = "ok"


class Readiness(Struct, frozen=True):
    """Whether the hub can do what it is asked for; if not, why (then it is 503)."""

    status: Literal["ready", "not ready"]
    reasons: list[str]


@route("GET", "/healthz", scope=Scope.PUBLIC, answer=Alive, plane=ROOT)
async def check_health(_call: Call[None, None]) -> Alive:
    """The process serves; restart it when this fails."""
    return Alive()


@route("GET", "/health", scope=Scope.PUBLIC, answer=Alive, plane=HAPI)
async def check_hapi_health(_call: Call[None, None]) -> Alive:
    """The same, where HAPI's clients look for it."""
    return Alive()


@route("GET", "/readyz", scope=Scope.PUBLIC, answer=Readiness, errors=(Unavailable,), plane=ROOT)
async def check_readiness(call: Call[None, None]) -> Response:
    """The hub can do what it is asked for; send requests elsewhere while this is 503."""
    hub = call.hub
    reasons = []
    if hub.bus.is_stopped:
        reasons.append("the hub is stopping")
    if hub.store.is_broken:
        reasons.append("the hub's disk failed")
    elif hub.store.stuck_s > STORE_S:
        reasons.append(f"the store has not answered for {hub.store.stuck_s:.0f} s")
    reasons += hub.disk.troubles
    state = Readiness("not ready" if reasons else "ready", reasons)
    status = 503 if reasons else 200
    return Response(status, {"Content-Type": JSON}, msgspec.json.encode(state))
