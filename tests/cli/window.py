"""A person's terminal window: a PTY, the command line in it, and what the person sees."""

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pyte

from tests.support.appliance import wait_for

ROOT = Path(__file__).parents[2]
CMDOP = (sys.executable, "-m", "cmdop_appliance")


class _Screen(pyte.Screen):
    def select_graphic_rendition(self, *attributes: int, private: bool = False) -> None:
        if not private:  # else it is a question (XTQMODKEYS), which pyte does not know
            super().select_graphic_rendition(*attributes)


class Window:
    """A program in a terminal. `text` is what it shows, `shown` all that it was ever sent."""

    def __init__(self, argv: list[str], env: Mapping[str, str], cols: int, rows: int) -> None:
        self.shown = bytearray()
        self._screen = _Screen(cols, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.master, self.slave = os.openpty()
        self._set_size(cols, rows)
        self.process = subprocess.Popen(
            argv,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", **env},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.settings = termios.tcgetattr(self.slave)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def type(self, text: str | bytes) -> None:
        rest = text.encode() if isinstance(text, str) else text
        while rest:
            rest = rest[os.write(self.master, rest[:4096]) :]

    def resize(self, cols: int, rows: int) -> None:
        with self._lock:
            self._screen.resize(rows, cols)
        self._set_size(cols, rows)
        self.process.send_signal(signal.SIGWINCH)

    @property
    def text(self) -> str:
        """The screen, its lines without what is blank behind them."""
        with self._lock:
            return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    @property
    def modes(self) -> set[int]:
        with self._lock:
            return set(self._screen.mode)

    def wait(self, shows: Callable[[str], object] | str) -> str:
        """The screen, once it shows this."""
        test = (lambda text: shows in text) if isinstance(shows, str) else shows
        try:
            return wait_for(lambda: self.text if test(self.text) else "", "screen")
        except AssertionError as exc:
            sent = bytes(self.shown[-500:])
            raise AssertionError(
                f"{shows!r} is not on the screen:\n{self.text}\nsent at last: {sent!r}"
            ) from exc

    def wait_exit(self) -> int:
        """The exit code; the terminal must be as it was before."""
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it runs on:\n{self.text}") from None
        assert termios.tcgetattr(self.slave) == self.settings
        return code

    def close(self) -> None:
        """As somebody closes a window."""
        os.close(self.slave)
        self.slave = -1
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGHUP)

    def _set_size(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def _look(self) -> None:
        with suppress(OSError):  # nobody has the other side open any more
            while data := os.read(self.master, 65536):
                with self._lock:
                    self.shown += data
                    self._stream.feed(data)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.slave >= 0:
            os.close(self.slave)
        self._thread.join()
        os.close(self.master)


@contextmanager
def window(
    *args: str, cols: int = 80, rows: int = 24, program: Sequence[str] = CMDOP, **env: str
) -> Iterator[Window]:
    """A window in which `cmdop`, or another program, runs with these arguments."""
    opened = Window([*program, *args], env, cols, rows)
    try:
        yield opened
    finally:
        opened.end()
