"""Samples that the hub does not hold yet: kept through any outage, in bounded memory.

Those of the last hour are kept as they are, those before as one a minute, two days in all; what is
older is forgotten. The hub takes each number of a series once. So what was offered to it and not
confirmed stays as it is: rolled into one with others it would be counted again.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from cmdop_appliance.protocol.limits import SAMPLES_ITEMS, SAMPLES_KEPT_MS
from cmdop_appliance.protocol.messages import Peak, Sample, Samples, Telemetry

# Kept as they are for so long: 240 at one each 15 s …
FULL_MS: Final = 3_600_000
# … then as one for each of these: 2820 more, some 2 MB in all.
ROLLED_MS: Final = 60_000


def boot_clock_ms() -> int:
    """Milliseconds since boot: nobody can set this clock, and it counts suspended time, too."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class _Taken(NamedTuple):
    at_ms: int  # of the boot clock
    sample: Sample  # its age is told when it is sent


class Backlog:
    """The samples of one life of the agent; one message of them is under way at a time."""

    def __init__(self, now_ms: Callable[[], int] = boot_clock_ms) -> None:
        self._now_ms = now_ms
        self._series = secrets.token_bytes(16)
        self._number = 0
        self._rolled: deque[_Taken] = deque()  # older than any of `_full`
        self._full: deque[_Taken] = deque()
        self._offered: list[_Taken] = []  # not confirmed: the hub may hold them, or not
        self._is_under_way = False  # on this connection

    def __len__(self) -> int:
        return len(self._offered) + len(self._rolled) + len(self._full)

    def add(self, telemetry: Telemetry) -> None:
        """Keep a sample that was taken now."""
        self._number += 1
        now_ms = self._now_ms()
        sample = Sample(number=self._number, age_ms=0, telemetry=telemetry)
        self._full.append(_Taken(now_ms, sample))
        while _minute_end_ms(self._full[0].at_ms) + FULL_MS <= now_ms:
            self._rolled.append(self._roll_minute())
        while self._rolled and self._rolled[0].at_ms + SAMPLES_KEPT_MS < now_ms:
            self._rolled.popleft()

    def next(self) -> Samples | None:
        """The oldest that are not confirmed; None: there are none, or some are under way."""
        if self._is_under_way:
            return None
        while len(self._offered) < SAMPLES_ITEMS and (source := self._rolled or self._full):
            self._offered.append(source.popleft())
        if not self._offered:
            return None
        self._is_under_way = True
        now_ms = self._now_ms()
        return Samples(
            series=self._series,
            samples=[
                msgspec.structs.replace(taken.sample, age_ms=now_ms - taken.at_ms)
                for taken in self._offered
            ],
        )

    def confirm(self, number: int) -> None:
        """The hub holds all up to this one."""
        self._offered = [taken for taken in self._offered if taken.sample.number > number]
        self._is_under_way = False

    def break_off(self) -> None:
        """The connection has ended: what was under way may have come to nothing."""
        self._is_under_way = False

    def _roll_minute(self) -> _Taken:
        """All of the oldest minute as one, taken in its middle, so that each minute has its own."""
        end_ms = _minute_end_ms(self._full[0].at_ms)
        group: list[Sample] = []
        while self._full[0].at_ms < end_ms:
            group.append(self._full.popleft().sample)
        means: dict[str, float] = {}
        peaks: dict[str, float] = {}
        for name in Peak.__struct_fields__:
            values = [getattr(sample.telemetry, name) for sample in group]
            means[name], peaks[name] = sum(values) / len(values), max(values)
        rolled = Sample(
            number=group[-1].number,
            age_ms=0,
            telemetry=msgspec.structs.replace(group[-1].telemetry, **means),
            count=len(group),
            peak=Peak(**peaks),
        )
        return _Taken(end_ms - ROLLED_MS // 2, rolled)


def _minute_end_ms(at_ms: int) -> int:
    return at_ms - at_ms % ROLLED_MS + ROLLED_MS
