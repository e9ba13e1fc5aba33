"""What machines send to readers of their terminals, held to its offsets and its credit."""

from contextlib import ExitStack

import pytest
import trio

from cmdop_appliance.errors import TooManyTerminals
from cmdop_appliance.hub import terminal_link
from cmdop_appliance.hub.connection import LinkClosed
from cmdop_appliance.hub.terminal_link import TerminalLink, Watch, find_terminal_link
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.frames import Screen
from cmdop_appliance.protocol.limits import SCREEN_BYTES, TERMINALS, WATCH_BYTES, WATCHES
from cmdop_appliance.protocol.messages import Heartbeat, Heartbeatack
from cmdop_appliance.protocol.terminals import (
    Size,
    TerminalCredit,
    TerminalDone,
    TerminalGap,
    TerminalInput,
    TerminalResize,
    TerminalUnwatch,
    TerminalWatch,
    TerminalWatched,
)
from tests.hub.scripted_terminals import PtyMachine
from tests.support.live_hub import BOUND

TERM = "term_01M81SPF8DV47WAQK0Y9FZ5NZ3"
FULL = b"x" * SCREEN_BYTES
TYPED = TerminalInput(id=TERM, writer="a" * 32, offset=0, data=b"ls\n")


async def found(box: PtyMachine) -> TerminalLink:
    with trio.fail_after(BOUND):
        return await find_terminal_link(box.live.hub.bus, box.machine_id)


def watched(offset: int = 0, end: int = 0, watch: int = 0) -> TerminalWatched:
    return TerminalWatched(watch=watch, offset=offset, end=end, size=Size())


async def take(watch: Watch) -> object:
    with trio.fail_after(BOUND):
        return await watch.next()


async def drain(watch: Watch) -> None:
    while True:
        await take(watch)


async def fill(box: PtyMachine, offset: int = 0) -> int:
    """All that a reader has room for; where it ends."""
    for at in range(offset, offset + WATCH_BYTES, SCREEN_BYTES):
        await box.link.say(Screen(0, at, FULL))
    return offset + WATCH_BYTES


async def test_a_reader_gets_what_is_written_from_its_offset_to_its_end(box):
    link = await found(box)
    with link.watch(TERM, 3) as watch:
        asked = await box.link.expect(TerminalWatch)
        assert asked == TerminalWatch(watch=0, id=TERM, offset=3)
        said = [
            watched(3, 10),
            Screen(0, 3, b"screen"),
            TerminalGap(watch=0, offset=20),
            Screen(0, 20, b"more"),
            TerminalDone(watch=0, end=24),
        ]
        for each in said:
            await box.link.say(each)
            assert await take(watch) == each
    await box.link.heartbeat()  # it need not be told that nobody reads


async def test_a_recorder_is_nobody_who_looks(box):
    link = await found(box)
    with link.watch(TERM, 0, is_recorder=True):
        assert (await box.link.expect(TerminalWatch)).quiet


async def test_who_leaves_is_read_for_no_longer(box):
    link = await found(box)
    with link.watch(TERM, None):
        assert (await box.link.expect(TerminalWatch)).offset is None
    assert await box.link.expect(TerminalUnwatch) == TerminalUnwatch(watch=0)
    for late in (watched(), Screen(0, 0, b"late"), TerminalDone(watch=0, end=4)):
        await box.link.say(late)
    await box.link.heartbeat()  # it could not know


async def test_small_pieces_that_wait_are_one(box):
    link = await found(box)
    with link.watch(TERM, 0) as watch:
        await box.link.expect(TerminalWatch)
        await box.link.say(watched())
        for at, piece in ((0, b"a"), (1, b"b"), (2, FULL[2:]), (SCREEN_BYTES, b"c")):
            await box.link.say(Screen(0, at, piece))
        await box.link.heartbeat()
        assert await take(watch) == watched()
        assert await take(watch) == Screen(0, 0, b"ab" + FULL[2:])
        assert await take(watch) == Screen(0, SCREEN_BYTES, b"c")


async def test_credit_is_given_as_the_reader_gets_done(box):
    link = await found(box)
    with link.watch(TERM, 0) as watch:
        await box.link.expect(TerminalWatch)
        await box.link.say(watched())
        end = await fill(box)
        watch.grant(1)  # not worth a message
        watch.grant(WATCH_BYTES // 4)
        credit = await box.link.expect(TerminalCredit)
        assert credit == TerminalCredit(watch=0, offset=end + WATCH_BYTES // 4)
        for at in range(end, credit.offset, SCREEN_BYTES):
            await box.link.say(Screen(0, at, FULL))
        await box.link.heartbeat()
        await box.link.say(Screen(0, credit.offset, b"x"))
        assert (await box.link.closed())[0] is Close.PROTOCOL


async def test_a_gap_uses_no_credit_that_was_not_given(box):
    link = await found(box)
    with link.watch(TERM, 0) as watch:
        await box.link.expect(TerminalWatch)
        await box.link.say(watched())
        gap = TerminalGap(watch=0, offset=10 * WATCH_BYTES)
        await box.link.say(gap)
        assert [await take(watch), await take(watch)] == [watched(), gap]
        watch.grant(gap.offset)
        credit = await box.link.expect(TerminalCredit)
        assert credit.offset == gap.offset + WATCH_BYTES
        await fill(box, gap.offset)
        await box.link.heartbeat()


LIES = {
    "output before its begin": [Screen(0, 0, b"x")],
    "a gap before its begin": [TerminalGap(watch=0, offset=1)],
    "two begins": [watched(), watched()],
    "a begin behind the end": [watched(5, 4)],
    "output that was left out": [watched(), Screen(0, 1, b"x")],
    "output twice": [watched(), Screen(0, 0, b"x"), Screen(0, 0, b"x")],
    "a gap backwards": [watched(), Screen(0, 0, b"xy"), TerminalGap(watch=0, offset=2)],
    "an end that is not": [watched(), Screen(0, 0, b"x"), TerminalDone(watch=0, end=2)],
    "output behind the end": [watched(), TerminalDone(watch=0, end=0), Screen(0, 0, b"x")],
    "two ends": [TerminalDone(watch=0, end=0), TerminalDone(watch=0, end=0)],
    "a reader that never was": [watched(watch=1)],
    "more than there is credit for": [
        watched(7, 7),
        *(Screen(0, 7 + at, FULL) for at in range(0, WATCH_BYTES + 1, SCREEN_BYTES)),
    ],
    "more pieces than are held": [
        watched(),
        *(TerminalGap(watch=0, offset=1 + at) for at in range(terminal_link._PIECES)),
    ],
}


@pytest.mark.parametrize("lie", LIES)
async def test_what_breaks_offsets_or_credit_ends_the_connection(box, lie):
    link = await found(box)
    with link.watch(TERM, 0) as watch:
        await box.link.expect(TerminalWatch)
        for each in LIES[lie]:
            await box.link.say(each)
        assert (await box.link.closed())[0] is Close.PROTOCOL
        with pytest.raises(LinkClosed):
            await drain(watch)


async def test_one_who_reads_nothing_keeps_nobody_waiting(box):
    link = await found(box)
    with link.watch(TERM, 0), link.watch(TERM, 0) as other:
        for _ in range(2):
            await box.link.expect(TerminalWatch)
        await box.link.say(watched())
        await fill(box)
        await box.link.say(watched(watch=1))
        assert await take(other) == watched(watch=1)


async def test_a_lost_link_is_told_to_who_reads_behind_all_that_came(box):
    link = await found(box)
    with link.watch(TERM, 0) as watch:
        await box.link.expect(TerminalWatch)
        await box.link.say(watched())
        await box.link.heartbeat()
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                assert await take(watch) == watched()
                with pytest.raises(LinkClosed):
                    await take(watch)

            nursery.start_soon(read)
            await box.link.cut()
        watch.grant(WATCH_BYTES)  # too late, and harmless
        with pytest.raises(LinkClosed):
            link.post(TYPED)
        with pytest.raises(LinkClosed), link.watch(TERM, 0):
            pass


async def test_what_is_typed_reaches_the_machine_in_its_order(box):
    link = await found(box)
    resize = TerminalResize(id=TERM, size=Size(100, 50))
    link.post(TYPED)
    link.post(resize)
    assert await box.link.hear() == TYPED
    assert await box.link.hear() == resize


async def test_a_connection_has_so_many_readers_and_no_more(box):
    """And viewers keep out no recorder."""
    link = await found(box)
    with ExitStack() as stack:
        for _ in range(WATCHES - TERMINALS):
            stack.enter_context(link.watch(TERM, 0))
        with pytest.raises(TooManyTerminals, match="192 readers"), link.watch(TERM, 0):
            pass
        for _ in range(TERMINALS):
            stack.enter_context(link.watch(TERM, 0, is_recorder=True))
        with (
            pytest.raises(TooManyTerminals, match="256 readers"),
            link.watch(TERM, 0, is_recorder=True),
        ):
            pass
        await box.link.say(Heartbeat())
        while not isinstance(await box.link.hear(), Heartbeatack):
            pass
    with link.watch(TERM, 0):
        pass
