"""Every expected failure of the product, as one tree.

A `code` is part of the public API: never renamed, never reused. The HTTP status stands only here,
so no handler picks numbers. Anything raised that is not in this tree is a bug and becomes a 500.
"""

from typing import ClassVar


class ApplianceError(Exception):
    """An expected failure. `message` is public: no paths of the hub, no secrets, no SQL."""

    code: ClassVar[str]
    status: ClassVar[int]

    def __init__(self, message: str, *, hint: str = "", **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint  # what the reader can do about it, or ""
        self.details = details  # machine-readable, shown to the caller as `details`


class InvalidRequest(ApplianceError):
    """The request cannot be read: malformed JSON, wrong content type, a bad query parameter."""

    code, status = "invalid_request", 400


class Unauthorized(ApplianceError):
    """No API key, or one that is unknown, expired or revoked: we do not say which."""

    code, status = "unauthorized", 401


class Forbidden(ApplianceError):
    """The API key is good but lacks the scope."""

    code, status = "forbidden", 403


class NotFound(ApplianceError):
    """There is no such route or object, or the caller's workspace does not hold it."""

    code, status = "not_found", 404


class MachineNotFound(NotFound):
    """No machine of the caller's workspace has this id."""

    code = "machine_not_found"


class SessionNotFound(NotFound):
    """No session of the caller's workspace has this id, or the machine has none that is live."""

    code = "session_not_found"


class ClientNotFound(NotFound):
    """No client with this id is attached to the session, or it is another caller's."""

    code = "client_not_found"


class CommandNotFound(NotFound):
    """No command of the caller's workspace has this id."""

    code = "command_not_found"


class BatchNotFound(NotFound):
    """No batch of the caller's workspace has this id."""

    code = "batch_not_found"


class MethodNotAllowed(ApplianceError):
    """The path exists, but not with this method. `allowed` becomes the Allow header."""

    code, status = "method_not_allowed", 405

    def __init__(self, message: str, allowed: list[str]) -> None:
        super().__init__(message)
        self.allowed = allowed


class Conflict(ApplianceError):
    """The object is not in a state that allows this."""

    code, status = "conflict", 409


class SessionNotActive(Conflict):
    """The machine has no connected session, so nothing can be started on it now."""

    code = "session_not_active"


class CommandNotRunning(Conflict):
    """The command has ended already."""

    code = "command_not_running"


class IdempotencyConflict(Conflict):
    """The Idempotency-Key was used before, for another request."""

    code = "idempotency_conflict"


class PayloadTooLarge(ApplianceError):
    """The request body is larger than the hub reads."""

    code, status = "payload_too_large", 413


class RangeNotSatisfiable(ApplianceError):
    """The Range header names bytes that do not exist. `total` becomes Content-Range."""

    code, status = "range_not_satisfiable", 416

    def __init__(self, message: str, total: int) -> None:
        super().__init__(message)
        self.total = total


class ValidationFailed(ApplianceError):
    """Well-formed JSON that breaks field rules. `details` is {field: reason}."""

    code, status = "validation_failed", 422


class RateLimited(ApplianceError):
    """Too many requests, or too many wrong keys. `retry_after` (s) becomes Retry-After."""

    code, status = "rate_limited", 429

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message, retry_after=retry_after)
        self.retry_after = retry_after


class InternalError(ApplianceError):
    """A bug of ours: the cause is in the hub's log under the request id, never in the answer."""

    code, status = "internal_error", 500


class Unavailable(ApplianceError):
    """The hub is stopping, or the store does not answer. The same request may succeed later."""

    code, status = "unavailable", 503


class StorageFull(ApplianceError):
    """The hub's disk is full: reads and cancels go on, nothing new is recorded."""

    code, status = "storage_full", 507


class StartupError(ApplianceError):
    """The program cannot start as it was told to: one line for the operator, exit code 2."""

    code, status = "cannot_start", 500


class ProtocolError(ApplianceError):
    """The agent link was used wrongly. Local: by us (a bug). Remote: by the peer (close it)."""

    code, status = "protocol_error", 500


class LocalProtocolError(ProtocolError):
    """We were about to send what the protocol forbids."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids; its connection is closed with this reason."""
