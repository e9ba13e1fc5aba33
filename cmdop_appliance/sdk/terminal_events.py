"""What happens in a terminal that is looked at."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes that were written to the terminal, fit for one that a person looks at."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """What was written before is not kept any more: the screen begins anew."""


@dataclass(frozen=True, slots=True)
class Resized:
    """The terminal has this size from now on: the smallest of its operators'."""

    cols: int
    rows: int


@dataclass(frozen=True, slots=True)
class Watchers:
    """So many look at the terminal from now on."""

    operators: int
    observers: int


@dataclass(frozen=True, slots=True)
class MachineAway:
    """The machine is away: what is typed waits for it."""


@dataclass(frozen=True, slots=True)
class HubAway:
    """The connection to the hub is broken, or not made yet; it is made again."""


@dataclass(frozen=True, slots=True)
class Back:
    """Hub and machine are there; the terminal goes on."""

    terminal: dict[str, Any]  # its record as the connection found it; {}: only the machine was away


@dataclass(frozen=True, slots=True)
class Refused:
    """The hub did not do what was asked, such as to type for an observer."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The terminal has ended; nothing comes after this."""

    end: str  # exited, failed, cancelled, idle or lost
    exit_code: int | None  # ended by signal n: 128 + n
    signal: str | None
    message: str | None


Event = Output | Gap | Resized | Watchers | MachineAway | HubAway | Back | Refused | Ended
