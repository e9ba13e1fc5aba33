"""What the agent may ask, read from one line. Anything else is a ValueError."""

import binascii
import json
import re
from collections.abc import Callable

# The largest whole number every JSON reader keeps exact (RFC 8259, section 6).
_MAX_INTEGER = 2**53 - 1
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_CELLS = 2**16 - 1  # a side of a screen: 16 bits (ioctl_tty(2))


class Start:
    """Run `argv` as a command of this id."""

    __slots__ = (
        "argv",
        "command_id",
        "cwd",
        "env",
        "idle_ms",
        "is_terminal",
        "pty",
        "stdin",
        "timeout_ms",
        "user",
    )

    def __init__(self, message: dict[str, object]) -> None:
        self.command_id = _id(message.get("id"))
        self.pty = _size_or_none(message.get("pty"))  # None: it runs in no terminal
        # People type; it is what the request is about, else it is a command that needs one.
        self.is_terminal = self.pty is not None and message.get("terminal") is True
        self.idle_ms = _positive_or_none(message.get("idle_ms"))  # None: nobody needs to type
        self.argv = _texts(message.get("argv"))  # argv[0] is looked up on the command's PATH
        if not self.argv and not self.is_terminal:  # in a terminal: the login shell
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


class Input:
    """Type this, which stands at `offset` of what `writer` types."""

    __slots__ = ("data", "offset", "terminal_id", "writer")

    def __init__(self, message: dict[str, object]) -> None:
        self.terminal_id = _id(message.get("id"))
        self.writer = _id(message.get("writer"))
        self.offset = _count(message.get("offset"))
        self.data = binascii.a2b_base64(_text(message.get("data")), strict_mode=True)


class Resize:
    """Give a terminal this size."""

    __slots__ = ("cols", "rows", "terminal_id")

    def __init__(self, message: dict[str, object]) -> None:
        self.terminal_id = _id(message.get("id"))
        self.cols, self.rows = _size(message)


class Watch:
    """Tell once of output behind `offset`."""

    __slots__ = ("offset", "terminal_id")

    def __init__(self, message: dict[str, object]) -> None:
        self.terminal_id = _id(message.get("id"))
        self.offset = _count(message.get("offset"))


class Touch:
    """Somebody is there, though he does not type."""

    __slots__ = ("terminal_id",)

    def __init__(self, message: dict[str, object]) -> None:
        self.terminal_id = _id(message.get("id"))


class Terminals:
    """The agent knows what terminals are: tell of them, too."""

    __slots__ = ()

    def __init__(self, _message: dict[str, object]) -> None:
        pass


TerminalRequest = Input | Resize | Watch | Touch
Request = Start | Cancel | Forget | Terminals | TerminalRequest

_KINDS: dict[object, Callable[[dict[str, object]], Request]] = {
    "start": Start,
    "cancel": Cancel,
    "forget": Forget,
    "input": Input,
    "resize": Resize,
    "watch": Watch,
    "touch": Touch,
    "terminals": Terminals,
}


def parse(line: bytes) -> Request:
    """The request in a line. Raises ValueError for any other bytes."""
    try:
        message = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(message, dict):
        raise ValueError("not an object")  # noqa: TRY004 - bad input, not our bug
    do = message.get("do")
    if not isinstance(do, str) or do not in _KINDS:
        raise ValueError("no such request")
    return _KINDS[do](message)


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


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("not a string")


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _count(value: object) -> int:
    if type(value) is int and 0 <= value <= _MAX_INTEGER:
        return value
    raise ValueError("not a count")


def _positive_or_none(value: object) -> int | None:
    if value is None:
        return None
    if (count := _count(value)) == 0:
        raise ValueError("not a positive integer")
    return count


def _size(message: dict[str, object]) -> tuple[int, int]:
    cols, rows = _count(message.get("cols")), _count(message.get("rows"))
    if 0 < cols <= _MAX_CELLS and 0 < rows <= _MAX_CELLS:
        return cols, rows
    raise ValueError("not the size of a screen")


def _size_or_none(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("not the size of a screen")  # noqa: TRY004 - bad input, not our bug
    return _size(value)
