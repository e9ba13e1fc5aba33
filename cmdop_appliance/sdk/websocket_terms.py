"""What the websockets of both clients have in common."""

import json
from typing import Final

from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol

from cmdop_appliance.sdk.errors import Away, CmdopError, UnexpectedAnswer, error_class

PROTOCOL: Final = Subprotocol("cmdop.terminal.v1")
MESSAGE_BYTES: Final = 1024 * 1024  # the most that comes in one message
OPEN_S: Final = 10.0
CLOSE_S: Final = 1.0
# A hub that does not answer within both is away: 25 s, as for agents.
PING_S: Final = 10.0
PONG_S: Final = 15.0


class Closed(Exception):
    """The connection has ended; `code` is None if nobody said why."""

    def __init__(self, code: int | None, reason: str | None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason or ""


def not_opened(error: InvalidHandshake) -> CmdopError:
    """Why the hub, or a proxy before it, did not open a websocket."""
    if isinstance(error, InvalidStatus):
        return _refusal(error.response.status_code, bytes(error.response.body or b""))
    if isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError):
        return Away("the hub broke off its answer")
    return UnexpectedAnswer(f"what answers is no hub with terminals: {error}")


def _refusal(status: int, body: bytes) -> CmdopError:
    try:
        error = json.loads(body)["error"]
        return error_class(status)(
            status,
            str(error["code"]),
            str(error["message"]),
            error.get("details"),
            hint=str(error.get("hint") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        if status in (502, 503, 504):
            return Away(f"the hub does not answer (HTTP {status})")
        return UnexpectedAnswer(f"what answers is no hub with terminals: HTTP {status}")
