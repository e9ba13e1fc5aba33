"""A machine's places for calls: nobody has them all, and nobody waits for one without end."""

from collections.abc import Sequence
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cmdop_appliance.errors import Unavailable
from cmdop_appliance.hub.file_places import QUICK_CALLS, TRANSFERS, WAIT_S, FilePlaces
from cmdop_appliance.protocol.files import (
    AnyCall,
    Copy,
    Delete,
    Exist,
    List,
    Mkdir,
    Move,
    Read,
    Stat,
    Uploaded,
    Write,
)
from cmdop_appliance.protocol.limits import FILE_CALLS

SLOW: list[AnyCall] = [
    Read(path=b"/f"),
    Write(path=b"/f"),
    Copy(source=b"/f", destination=b"/g"),
    Move(source=b"/f", destination=b"/g"),
    Delete(path=b"/f", recursive=True),
    Stat(path=b"/f", checksum=True),
]
QUICK: list[AnyCall] = [
    List(path=b"/", limit=1),
    Stat(path=b"/f"),
    Exist(paths=[b"/f"]),
    Uploaded(path=b"/f", upload="u"),
    Delete(path=b"/f"),
    Mkdir(path=b"/d"),
]


class Crowd:
    """Who holds places, and who waits for one."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.places = FilePlaces()
        self.holding: list[str] = []
        self.refused: list[Unavailable] = []
        self._nursery = nursery

    async def come(self, *key_ids: str, call: AnyCall) -> None:
        """Each asks once, in this order, and keeps what it gets."""
        for key_id in key_ids:
            self._nursery.start_soon(partial(self._hold, key_id, call))
            await wait_all_tasks_blocked()

    async def _hold(self, key_id: str, call: AnyCall) -> None:
        try:
            async with self.places.hold(call, key_id):
                self.holding.append(key_id)
                await trio.sleep_forever()
        except Unavailable as exc:
            self.refused.append(exc)


@pytest.fixture
async def crowd(nursery):
    return Crowd(nursery)


def many(names: Sequence[str], number: int) -> list[str]:
    return [name for name in names for _ in range(number)]


@pytest.mark.parametrize("slow", SLOW, ids=lambda call: type(call).__name__)
async def test_transfers_however_many_leave_places_for_what_is_quick(crowd, slow):
    await crowd.come(*many("abc", FILE_CALLS), call=slow)
    assert len(crowd.holding) == TRANSFERS < FILE_CALLS
    for call in QUICK:
        with trio.fail_after(5):
            async with crowd.places.hold(call, "a"):
                pass


@pytest.mark.parametrize(("call", "number"), [(SLOW[1], TRANSFERS), (QUICK[0], QUICK_CALLS)])
async def test_one_key_has_at_most_half_of_the_places(crowd, call, number):
    await crowd.come(*"a" * FILE_CALLS, *"b" * FILE_CALLS, call=call)
    assert crowd.holding == many("ab", number // 2)


async def test_what_leaves_makes_room_for_the_next_of_any_key(crowd):
    call = SLOW[0]
    async with crowd.places.hold(call, "a"), crowd.places.hold(call, "a"):
        await crowd.come(*many("ab", TRANSFERS // 2), "c", call=call)
        assert crowd.holding.count("c") == 0
    await wait_all_tasks_blocked()
    assert len(crowd.holding) == TRANSFERS
    assert crowd.holding.count("c") == 1


@pytest.mark.parametrize(
    ("call", "words"), [(SLOW[0], "as many transfers"), (QUICK[0], "as many calls for its files")]
)
async def test_whoever_finds_no_place_for_long_is_told_why(
    crowd, call, words, autojump_clock: MockClock
):
    await crowd.come(*many("ab", FILE_CALLS), call=call)
    before, started_s = list(crowd.holding), trio.current_time()
    with pytest.raises(Unavailable, match=words) as caught:
        async with crowd.places.hold(call, "c"):
            pass
    assert trio.current_time() - started_s == WAIT_S
    assert "end" in caught.value.hint
    assert crowd.holding == before


async def test_whoever_gave_up_leaves_nothing_taken(autojump_clock: MockClock):
    places, call = FilePlaces(), QUICK[0]
    half = QUICK_CALLS // 2
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery)
        crowd.places = places
        await crowd.come(*many("abc", half), call=call)
        await trio.sleep(WAIT_S + 1)
        assert len(crowd.refused) == half  # of c: its own places, and none of the machine's
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        crowd = Crowd(nursery)
        crowd.places = places
        await crowd.come(*many("cb", half), call=call)
        assert crowd.holding == many("cb", half)
        nursery.cancel_scope.cancel()
