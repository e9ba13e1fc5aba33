"""What a program on a machine has set in the terminal that shows it, and how that is undone."""

import re
from typing import Final

_SEQUENCE: Final = re.compile(
    rb"\x1b(?:\[(?P<mark>[?<>=]?)(?P<numbers>[0-9;:]*)(?P<kind>[hlmru]| q)"
    rb"|\](?P<string>4(?=;[0-9]+;[^?])|1[0-2](?=;[^?])|8(?=;[!-:<-~]*;[!-~]))|(?P<reset>c))"
)
_DIGITS: Final = 5  # of a number that means something
_ALTERNATE: Final = (47, 1047, 1049)
# Off unless a program sets them: cursor keys, inverse, origin, keypad, backspace, margins; mouse
# and focus; the eighth bit of keys; paste, frames, themes.
_OFF: Final = frozenset(
    (1, 5, 6, 9, 66, 67, 69, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1034, 2004, 2026, 2031)
)
# On: wrapping, keys that repeat, the cursor; ESC before keys with Meta and Alt.
_ON: Final = frozenset((7, 8, 25, 1036, 1039))
# Colours, insertion, line feeds, character sets, keypad: what does no harm where it is so already.
_ALWAYS: Final = b"\x1b[0m\x1b[4;20l\x1b(B\x0f\x1b>"
# Colours that were changed, and a link that may go on.
_STRINGS: Final = {b"4": b"104", b"10": b"110", b"11": b"111", b"12": b"112", b"8": b"8;;"}
_MOST_KEYS: Final = 10  # kinds of keys that terminals know


class ScreenModes:
    """Sees all that goes to the terminal, whole sequences at a time."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._changed: set[int] = set()  # modes that are not as they were
        self._alternate: int | None = None  # the mode by which the other screen was chosen
        self._keys = {False: 0, True: 0}  # ways of telling keys, pushed on each screen's stack
        self._replaced = {False: False, True: False}  # the way below them, on each screen
        self._extras: dict[str, bytes] = {}  # what else is to be undone, and how

    @property
    def is_alternate(self) -> bool:
        """True: the program shows a screen of its own, behind which the person's own is."""
        return self._alternate is not None

    def see(self, data: bytes) -> None:
        """The terminal is sent this."""
        if b"\x1b" not in data:
            return
        for found in _SEQUENCE.finditer(data):
            if found["reset"]:
                self._forget()
            elif string := found["string"]:
                undone = _STRINGS[string]
                self._extras[f"string {undone!r}"] = b"\x1b]%b\x1b\\" % undone
            else:
                self._see_control(found["mark"], found["numbers"], found["kind"])

    def _see_control(self, mark: bytes, numbers: bytes, kind: bytes) -> None:
        screen = self.is_alternate
        match mark, kind:
            case b"?", b"h" | b"l":
                for number in numbers.split(b";"):
                    self._set(_number(number), on=kind == b"h")
            case b">", b"u":
                self._keys[screen] += 1
            case b"<", b"u":
                count = _number(numbers) or 1
                self._keys[screen] = max(0, self._keys[screen] - count)
            case b"=", b"u":
                self._replaced[screen] |= not self._keys[screen]
            case b">", b"m":
                which = _number(numbers.split(b";")[0])
                if which < _MOST_KEYS:
                    self._extras[f"keys {which}"] = b"\x1b[>%dm" % which
            case b"", b"r":
                self._extras["margins"] = b"\x1b7\x1b[r\x1b8"
            case b"", b" q":
                self._extras["cursor"] = b"\x1b[0 q"

    def _set(self, number: int, *, on: bool) -> None:
        if number in _ALTERNATE:
            self._alternate = number if on else None
        elif number in (_OFF if on else _ON):
            self._changed.add(number)
        else:
            self._changed.discard(number)

    def undo(self) -> bytes:
        """What makes the terminal as it was."""
        parts = [_ALWAYS, *self._extras.values()]
        parts += [
            b"\x1b[?%d%c" % (number, b"h" if number in _ON else b"l")
            for number in sorted(self._changed)
        ]
        keys = self._undo_keys(on_alternate=True)
        if self._alternate is not None:
            parts += [keys, b"\x1b[?%dl" % self._alternate]
        elif keys:
            parts += [b"\x1b[?1049h", keys, b"\x1b[?1049l"]
        parts.append(self._undo_keys(on_alternate=False))
        self._forget()
        return b"".join(parts)

    def _undo_keys(self, *, on_alternate: bool) -> bytes:
        """What makes the way of telling keys on a screen, which is shown then, as it was."""
        count = self._keys[on_alternate]
        pop = b"\x1b[<%du" % count if count else b""
        return pop + (b"\x1b[=0u" if self._replaced[on_alternate] else b"")


def _number(digits: bytes) -> int:
    """What these digits say; 0 for anything else."""
    return int(digits) if digits.isdigit() and len(digits) <= _DIGITS else 0
