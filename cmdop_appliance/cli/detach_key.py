"""The key that leaves a terminal: how it is written, and what it types."""

import re
from dataclasses import dataclass
from typing import Final

import click

# What a press may bring beside itself where keys are told in full (kitty): that a key was let go,
# and that Ctrl or Alt was pressed.
_NOISE: Final = re.compile(rb"\x1b\[(?:\d+[\d:]*;\d+:3[\d:;]*|574[45]\d[\d:;]*)u")
_SPELLING: Final = re.compile(r"(?:(\^|ctrl[-+])|alt[-+])([!-~])", re.IGNORECASE)
_CONTROLS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ\\]^_")  # not [: all special keys begin so
_LOCKS: Final = (0, 64, 128, 192)  # Caps Lock and Num Lock, among modifiers
_ALT, _CTRL = 2, 4


@dataclass(frozen=True, slots=True)
class DetachKey:
    """A key, or several that do the same."""

    name: str  # for people
    pattern: re.Pattern[bytes]  # what a press of it types

    def first(self, data: bytes) -> re.Match[bytes] | None:
        """Its first press in what was read at once."""
        return self.pattern.search(data)

    def begins(self, data: bytes) -> re.Match[bytes] | None:
        """A press of it that `data` begins with."""
        return self.pattern.match(data)


def without_noise(data: bytes) -> bytes:
    """`data` without what a press brings beside itself."""
    return _NOISE.sub(b"", data)


def detach_key(text: str) -> DetachKey:
    """The key that `^]`, `ctrl-]` or `alt-q` names.

    Raises:
        ValueError: `text` is none of these.
    """
    found = _SPELLING.fullmatch(text)
    if found is None:
        raise ValueError("needs a key such as ^], ctrl-x or alt-q")
    char = found[2].upper()
    if found[1]:
        if char not in _CONTROLS:
            raise ValueError("with Ctrl needs a letter or one of \\ ] ^ _")
        name, modifier = f"Ctrl-{char}", _CTRL
        typed = re.escape(bytes([ord(char) & 0x1F]))
    else:
        name, modifier = f"Alt-{char}", _ALT
        # Escape and a letter that are typed one after the other are read one after the other.
        typed = rb"\A\x1b" + re.escape(found[2].encode()) + rb"(?=\x1b|\Z)"
    code = ord(char.lower())
    held = "|".join(str(1 + modifier + lock) for lock in _LOCKS)
    told = rf"\x1b\[(?:27;(?:{held});{code}~|{code}[\d:]*;(?:{held})(?::[12])?(?:;[\d:]*)?u)"
    return DetachKey(name, re.compile(typed + b"|" + told.encode()))


def either(one: DetachKey, other: DetachKey) -> DetachKey:
    """Both of them."""
    pattern = re.compile(one.pattern.pattern + b"|" + other.pattern.pattern)
    return DetachKey(f"{one.name} or {other.name}", pattern)


DEFAULT: Final = either(detach_key("^]"), detach_key("alt-q"))


class DetachKeyType(click.ParamType[DetachKey]):
    """An option's value that becomes a `DetachKey`."""

    name = "key"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> DetachKey:
        """See `detach_key`."""
        if isinstance(value, DetachKey):
            return value
        try:
            return detach_key(str(value))
        except ValueError as exc:
            self.fail(f"{value!r} {exc}", param, ctx)
