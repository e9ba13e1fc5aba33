"""The terminals of a machine that only pretends: each writes a greeting, and takes what is typed.

No program runs in them, so whatever a fuzzer opens and types does no harm.
"""

import random
from collections.abc import Iterator

from cmdop_appliance.protocol.frames import Data, Screen
from cmdop_appliance.protocol.messages import FromHub
from cmdop_appliance.protocol.terminals import (
    Size,
    TerminalDone,
    TerminalEnd,
    TerminalEnded,
    TerminalFailed,
    TerminalInput,
    TerminalOpen,
    TerminalOpened,
    TerminalTaken,
    TerminalUnwatch,
    TerminalWatch,
    TerminalWatched,
)

_GREETING = b"\x1b]0;title\x07$ "
_STARTED_MS = 1_700_000_000_000

Said = (
    TerminalOpened
    | TerminalFailed
    | TerminalEnded
    | TerminalTaken
    | TerminalWatched
    | TerminalDone
    | Screen
)


class PretendedTerminals:
    """What one machine says of its terminals, on its one connection."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._readers: dict[int, str] = {}

    def hear(self, message: FromHub | Data) -> Iterator[Said]:
        """What is said to this; nothing to what is not about terminals."""
        match message:
            case TerminalOpen(id=name) if random.Random(name).random() < 0.2:
                yield TerminalFailed(id=name, code="exec_failed", message="it only pretends")
            case TerminalOpen(id=name):
                self._open.add(name)
                yield TerminalOpened(id=name, started_ms=_STARTED_MS)
            case TerminalEnd(id=name):
                self._open.discard(name)
                for watch in [watch for watch, of in self._readers.items() if of == name]:
                    del self._readers[watch]
                    yield TerminalDone(watch=watch, end=len(_GREETING))
                yield TerminalEnded(id=name, end="cancelled", signal="SIGHUP")
            case TerminalWatch(watch=watch, id=name) if name in self._open:
                self._readers[watch] = name
                start, end = min(message.offset or 0, len(_GREETING)), len(_GREETING)
                yield TerminalWatched(watch=watch, offset=start, end=end, size=Size())
                if start < end:
                    yield Screen(watch, start, _GREETING[start:])
            case TerminalWatch(watch=watch):
                yield TerminalDone(watch=watch, end=0)
            case TerminalUnwatch(watch=watch):
                self._readers.pop(watch, None)
            case TerminalInput(id=name) if name in self._open:
                end = message.offset + len(message.data)
                yield TerminalTaken(id=name, writer=message.writer, offset=end)
