"""Rules for fields that several bodies and queries share."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct

from cmdop_appliance.clock import rfc3339
from cmdop_appliance.errors import InvalidRequest
from cmdop_appliance.model import COMMAND_STATUSES
from cmdop_appliance.protocol.limits import NAME_CHARS
from cmdop_appliance.protocol.messages import NO_CONTROLS
from cmdop_appliance.protocol.messages import Name as Name

_NO_NUL: Final = r"^[^\x00]*\Z"
_TAGS_MAX: Final = 50
_A_TAG: Final = r"[A-Za-z0-9][A-Za-z0-9._:=/-]{0,62}"
_TAG: Final = rf"^{_A_TAG}\Z"
_TAG_LIST: Final = rf"^{_A_TAG}(?:,{_A_TAG}){{0,{_TAGS_MAX - 1}}}\Z"
_A_STATUS: Final = f"(?:{'|'.join(COMMAND_STATUSES)})"
_STATUS_LIST: Final = rf"^{_A_STATUS}(?:,{_A_STATUS})*\Z"
_SHARE: Final = r"^(?:100|[1-9][0-9]?)%\Z"
_ENV_NAME: Final = r"^[^=\x00]+\Z"
_NAMESPACE: Final = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z"  # a DNS label, RFC 1123
_CLIENT: Final = r"^[A-Za-z0-9_-]{1,64}\Z"
_MODE: Final = r"^[0-7]{3,4}\Z"
_SHA256: Final = r"^[0-9a-fA-F]{64}\Z"
_LOG_HEAD: Final = r"^[1-9][0-9]{0,17}:[0-9a-f]{64}\Z"
_SPOKEN: Final = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*\Z"
_DESCRIPTION_CHARS: Final = 2000

# What a text must be, in words: a pattern is none.
PATTERN_REASONS: Final = {
    _NO_NUL: "must not contain NUL",
    NO_CONTROLS: "must not contain control characters",
    _TAG: "must be 1 to 63 letters, digits or . _ : = / -, a letter or digit first",
    _TAG_LIST: f"must be 1 to {_TAGS_MAX} tags with commas between them, each of 1 to 63 letters,"
    " digits or . _ : = / -, a letter or digit first",
    _STATUS_LIST: f"must be one of {', '.join(COMMAND_STATUSES)}, or several with commas between"
    " them",
    _SHARE: 'must be a number of machines, or a share from "1%" to "100%"',
    _NAMESPACE: "must be 1 to 63 lower-case letters, digits or -, neither first nor last a -",
    _CLIENT: "must be 1 to 64 letters, digits, _ or -",
    _MODE: 'must be a file mode in octal digits, such as "0644"',
    _SHA256: "must be a sha256: 64 hexadecimal digits",
    _LOG_HEAD: "must be SEQ:HASH, as `cmdop audit verify` prints it",
    _ENV_NAME: "must be the name of a variable, without = and NUL",
    _SPOKEN: "must not be blank, nor contain control characters",
}

# Text that becomes a name, a path or an argument on some machine: NUL ends it there (execve(2)).
Text = Annotated[str, Meta(min_length=1, pattern=_NO_NUL)]
AnyText = Annotated[str, Meta(pattern=_NO_NUL)]
EnvName = Annotated[str, Meta(pattern=_ENV_NAME)]
# Of a query: any bytes, percent-encoded; each character of the value stands for one of them.
RawText = Annotated[str, Meta(extra={"is_raw": True})]
Key = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_CONTROLS)]
Title = Annotated[str, Meta(min_length=1, max_length=200, pattern=_SPOKEN)]
Description = Annotated[AnyText, Meta(max_length=_DESCRIPTION_CHARS)]
Owner = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS, pattern=NO_CONTROLS)]
Mode = Annotated[str, Meta(pattern=_MODE)]  # of a file; int(mode, 8)
Sha256 = Annotated[str, Meta(pattern=_SHA256)]
Namespace = Annotated[str, Meta(pattern=_NAMESPACE)]
ClientId = Annotated[str, Meta(pattern=_CLIENT)]
LogHead = Annotated[str, Meta(pattern=_LOG_HEAD)]
Tag = Annotated[str, Meta(pattern=_TAG)]
Tags = Annotated[list[Tag], Meta(max_length=_TAGS_MAX)]
TagList = Annotated[str, Meta(pattern=_TAG_LIST)]  # of a query
CommandStatuses = Annotated[str, Meta(pattern=_STATUS_LIST)]

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
AtLeastOne = Annotated[int, Meta(ge=1, le=2**31 - 1)]
# Beyond any list or stream we hold, and within the store's 64-bit integers.
Offset = Annotated[int, Meta(ge=0, le=2**53)]
Share = Annotated[str, Meta(pattern=_SHARE)]

# The longest duration taken anywhere: what JSON numbers hold exactly (RFC 8259 §6).
DURATION_MAX_MS: Final = 2**53 - 1
Duration = Annotated[int, Meta(ge=1, le=DURATION_MAX_MS)]


# RFC 3339, in an answer in UTC; what is read, its reader checks.
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


def changes_of(body: Struct) -> dict[str, Any]:
    """The fields of a body that were not left out."""
    values = msgspec.structs.asdict(body)
    return {name: value for name, value in values.items() if value is not UNSET}


def when(ms: int | None) -> str | None:
    """A time for an answer: RFC 3339 in UTC, or null."""
    return None if ms is None else rfc3339(ms)


def bad_parameter(name: str, reason: str, *, hint: str = "") -> InvalidRequest:
    """The refusal of a query parameter, which `details` names."""
    return InvalidRequest(f"query parameter {name}: {reason}", hint=hint, **{name: reason})


def since_ms(text: str | None) -> int | None:
    """The `since` parameter of a list; see `moment_ms`."""
    return moment_ms("since", text)


def moment_ms(name: str, text: str | None) -> int | None:
    """The parameter `name`, a time, as ms since 1970 UTC.

    Raises:
        InvalidRequest: it is not RFC 3339 with an offset.
    """
    if text is None:
        return None
    try:
        # A bare + arrives as a space; RFC 3339 takes t and z as well.
        moment = datetime.fromisoformat(text.replace(" ", "+").upper())
        if moment.tzinfo is None:
            raise ValueError  # noqa: TRY301 - one message for all that is wrong with it
        return int(moment.astimezone(UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise bad_parameter(
            name, "must be a time such as 2026-02-14T10:30:00Z, with its offset"
        ) from None
