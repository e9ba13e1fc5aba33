"""What a viewer of a terminal is given."""

from dataclasses import dataclass

from cmdop_appliance.model import Terminal
from cmdop_appliance.protocol.terminals import Size


@dataclass(frozen=True, slots=True)
class Shown:
    """Output that may go to the viewer's terminal; behind it stands byte `offset`."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Output goes on at byte `offset`; what stood before is not kept."""

    offset: int


@dataclass(frozen=True, slots=True)
class Resized:
    """The terminal has this size."""

    size: Size


@dataclass(frozen=True, slots=True)
class Viewers:
    """So many look at it now."""

    operators: int
    observers: int


@dataclass(frozen=True, slots=True)
class Away:
    """The machine is not connected, and what is typed is lost."""


@dataclass(frozen=True, slots=True)
class Back:
    """The machine is connected again; what it has not taken is to be typed again."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What this viewer typed is typed up to byte `offset`."""

    offset: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The terminal has ended, and all of its output was shown."""

    terminal: Terminal


Piece = Shown | Gap | Away | Back | Ended
News = Resized | Viewers | Taken
