"""A terminal of a machine, in the terminal of whoever called us."""

import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Queue
from types import FrameType
from typing import Final

from cmdop_appliance.cli.detach_key import DetachKey, without_noise
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.follow import OURS
from cmdop_appliance.cli.local_terminal import LocalTerminal, Stopped
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import ConnectionFailed
from cmdop_appliance.sdk.terminal_events import (
    Back,
    Ended,
    Event,
    Gap,
    HubAway,
    MachineAway,
    Output,
    Refused,
    Resized,
)
from cmdop_appliance.sdk.terminal_socket import TerminalSocket
from cmdop_appliance.sdk.terminal_types import Terminal

# The detach key, pressed twice within this, is typed once.
_TWICE_S: Final = 0.5
# An absence that is shorter is not spoken of.
_SILENCE_S: Final = 1.0
_NOTICE_S: Final = 3.0
# Typed and not taken yet: no more is read from the keyboard, so that a paste arrives whole.
_UNTAKEN_BYTES: Final = 512 * 1024
_LOOK_AGAIN_S: Final = 0.05
_EVENTS: Final = 64  # that wait to be shown
_SAID: Final = {
    "failed": "did not start",
    "cancelled": "was ended",
    "idle": "was ended: nobody used it",
    "lost": "is lost",
}


class Attachment:
    """One person at one terminal.

    A thread takes what comes from the hub; all else, also every write, is done by the caller's.
    """

    def __init__(
        self,
        local: LocalTerminal,
        socket: TerminalSocket,
        terminal: Terminal,
        where: str,
        key: DetachKey,
        *,
        observe: bool,
        is_new: bool,
    ) -> None:
        """See `attaching.attach`."""
        self._local = local
        self._socket = socket
        self._terminal = terminal
        self._where = where
        self._key = key
        self._observe = observe
        self._is_new = is_new
        self._events: Queue[Event | Exception] = Queue(_EVENTS)
        self._woken, self._wake = os.pipe()
        self._due: dict[Callable[[], None], float] = {}  # when to do each of these
        self._press: bytes | None = None  # of the detach key, which a second one types
        self._away = ""  # who is, and what that means
        self._is_noticed = False  # something of ours stands on the screen
        self._is_left = False
        self._end: Ended | None = None

    def run(self) -> int:
        """Until the terminal ends, or is left; the exit code. See `attaching.attach`."""
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        threading.Thread(target=self._take_events, daemon=True).start()
        while not isinstance(first := self._events.get(), Back):
            if isinstance(first, Exception):
                raise first
        self._say_attached(first)
        stopped = 0
        with self._local:
            before = signal.signal(signal.SIGWINCH, self._on_resize)
            try:
                if not self._is_new:
                    self._local.scroll_away()
                    self._repaint()  # of what was written, not all may be kept
                self._loop()
            except Stopped as exc:
                stopped = exc.number
            finally:
                signal.signal(signal.SIGWINCH, before)
        if self._end is not None:
            return self._exit_code(self._end)
        self._say_left()
        return 128 + stopped if stopped else 0

    # ── the thread that takes events, and signals ────────────────────────────────────────────────

    def _take_events(self) -> None:
        try:
            for event in self._socket.events():
                self._pass_on(event)
        except Exception as exc:  # noqa: BLE001 - it is raised where it can be told
            self._pass_on(exc)

    def _pass_on(self, event: Event | Exception) -> None:
        self._events.put(event)
        self._wake_up()

    def _wake_up(self) -> None:
        with suppress(BlockingIOError):  # it is full of reasons to wake up
            os.write(self._wake, b".")

    def _on_resize(self, _number: int, _frame: FrameType | None) -> None:
        self._due[self._resize] = 0
        self._wake_up()

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────

    def _loop(self) -> None:
        while not self._is_left and self._end is None:
            ready = self._wait()
            if self._local.keys in ready:
                self._hear_keys(self._local.read())
            if self._woken in ready:
                os.read(self._woken, 4096)
                for _ in range(self._events.qsize()):
                    self._handle(self._events.get())
            for act, at in list(self._due.items()):
                if at <= time.monotonic():
                    del self._due[act]
                    act()

    def _wait(self) -> list[int]:
        wait_s = None
        if self._due:
            wait_s = max(0, min(self._due.values()) - time.monotonic())
        sources = [self._woken, self._local.keys]
        if not self._away and self._socket.untaken_bytes > _UNTAKEN_BYTES:
            sources.pop()
            wait_s = _LOOK_AGAIN_S if wait_s is None else min(wait_s, _LOOK_AGAIN_S)
        return select.select(sources, [], [], wait_s)[0]

    # ── the keyboard ─────────────────────────────────────────────────────────────────────────────

    def _hear_keys(self, data: bytes) -> None:
        while data:
            if self._press is None:
                found = self._key.first(data)
                self._type(data[: found.start()] if found else data)
                if found is None:
                    return
                self._press, data = found[0], data[found.end() :]
                self._due[self._leave] = time.monotonic() + _TWICE_S
            elif rest := without_noise(data):
                if (again := self._key.begins(rest)) is None:
                    self._leave()
                    return
                del self._due[self._leave]
                self._type(self._press)
                self._press, data = None, rest[again.end() :]
            else:
                return

    def _type(self, data: bytes) -> None:
        if self._observe:
            # What a terminal tells by itself, such as where its mouse is, is no key.
            if data and not data.startswith(b"\x1b["):
                self._tell(f"you are an observer, who may only look; {self._key.name} leaves")
            return
        try:
            self._socket.type(data)
        except ConnectionFailed:
            self._tell(f"nothing more can wait to be typed; {self._key.name} leaves")

    def _leave(self) -> None:
        self._is_left = True

    # ── what happens ─────────────────────────────────────────────────────────────────────────────

    def _handle(self, event: Event | Exception) -> None:
        match event:
            case Output(data=data):
                if self._is_noticed and not self._local.is_alternate:
                    self._wipe_notice()  # or it would scroll into the text
                self._local.show(data)
            case Gap():
                self._local.wipe()
                self._repaint()
            case Resized(cols=cols, rows=rows):
                # A program with a screen of its own paints all of that anew, and no more.
                if self._local.is_alternate and (cols, rows) != self._local.size:
                    self._local.wipe()
            case HubAway():
                self._miss("the hub is away")
            case MachineAway():
                self._miss(f"{self._where} is away")
            case Back():
                self._away = ""
                self._due.pop(self._say_away, None)
                self._hide()
            case Refused(message=message):
                self._tell(message)
            case Ended():
                self._end = event
            case Exception():
                raise event

    def _miss(self, who: str) -> None:
        waiting = "" if self._observe else "; what you type waits"
        self._away = f"{who}{waiting}; {self._key.name} leaves"
        if self._is_noticed:
            self._say_away()
        else:
            self._due.setdefault(self._say_away, time.monotonic() + _SILENCE_S)

    def _say_away(self) -> None:
        self._is_noticed = True
        self._local.notice(self._away)

    def _tell(self, text: str) -> None:
        self._is_noticed = True
        self._local.notice(text)
        self._due[self._hide] = time.monotonic() + _NOTICE_S

    def _hide(self) -> None:
        self._due.pop(self._hide, None)
        if self._away:
            self._say_away()
        elif self._is_noticed:
            self._wipe_notice()
            self._repaint()

    def _wipe_notice(self) -> None:
        self._is_noticed = False
        self._local.notice("")

    def _resize(self) -> None:
        if not self._observe:
            self._socket.resize(*self._local.size)

    def _repaint(self) -> None:
        """Have the program paint its screen anew, as for a window that has another size."""
        if not self._observe:
            cols, rows = self._local.size
            self._socket.resize(cols, max(1, rows - 1))
            self._socket.resize(cols, rows)

    # ── before and after ─────────────────────────────────────────────────────────────────────────

    @property
    def _name(self) -> str:
        return visible(f"{self._terminal['name']} on {self._where}")

    def _say_attached(self, first: Back) -> None:
        does = "looking at" if self._observe else "attached to"
        print(f"{does} {self._name}; {self._key.name} leaves it", file=sys.stderr)
        cols, rows = self._local.size
        if self._observe and (first.terminal["cols"] > cols or first.terminal["rows"] > rows):
            size = visible(f"{first.terminal['cols']}x{first.terminal['rows']}")
            print(f"its screen is {size}, larger than this {cols}x{rows}", file=sys.stderr)

    def _say_left(self) -> None:
        name, where = shlex.quote(self._terminal["name"]), shlex.quote(self._where)
        again = f"cmdop connect {where} --session {name}"
        if self._terminal["kind"] == "coding_session":
            again = f"cmdop sessions attach {name}"
        again += " --observe" if self._observe else ""
        print(visible(f"left {self._terminal['name']}, which runs on: {again}"), file=sys.stderr)
        if self._away and (count := self._socket.untaken_bytes):
            said = f"{count} bytes were typed that have not arrived, and will not"
            print(said, file=sys.stderr)

    def _exit_code(self, end: Ended) -> int:
        if end.end == "exited" and end.exit_code is not None:
            print(f"{self._name} has ended", file=sys.stderr)
            return end.exit_code
        said = f"{self._terminal['name']} on {self._where} {_SAID.get(end.end, 'has ended')}"
        raise Failure(f"{said}: {end.message}" if end.message else said, exit_code=OURS)
