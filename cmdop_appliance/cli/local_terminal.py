"""The terminal of whoever called us, handed to a program on a machine and taken back."""

import os
import select
import signal
import sys
import termios
import tty
from contextlib import suppress
from types import FrameType
from typing import Final, NoReturn, Self

from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.follow import OURS
from cmdop_appliance.cli.screen_modes import ScreenModes
from cmdop_appliance.cli.text import visible

_SIDE_CELLS: Final = 2000  # the most that a hub takes
_USUAL: Final = (80, 24)  # of a terminal that does not know its own
_READ_BYTES: Final = 16 * 1024
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
_KEEP_TITLE, _TITLE_AS_KEPT = b"\x1b[22;0t", b"\x1b[23;0t"
# To the last line, wherever the cursor and its origin are, and back.
_LAST_LINE: Final = b"\x1b7\x1b[?6l\x1b[%d;1H\x1b[0m%b\x1b[K\x1b[0m\x1b8"


class Stopped(Exception):
    """A signal asks us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class LocalTerminal:
    """Keys come as they are pressed while this is entered, and what is written is shown as it is.

    Left, it is as it was before, whatever the program has set and whatever ends us but SIGKILL.
    """

    def __init__(self, otherwise: str = "cmdop exec MACHINE -- COMMAND… needs none") -> None:
        """
        Raises:
            Failure: there is no terminal; `otherwise` is what can be done without one.
        """
        for stream, what in ((sys.stdin, "input"), (sys.stdout, "output")):
            if stream is None or not stream.isatty():
                raise Failure(
                    f"standard {what} is not a terminal",
                    exit_code=OURS,
                    hint=otherwise,
                )
        self.keys = sys.stdin.fileno()
        self._screen = sys.stdout.fileno()
        self._modes = ScreenModes()
        self._ends_line = True  # what was written last

    def __enter__(self) -> Self:
        sys.stdout.flush()
        self._settings = termios.tcgetattr(self.keys)
        self._handlers = {number: signal.signal(number, _stop) for number in _ENDING}
        try:
            tty.setraw(self.keys, termios.TCSADRAIN)  # what was typed ahead is not thrown away
            self.write(_KEEP_TITLE)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        was_alternate = self._modes.is_alternate
        try:
            self.write(self._modes.undo() + _TITLE_AS_KEPT)
            if not (was_alternate or self._ends_line):
                self.write(b"\r\n")
        except OSError:
            pass  # it is gone
        finally:
            # Answers of the terminal to a program that is gone are thrown away.
            with suppress(termios.error):
                termios.tcsetattr(self.keys, termios.TCSAFLUSH, self._settings)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, as a hub takes them."""
        with suppress(OSError):
            cols, rows = os.get_terminal_size(self._screen)
            if cols and rows:
                return min(cols, _SIDE_CELLS), min(rows, _SIDE_CELLS)
        return _USUAL

    def read(self) -> bytes:
        """What was typed.

        Raises:
            Stopped: the terminal is gone.
        """
        try:
            data = os.read(self.keys, _READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            raise Stopped(signal.SIGHUP)
        return data

    def show(self, output: bytes) -> None:
        """Write what a program has written."""
        self._modes.see(output)
        self._ends_line = output.endswith(b"\n")
        self.write(output)

    @property
    def is_alternate(self) -> bool:
        """True: the program shows a screen of its own, behind which the person's own is."""
        return self._modes.is_alternate

    def scroll_away(self) -> None:
        """An empty screen, with what stood on it above."""
        _, rows = self.size
        self.write(b"\x1b[%d;1H" % rows + b"\n" * rows + b"\x1b[H")

    def wipe(self) -> None:
        """An empty screen, which is painted anew."""
        self.write(b"\x1b[0m\x1b[H\x1b[2J")

    def notice(self, text: str) -> None:
        """Write `text` over the last line, or "" to wipe it; what stood there is lost."""
        cols, rows = self.size
        room = cols if text.isascii() else cols // 2  # a character may be two columns wide
        line = visible(text)[:room].encode(errors="replace")
        self.write(_LAST_LINE % (rows, b"\x1b[7m" + line if line else b""))

    def write(self, data: bytes) -> None:
        """Write all of it, however slow the terminal is."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._screen, rest) :]
            except BlockingIOError:  # whoever shares it has said that nobody waits
                select.select([], [self._screen], [])


def _stop(number: int, _: FrameType | None) -> NoReturn:
    for other in _ENDING:  # once is enough: from now on it is being left
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)
