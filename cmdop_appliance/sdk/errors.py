"""What a call of the SDK raises. Everything is a `CmdopError`."""

from collections.abc import Mapping
from typing import Any


class CmdopError(Exception):
    """A call that did not succeed. `str()` of it is one line for people."""


class ConnectionFailed(CmdopError):
    """The hub could not be reached, or the connection broke: a change may have happened or not."""


class Away(ConnectionFailed):
    """The hub was there, and is not for the moment: it restarts, or the connection broke."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent  # False: the hub certainly has not heard of the request


class Untrusted(ConnectionFailed):
    """Nobody that is trusted here vouches for the certificate of whoever answers."""


class Silent(ConnectionFailed):
    """The connection is open, and nothing came in the time that was given."""


class UnexpectedAnswer(CmdopError):
    """Something answered that is not a cmdop hub, or a hub that speaks another language."""


class CodingRefused(CmdopError):
    """The machine does not start a coding session, and says why."""


class APIError(CmdopError):
    """The hub refused. `code` is stable and for programs, `message` and `hint` are for people."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        request_id: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = dict(details or {})
        self.request_id = request_id  # finds the request in the hub's log; "" when unknown
        self.hint = hint  # what can be done about it, or ""


class InvalidRequest(APIError):
    """400 or 422: the request cannot be read, or a field breaks its rule (see `details`)."""


class Unauthorized(APIError):
    """401: no API key, or one that is unknown, expired or revoked."""


class Forbidden(APIError):
    """403: the API key lacks the scope."""


class NotFound(APIError):
    """404: no such object, or the key may not see it."""


class Conflict(APIError):
    """409: the object is not in a state that allows this."""


class RateLimited(APIError):
    """429: too many requests."""

    @property
    def retry_after(self) -> float:
        """Seconds to wait before the next request."""
        seconds = self.details.get("retry_after", 1)
        return float(seconds) if isinstance(seconds, int | float) else 1.0


class ServerError(APIError):
    """5xx: the hub failed. On a create nothing was recorded, so it is safe to try again."""


_BY_STATUS: dict[int, type[APIError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: InvalidRequest,
    429: RateLimited,
}


def error_class(status: int) -> type[APIError]:
    """The class that an answer with this HTTP status is raised as."""
    return _BY_STATUS.get(status, ServerError if status >= 500 else APIError)
