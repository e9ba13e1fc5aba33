"""What goes wrong in one case, as text: `one.12:hub@40-,agent@52+`.

The shape and the seed say what happens without any fault; each fault names its victim, the step
at which it strikes, and whether it does so before or after what this step does.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

Shape = Literal["one", "few", "wild"]
SHAPES: Final[tuple[Shape, ...]] = ("one", "few", "wild")

# In the sweep; `link` is the connection of the first machine.
SWEPT: Final = ("hub", "agent", "link")
# Beside these: the keeper is killed, the machine restarts, the agent is stopped, its machine is
# removed, or the hub dies and what comes back is an old backup of it.
VICTIMS: Final = (*SWEPT, "keeper", "machine", "stop", "remove", "restore")

_FAULT: Final = re.compile(r"([a-z]+)(\d?)@(\d+)([-+])")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. `machine` counts from 0."""

    victim: str
    step: int
    after: bool
    machine: int = 0

    def __str__(self) -> str:
        return f"{self.victim}{self.machine or ''}@{self.step}{'+' if self.after else '-'}"

    @classmethod
    def parse(cls, text: str) -> "Fault":
        match = _FAULT.fullmatch(text)
        if match is None or match[1] not in VICTIMS:
            raise ValueError(f"{text!r} is not a fault such as hub@40-")
        return cls(match[1], int(match[3]), match[4] == "+", int(match[2] or 0))


@dataclass(frozen=True, slots=True)
class Plan:
    """One case; the same plan gives the same events."""

    shape: Shape
    seed: int
    faults: tuple[Fault, ...] = ()

    def __str__(self) -> str:
        return f"{self.shape}.{self.seed}:{','.join(map(str, self.faults))}"

    @classmethod
    def parse(cls, text: str) -> "Plan":
        head, _, tail = text.partition(":")
        shape, _, seed = head.partition(".")
        if shape not in SHAPES:
            raise ValueError(f"{text!r} is not a plan such as one.12:hub@40-,agent@52+")
        return cls(shape, int(seed), tuple(map(Fault.parse, filter(None, tail.split(",")))))

    def strikes(self, *victims: str, machine: int | None = None) -> bool:
        """True: one of these is among the faults, whether it came to it or not."""
        return any(
            fault.victim in victims and machine in (None, fault.machine) for fault in self.faults
        )
