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


class CrossOrigin(Forbidden):
    """The request comes from a page that the hub has not served."""

    code = "cross_origin"


class WrongHost(Forbidden):
    """A browser asks for the hub by a name that `[server] public_url` does not have."""

    code = "wrong_host"


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


class ScheduleNotFound(NotFound):
    """No schedule of the caller's workspace has this id."""

    code = "schedule_not_found"


class WebhookNotFound(NotFound):
    """No webhook of the caller's workspace has this id."""

    code = "webhook_not_found"


class DeliveryNotFound(NotFound):
    """The webhook has no delivery with this id, or none that is kept."""

    code = "delivery_not_found"


class TerminalNotFound(NotFound):
    """No terminal of the caller's workspace has this id, or none of its machine this name."""

    code = "terminal_not_found"


class RecordingNotFound(NotFound):
    """Nothing was recorded of the terminal, or it is kept no more."""

    code = "recording_not_found"


class FileNotFound(NotFound):
    """The machine has nothing at this path."""

    code = "file_not_found"


class InvalidPath(ApplianceError):
    """No path of any machine: it has a NUL, or is longer than systems take, or links in a ring."""

    code, status = "invalid_path", 400


class NotADirectory(ApplianceError):
    """A directory was asked for, or stands in the middle of the path, and it is something else."""

    code, status = "not_a_directory", 400


class IsADirectory(ApplianceError):
    """A file was asked for, and it is a directory."""

    code, status = "is_a_directory", 400


class NotARegularFile(ApplianceError):
    """A device, a pipe or a socket: those are refused."""

    code, status = "not_a_regular_file", 400


class ChecksumMismatch(ApplianceError):
    """What arrived has another sha256 than what was sent; nothing was put in place."""

    code, status = "checksum_mismatch", 400


class FilePermissionDenied(ApplianceError):
    """The machine's system does not let the agent's user do this."""

    code, status = "file_permission_denied", 403


class PathNotAllowed(ApplianceError):
    """The machine's own agent.toml does not let any hub do this there."""

    code, status = "path_not_allowed", 403


class PathsNotAllowed(PathNotAllowed):
    """The same of HAPI's question which paths exist, where it is one failure of the machine."""

    status = 500


class FileChanged(ApplianceError):
    """The file is not, or no longer, the one that `if_match` names."""

    code, status = "changed", 412


class FileTooLarge(ApplianceError):
    """More than fits a JSON answer; a download has no such bound."""

    code, status = "file_too_large", 413


class NoSpace(ApplianceError):
    """The machine's disk, or somebody's quota on it, is full. The old content stands."""

    code, status = "no_space", 507


class FileIoError(ApplianceError):
    """The machine's disk failed. The old content stands."""

    code, status = "file_io_error", 500


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


class FileExists(Conflict):
    """Something stands at this path, and was not to be replaced."""

    code = "file_exists"


class DirectoryNotEmpty(Conflict):
    """The directory has something in it, and was to go only without."""

    code = "directory_not_empty"


class ChangedDuringRead(Conflict):
    """Somebody wrote to the file while it was read: there is no one content to answer with."""

    code = "changed_during_read"


class OffsetMismatch(Conflict):
    """The upload does not stand there: `details.offset` is where it goes on."""

    code = "offset_mismatch"


class FilesNotSupported(Conflict):
    """The machine's agent is of a release that carries no files."""

    code = "files_not_supported"


class TerminalsNotSupported(Conflict):
    """The machine's agent is of a release that carries no terminals."""

    code = "terminals_not_supported"


class TerminalEnded(Conflict):
    """The terminal has ended already."""

    code = "terminal_ended"


class TerminalNotStarted(Conflict):
    """The machine did not open the terminal; `details.reason` is its word for why."""

    code = "terminal_not_started"


class TooManyTerminals(Conflict):
    """As many are open as there can be."""

    code = "too_many_terminals"


class UpgradeRequired(ApplianceError):
    """This is for websockets."""

    code, status = "upgrade_required", 426


class BackupDamaged(ApplianceError):
    """The file is no backup of a hub, or not a whole one."""

    code, status = "backup_damaged", 400


class BackupRunning(Conflict):
    """The hub makes one backup at a time."""

    code = "backup_running"


class OutputForgotten(ApplianceError):
    """What a command wrote is kept no longer: `[retention] output_ms`, `[disk] machine_bytes`."""

    code, status = "output_forgotten", 410


class BundleRefused(ApplianceError):
    """The file is no bundle, or none of a release that may be run here."""

    code, status = "bundle_refused", 400


class NotInstalled(Conflict):
    """The hub does not run from a folder that it could replace: `cmdop install hub` makes one."""

    code = "not_installed"


class UpgradeNotFound(NotFound):
    """No upgrade has this id."""

    code = "upgrade_not_found"


class UpgradeRunning(Conflict):
    """Another upgrade has not ended yet."""

    code = "upgrade_running"


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


class UnusableProgram(ApplianceError):
    """A program that is to be installed does not run here, or there is no place for it."""

    code, status = "unusable_program", 500


class ProtocolError(ApplianceError):
    """The agent link was used wrongly. Local: by us (a bug). Remote: by the peer (close it)."""

    code, status = "protocol_error", 500


class LocalProtocolError(ProtocolError):
    """We were about to send what the protocol forbids."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids; its connection is closed with this reason."""
