"""Who looks at one terminal: how many, on how large a screen, and whose terminal answers."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

import trio

from cmdop_appliance.errors import StorageFull, TooManyTerminals, Unavailable
from cmdop_appliance.hub.terminals import Terminals
from cmdop_appliance.model import ClientMode, Terminal
from cmdop_appliance.protocol.terminals import Size

# For telling a machine that a small screen has gone.
_LEAVE_S: Final = 1.0
# Viewers of one API key at all terminals of one machine, which has room for WATCHES - TERMINALS.
_SEATS: Final = 16


class Seats:
    """Room for viewers, of which no key takes all."""

    def __init__(self) -> None:
        self._taken: Counter[tuple[str, str]] = Counter()  # by key and machine

    @contextmanager
    def taken(self, key_id: str, machine_id: str) -> Iterator[None]:
        """One more of this API key looks at a terminal of this machine.

        Raises:
            TooManyTerminals: as many look as may.
        """
        whose = key_id, machine_id
        if self._taken[whose] >= _SEATS:
            raise TooManyTerminals(
                f"this API key looks at terminals of this machine {_SEATS} times, and cannot once"
                " more: close one",
                machine_id=machine_id,
            )
        self._taken[whose] += 1
        try:
            yield
        finally:
            self._taken[whose] -= 1
            self._taken += Counter()  # forgets those at zero


class Viewer(Protocol):
    """One who looks."""

    terminal: Terminal
    mode: ClientMode
    size: Size | None  # of an operator's screen

    def tell_count(self, operators: int, observers: int) -> None:
        """So many look now."""
        ...


class Audience:
    """Those who look at one terminal, in the order in which they came."""

    def __init__(self, terminals: Terminals, young_s: float) -> None:
        """`young_s`: for so long it is as good as new, and nobody has looked before."""
        self.asked = 0  # questions up to this byte of the output were passed on, or will never be
        self._terminals = terminals
        self._young_until = trio.current_time() + young_s
        self._viewers: list[Viewer] = []
        self._fitted: Size | None = None
        self._fitting = trio.Lock()

    @property
    def is_empty(self) -> bool:
        """True: nobody looks."""
        return not self._viewers

    @property
    def is_young(self) -> bool:
        """True: its program may just be asking what it asks as it starts."""
        return trio.current_time() < self._young_until

    def count(self) -> tuple[int, int]:
        """How many operators and observers there are."""
        operators = sum(each.mode == "operator" for each in self._viewers)
        return operators, len(self._viewers) - operators

    def is_asked(self, viewer: Viewer) -> bool:
        """True: of all terminals it is this one that answers."""
        return viewer is next((each for each in self._viewers if each.size is not None), None)

    @property
    def smallest(self) -> Size | None:
        """What fits all operators; None: there are none."""
        sizes = [each.size for each in self._viewers if each.size is not None]
        if not sizes:
            return None
        return Size(min(size.cols for size in sizes), min(size.rows for size in sizes))

    async def join(self, viewer: Viewer) -> None:
        """One more looks."""
        self._viewers.append(viewer)
        await self.settle(viewer.terminal)

    async def leave(self, viewer: Viewer) -> None:
        """One looks no more. Waits a second at most; should the hub fail, nobody needs to know."""
        self._viewers.remove(viewer)
        with trio.move_on_after(_LEAVE_S, shield=True), suppress(Unavailable, StorageFull):
            await self.settle(viewer.terminal)

    async def settle(self, terminal: Terminal) -> None:
        """Tell all how many they are, and the machine how large the screen is now."""
        operators, observers = self.count()
        for each in self._viewers:
            each.tell_count(operators, observers)
        await self.fit(terminal)

    async def fit(self, terminal: Terminal) -> None:
        """Tell the machine how large the screen is now, if that is another size."""
        async with self._fitting:
            smallest = self.smallest
            if smallest not in (None, self._fitted):
                self._fitted = smallest
                await self._terminals.resize(terminal, smallest)
