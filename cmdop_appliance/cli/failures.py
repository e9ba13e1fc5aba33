"""How the command line fails: an exit code, and at most three lines on stderr."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cmdop_appliance.cli.text import visible

if TYPE_CHECKING:
    from cmdop_appliance.sdk import CmdopError, InvalidRequest

OTHER: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
NOT_ALLOWED: Final = 4
UNREACHABLE: Final = 5
OFFLINE: Final = 6
CRASHED: Final = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell says it
BROKEN_PIPE: Final = 141  # 128 + SIGPIPE

_CRASH: Final = "cmdop-crash-"  # begins the name of a file with a traceback
_CRASHES_KEPT: Final = 10
_UNTRUSTED: Final = (
    "cmdop login URL shows its key, and remembers it; or CMDOP_CA_FILE names who vouches for it"
)


class Failure(Exception):
    """A failure the person at the keyboard can do something about."""

    def __init__(
        self, message: str, *, exit_code: int, did_you_mean: str = "", hint: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.did_you_mean = did_you_mean
        self.hint = hint


def as_failure(error: "CmdopError") -> Failure:
    """What the person gets to see of a failed call to the hub."""
    from cmdop_appliance.sdk import (
        APIError,
        Conflict,
        ConnectionFailed,
        Forbidden,
        InvalidRequest,
        NotFound,
        RateLimited,
        Unauthorized,
        UnexpectedAnswer,
        Untrusted,
    )

    message, hint = str(error), ""
    match error:
        case NotFound(code="command_not_found"):
            code, hint = NOT_FOUND, "cmdop commands ls"
        case NotFound(code="terminal_not_found"):
            code, hint = NOT_FOUND, "cmdop sessions ls"
        case NotFound(code="webhook_not_found"):
            code, hint = NOT_FOUND, "cmdop webhooks ls"
        case NotFound():
            code = NOT_FOUND
        case RateLimited():
            code, hint = OTHER, f"try again in {error.retry_after:.0f} s"
        case Unauthorized():
            code, hint = NOT_ALLOWED, "give the hub's API key with --key or CMDOP_API_KEY"
        case Conflict(code="session_not_active"):
            status = error.details.get("current_status", "DISCONNECTED")
            machine = error.details.get("machine_id", "the machine")
            code, message = OFFLINE, f"{machine} is not connected ({status})"
            hint = "cmdop machines ls shows which ones are"
        case Forbidden(code="file_permission_denied" | "path_not_allowed"):
            code = OTHER  # it is the machine that refuses, not the hub
        case Forbidden():
            code, hint = NOT_ALLOWED, "cmdop auth status shows what this key allows"
        case Untrusted():
            code, hint = UNREACHABLE, _UNTRUSTED
        case ConnectionFailed() | UnexpectedAnswer():
            code, hint = UNREACHABLE, "is `cmdop serve` running, and is the address right?"
            hint += "".join(f" It is from {source}" for source in getattr(error, "__notes__", ()))
        case InvalidRequest():
            code, message = OTHER, _with_reasons(error)
        case _:
            code = OTHER
    if isinstance(error, APIError) and error.hint and not isinstance(error, Unauthorized):
        hint = error.hint  # but for 401, where it tells of a header, which is ours to send
    return Failure(message, exit_code=code, hint=hint)


def _with_reasons(error: "InvalidRequest") -> str:
    """The message, with what `details` say of fields beyond it."""
    reasons = [
        f"{name}: {why}"
        for name, why in error.details.items()
        if isinstance(why, str) and why not in error.message
    ]
    return f"{error.message}: {'; '.join(reasons)}" if reasons else error.message


def report(failure: Failure) -> None:
    """Say it on stderr."""
    print(f"error: {visible(failure.message)}", file=sys.stderr)
    if failure.did_you_mean:
        print(f"did you mean: {visible(failure.did_you_mean)}?", file=sys.stderr)
    if failure.hint:
        print(f"hint: {visible(failure.hint)}", file=sys.stderr)


def _forget_crashes(folder: Path) -> None:
    """Keep the last ones: a service that fails at every start is to fill no disk."""
    ours = [
        (status.st_mtime_ns, path)
        for path in folder.glob(f"{_CRASH}*.txt")
        if (status := path.lstat()).st_uid == os.geteuid()
    ]
    for _, path in sorted(ours)[:-_CRASHES_KEPT]:
        path.unlink(missing_ok=True)


def report_crash(error: BaseException) -> None:
    """Keep the traceback in a file that only its owner can read, and say where on stderr."""
    import tempfile  # 20 ms, which only a fault costs
    import traceback

    what = f"error: unexpected {type(error).__name__}, which is a fault of cmdop"
    try:
        handle, path = tempfile.mkstemp(prefix=_CRASH, suffix=".txt")  # mode 0600
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        print(what, file=sys.stderr)
    else:
        print(f"{what}; the details are in {path}", file=sys.stderr)
        with suppress(OSError):
            _forget_crashes(Path(path).parent)
