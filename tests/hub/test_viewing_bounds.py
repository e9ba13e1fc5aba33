"""What viewers of terminals cost the hub, and each other."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.errors import TooManyTerminals
from cmdop_appliance.hub import audience, viewing
from cmdop_appliance.hub.screening import Screener
from cmdop_appliance.hub.viewed import Shown
from cmdop_appliance.protocol.terminals import Size, TerminalResize
from tests.hub.viewers import Gallery, piece
from tests.support.live_hub import CALLER


@pytest.fixture
async def gallery(box):
    return await Gallery.opened(box)


class Passes(trio.abc.Instrument):
    """Counts passes of the loop."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_pass_of_the_loop_screens_one_part_whoever_looks(gallery, monkeypatch):
    passes, screened = Passes(), []

    class Counted(Screener):
        def screen(self, data: bytes, *, may_ask: bool = False) -> bytes:
            screened.append((passes.count, len(data)))
            return super().screen(data, may_ask=may_ask)

    monkeypatch.setattr(viewing, "Screener", Counted)
    monkeypatch.setattr(viewing, "_TURN_S", 0)
    output = b"x" * 5000
    trio.lowlevel.add_instrument(passes)
    async with gallery.look("observer") as one, gallery.look("observer") as other:
        for watch in range(2):
            await gallery.write(0, output, watch=watch)
        for each in (one, other):
            assert await piece(each) == Shown(5000, output)
    trio.lowlevel.remove_instrument(passes)
    assert sum(size for _, size in screened) == 2 * len(output)
    assert max(size for _, size in screened) <= 512
    assert len({number for number, _ in screened}) == len(screened)


async def test_of_many_sizes_the_last_reaches_the_machine(gallery, autojump_clock: MockClock):
    """And the first, at once: two in a row have a program paint its screen anew."""
    async with gallery.look() as alice:
        for cols in range(10, 60):
            await alice.resize(Size(cols, 24))
        told = []
        while Size(59, 24) not in told:
            told.append((await gallery.heard(TerminalResize)).size)
        assert told == [Size(10, 24), Size(59, 24)]


async def test_no_key_takes_all_seats(gallery, monkeypatch):
    monkeypatch.setattr(audience, "_SEATS", 1)
    async with gallery.look("observer"):
        with pytest.raises(TooManyTerminals, match="close one"):
            async with gallery.ask("observer"):
                pass
        async with gallery.look("observer", caller=replace(CALLER, key_id="key_2")):
            assert gallery.hub.viewings.count(gallery.terminal.id) == (0, 2)
    async with gallery.look("observer"):
        pass


async def test_what_was_answered_is_asked_nobody_again(gallery):
    """Though the terminal is as good as new, and nobody looked for a moment."""
    for answered in (b"\x1b[c", b""):
        async with gallery.look(met={"at": 0, "end": 4}) as alice:
            await gallery.write(0, b"\x1b[ca")
            assert await piece(alice) == Shown(4, answered + b"a")
