"""/live: the websocket that tells a page what happens; `api/live_socket.py` is what it says."""

from cmdop_appliance.api.exchange import Call, Response
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import UpgradeRequired


@route("GET", "/live", scope=Scope.ANY_KEY, answer=bytes, status=101, errors=(UpgradeRequired,))
async def open_live_socket(_: Call[None, None]) -> Response:
    """What happens and how loaded machines are, over a websocket: see docs/sessions.md.

    The subprotocol is `cmdop.live.v1`. It tells what `GET /events` tells the same key, and to one
    with `machines:read` the newest samples.
    """
    raise UpgradeRequired(
        "this is a websocket", hint="ask for it with `Upgrade: websocket`, on a new connection"
    )
