"""What a viewer of a terminal sees, through whatever becomes of its machine and its hub."""

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.errors import Conflict, TerminalNotFound, TooManyTerminals, Unavailable
from cmdop_appliance.hub import terminal_link
from cmdop_appliance.hub.viewed import Away, Back, Ended, Gap, Shown
from cmdop_appliance.protocol.limits import SCREEN_BYTES, WATCH_BYTES
from cmdop_appliance.protocol.terminals import (
    KnownTerminal,
    TerminalCredit,
    TerminalDone,
    TerminalEnded,
    TerminalFailed,
    TerminalGap,
    TerminalInput,
    TerminalOpen,
    TerminalOpened,
    TerminalResize,
    TerminalWatch,
)
from cmdop_appliance.store import terminals as rows
from tests.hub.viewers import Gallery, piece
from tests.support import records
from tests.support.records import NOW


@pytest.fixture
async def gallery(box):
    return await Gallery.opened(box)


async def back(gallery: Gallery, offset: int | None, **met) -> None:
    """The machine comes back, and the viewer asks for what it does not have."""
    await gallery.box.again((gallery.terminal.id, "running"))
    assert (await gallery.meet(**met)).offset == offset


async def test_a_viewer_sees_all_that_is_kept_and_then_what_comes(gallery):
    async with gallery.look(met={"at": 5, "end": 8}) as viewing:
        assert viewing.offset == 5
        await gallery.write(5, b"old")
        assert await piece(viewing) == Shown(8, b"old")
        await gallery.write(8, b"new\x1b]52;c;eA==\x07")
        assert await piece(viewing) == Shown(23, b"new")


async def test_a_viewer_begins_where_it_says(gallery):
    async with gallery.look(offset=7) as viewing:
        await gallery.write(7, b"x")
        assert await piece(viewing) == Shown(8, b"x")


async def test_where_it_began_stays_known_whatever_came_since(gallery):
    async with gallery.look(offset=2, met={"at": 5}) as viewing:
        await gallery.write(5, b"one")
        assert await piece(viewing) == Gap(5)
        assert await piece(viewing) == Shown(8, b"one")
        await gallery.box.link.cut()
        assert await piece(viewing) == Away()
        await back(gallery, 8)
        assert await piece(viewing) == Back()
        assert viewing.begins == 5


async def test_a_viewer_is_told_what_is_kept_no_more(gallery):
    async with gallery.look(offset=7, met={"at": 100}) as viewing:
        assert await piece(viewing) == Gap(100)
        await gallery.write(100, b"a\x1b[3")
        await gallery.box.link.say(TerminalGap(watch=gallery.watch, offset=200))
        await gallery.write(200, b"1mb")
        assert await piece(viewing) == Shown(101, b"a")
        assert await piece(viewing) == Gap(200)
        assert await piece(viewing) == Shown(203, b"1mb")


async def test_what_is_held_back_is_read_again_when_the_machine_is_back(gallery):
    async with gallery.look() as viewing:
        await gallery.write(0, b"abc\x1b[3")
        assert await piece(viewing) == Shown(3, b"abc")
        await gallery.box.link.cut()
        assert await piece(viewing) == Away()
        await back(gallery, 3, end=10)
        assert await piece(viewing) == Back()
        await gallery.write(3, b"\x1b[31m\xe2")
        assert await piece(viewing) == Shown(8, b"\x1b[31m")
        await gallery.write(9, b"\x82\xac")
        assert await piece(viewing) == Shown(11, "€".encode())


async def test_a_viewer_may_come_while_the_machine_is_away(gallery):
    await gallery.box.link.cut()
    async with gallery.ask(offset=3) as viewing:
        assert viewing.offset == 3
        assert await piece(viewing) == Away()
        await back(gallery, 3)
        assert await piece(viewing) == Back()


async def test_a_link_that_was_replaced_is_told_too(gallery):
    """The machine was never seen to be away; but what was typed on the old link is lost."""
    box = gallery.box
    async with gallery.look() as viewing:
        box.agent.terminals = [KnownTerminal(id=gallery.terminal.id, phase="running")]
        box.link = await box.agent.connect()
        await gallery.meet()
        assert await piece(viewing) == Away()
        assert await piece(viewing) == Back()


async def test_a_viewer_waits_for_a_terminal_that_starts(box):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.ask)
        asked = await box.link.expect(TerminalOpen)
        gallery = Gallery(box, await box.row(asked.id))
        async with trio.open_nursery() as looking:
            looking.start_soon(start_and_write, gallery)
            async with gallery.ask() as viewing:
                assert await piece(viewing) == Shown(2, b"hi")


async def test_who_types_before_it_runs_is_told_to_type_again(box, autojump_clock: MockClock):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.ask)
        asked = await box.link.expect(TerminalOpen)
        gallery = Gallery(box, await box.row(asked.id))
        async with gallery.ask() as viewing:
            await viewing.type(0, b"l")
            await start_and_write(gallery)
            assert await piece(viewing) == Back()
            await viewing.type(0, b"ls")
            assert (await gallery.heard(TerminalInput)).data == b"ls"


async def start_and_write(gallery: Gallery) -> None:
    assert isinstance(await gallery.box.link.hear(), TerminalResize)
    await gallery.box.link.heartbeat()  # nobody reads yet
    await gallery.box.link.say(TerminalOpened(id=gallery.terminal.id, started_ms=NOW))
    await gallery.meet()
    await gallery.write(0, b"hi")


async def test_an_end_comes_behind_all_output(gallery):
    async with gallery.look() as viewing:
        await gallery.box.link.say(TerminalEnded(id=gallery.terminal.id, end="exited", exit_code=3))
        await gallery.box.until(gallery.terminal.id, status="ended")
        await gallery.write(0, b"last")
        await gallery.box.link.say(TerminalDone(watch=gallery.watch, end=4))
        assert await piece(viewing) == Shown(4, b"last")
        ended = await piece(viewing)
        assert isinstance(ended, Ended)
        assert (ended.terminal.end, ended.terminal.exit_code) == ("exited", 3)


async def test_an_end_is_waited_for_when_all_was_shown(gallery):
    async with gallery.look() as viewing:
        await gallery.box.link.say(TerminalDone(watch=gallery.watch, end=0))
        await gallery.box.link.heartbeat()
        await gallery.box.link.say(TerminalEnded(id=gallery.terminal.id, end="exited", exit_code=0))
        assert isinstance(await piece(viewing), Ended)


async def test_an_end_comes_though_the_machine_never_says_that_this_was_all(
    gallery, autojump_clock: MockClock
):
    async with gallery.look() as viewing:
        await gallery.box.link.say(TerminalEnded(id=gallery.terminal.id, end="lost"))
        assert isinstance(await piece(viewing), Ended)


async def test_an_end_comes_to_who_looks_at_what_has_ended(gallery):
    await gallery.box.link.say(TerminalEnded(id=gallery.terminal.id, end="exited", exit_code=0))
    await gallery.box.until(gallery.terminal.id, status="ended")
    await gallery.box.link.cut()
    async with gallery.ask(offset=3) as viewing:
        assert await piece(viewing) == Gap(3)  # nobody can tell what it has shown
        assert isinstance(await piece(viewing), Ended)


@pytest.mark.parametrize(("end", "tells"), [("exited", [Gap, Ended]), ("lost", [Ended])])
async def test_an_end_of_which_its_machine_knows_nothing_more_does_not_look_complete(
    gallery, end, tells
):
    async with gallery.look() as viewing:
        await gallery.write(0, b"first")
        assert await piece(viewing) == Shown(5, b"first")
        await gallery.box.link.cut()
        assert await piece(viewing) == Away()
        await gallery.box.again((gallery.terminal.id, "ended"))
        asked = await gallery.heard(TerminalWatch)
        await gallery.box.link.say(TerminalEnded(id=gallery.terminal.id, end=end))
        await gallery.box.link.say(TerminalDone(watch=asked.watch, end=0))
        assert [type(await piece(viewing)) for _ in tells] == tells


async def test_what_never_ran_has_shown_all_that_it_could(gallery):
    never = records.terminal(gallery.box.machine_id, name="never")
    await gallery.hub.store.run(rows.insert, never)
    await gallery.box.link.say(TerminalFailed(id=never.id, code="exec_failed", message="no"))
    gallery.terminal = await gallery.box.until(never.id, status="ended")
    await gallery.box.link.cut()
    async with gallery.ask() as viewing:
        assert isinstance(await piece(viewing), Ended)


async def test_a_viewer_that_takes_nothing_gives_no_credit(gallery):
    async with gallery.look() as viewing:
        for at in range(0, WATCH_BYTES, SCREEN_BYTES):
            await gallery.write(at, b"x" * SCREEN_BYTES)
        await gallery.box.link.heartbeat()  # it heard of no credit before
        for at in range(0, WATCH_BYTES // 2, SCREEN_BYTES):
            assert await piece(viewing) == Shown(at + SCREEN_BYTES, b"x" * SCREEN_BYTES)
        credit = await gallery.heard(TerminalCredit)
        assert WATCH_BYTES < credit.offset <= WATCH_BYTES + WATCH_BYTES // 2


async def test_the_end_of_the_hub_is_the_end_of_a_viewing(gallery):
    async with gallery.look() as viewing:
        gallery.hub.bus.stop()
        with pytest.raises(Unavailable):
            await piece(viewing)


async def test_a_terminal_out_of_reach_is_seen_no_more(gallery):
    async with gallery.look() as viewing:
        await gallery.hub.store.run(
            lambda tx: (
                tx.execute("DELETE FROM terminal"),
                tx.notify(rows.subject_of(gallery.terminal.id)),
            )
        )
        with pytest.raises(TerminalNotFound):
            await piece(viewing)


async def test_what_a_viewer_does_wrong_is_raised_as_it_is(gallery):
    with pytest.raises(Conflict, match="mine"):
        async with gallery.look():
            raise Conflict("mine")


async def test_there_are_no_more_viewers_than_a_machine_takes(gallery, monkeypatch):
    monkeypatch.setattr(terminal_link, "WATCHES", 0)
    with pytest.raises(TooManyTerminals):
        async with gallery.ask() as viewing:
            await piece(viewing)
    assert gallery.hub.viewings.count(gallery.terminal.id) == (0, 0)
