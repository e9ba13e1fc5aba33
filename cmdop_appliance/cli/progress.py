"""How far something is, on a terminal."""

import os
import sys
import time
import unicodedata
from types import TracebackType
from typing import Final, Self

from cmdop_appliance.cli.output import size_text
from cmdop_appliance.cli.text import visible

_QUIET_S: Final = 1.0  # what takes less needs no line
_PAUSE_S: Final = 0.1  # between two lines: faster than anybody reads
_USUAL_COLUMNS: Final = 80  # of a terminal that does not tell
_CLEAR: Final = "\r\x1b[K"  # to the beginning of the line, and erase to its end (ECMA-48: EL)


class StatusLine:
    """A line on stderr that tells how far something is. It is gone at the end."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._is_on = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._begun_s = self._told_s = time.monotonic()
        self._is_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Take it away, so that other lines can be written; `show` brings it back."""
        if self._is_shown:
            self._is_shown = False
            print(_CLEAR, end="", file=sys.stderr, flush=True)

    def seconds_due(self) -> float | None:
        """How long it has been going on, if it is time to say more; else None."""
        now_s = time.monotonic()
        if not self._is_on or now_s - self._begun_s < _QUIET_S or now_s - self._told_s < _PAUSE_S:
            return None
        self._told_s = now_s
        return now_s - self._begun_s

    def show(self, name: str, rest: str) -> None:
        """Show `name`, as much of it as fits before `rest`."""
        self._is_shown = True
        room = (os.get_terminal_size(sys.stderr.fileno()).columns or _USUAL_COLUMNS) - 1
        name = _first_columns(name, room - len(rest))
        print(f"{_CLEAR}{name}{rest[:room]}", end="", file=sys.stderr, flush=True)


class Progress(StatusLine):
    """Tells how many bytes of a file there are."""

    def __init__(self, name: str, *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self._name = visible(name)
        self._first: int | None = None  # what was there before

    def __call__(self, done: int, total: int | None) -> None:
        """There are `done` bytes of `total`."""
        if self._first is None:
            self._first = done
        seconds = self.seconds_due()
        if seconds is not None:
            self.show(self._name, self._line(done, total, (done - self._first) / seconds))

    def _line(self, done: int, total: int | None, per_second: float) -> str:
        line = f"  {size_text(done)}  {size_text(int(per_second))}/s"
        if total:
            line = f"  {done * 100 // total} %{line}"
            if per_second:
                minutes, seconds = divmod(int((total - done) / per_second), 60)
                line += f"  {minutes}:{seconds:02} left"
        return line


def _first_columns(text: str, columns: int) -> str:
    """As much of `text` as fits: a line that wraps could not be erased."""
    for number, char in enumerate(text):
        columns -= 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if columns < 0:
            return text[:number]
    return text
