"""What the agent may ask, read from one line. Anything else is a ValueError."""

import binascii
import json
import re

# The largest whole number every JSON reader keeps exact (RFC 8259, section 6).
_MAX_INTEGER = 2**53 - 1
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Start:
    """Run `argv` as a command of this id."""

    __slots__ = ("argv", "command_id", "cwd", "env", "stdin", "timeout_ms", "user")

    def __init__(self, message: dict[str, object]) -> None:
        self.command_id = _id(message.get("id"))
        self.argv = _texts(message.get("argv"))  # argv[0] is looked up on the command's PATH
        if not self.argv:
            raise ValueError("argv is empty")
        self.env = _variables(message.get("env") or {})
        self.cwd = _text_or_none(message.get("cwd"))  # None: the user's home
        self.user = _text_or_none(message.get("user"))  # None: the agent's
        stdin = _text_or_none(message.get("stdin"))
        self.stdin = None if stdin is None else binascii.a2b_base64(stdin, strict_mode=True)
        self.timeout_ms = _positive_or_none(message.get("timeout_ms"))  # None: no deadline


class Cancel:
    """End a command that runs."""

    __slots__ = ("command_id",)

    def __init__(self, message: dict[str, object]) -> None:
        self.command_id = _id(message.get("id"))


class Forget:
    """The hub holds the end of these commands: drop their records and output files."""

    __slots__ = ("command_ids",)

    def __init__(self, message: dict[str, object]) -> None:
        self.command_ids = [_id(command_id) for command_id in _texts(message.get("ids"))]


def parse(line: bytes) -> Start | Cancel | Forget:
    """The request in a line. Raises ValueError for any other bytes."""
    try:
        message = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(message, dict):
        raise ValueError("not an object")  # noqa: TRY004 - bad input, not our bug
    match message.get("do"):
        case "start":
            return Start(message)
        case "cancel":
            return Cancel(message)
        case "forget":
            return Forget(message)
    raise ValueError("no such request")


def _id(value: object) -> str:
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    raise ValueError("not a command id")


def _texts(value: object) -> list[str]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ValueError("not a list of strings")


def _variables(value: object) -> dict[str, str]:
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return value
    raise ValueError("not an object of strings")


def _text_or_none(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ValueError("not a string")


def _positive_or_none(value: object) -> int | None:
    if value is None or (type(value) is int and 0 < value <= _MAX_INTEGER):
        return value
    raise ValueError("not a positive integer")
