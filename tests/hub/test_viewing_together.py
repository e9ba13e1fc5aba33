"""Several who look at one terminal: who types, on how large a screen, and whose answers count."""

from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cmdop_appliance.errors import Forbidden, TerminalNotFound, Unavailable
from cmdop_appliance.hub.terminal_link import TerminalLink
from cmdop_appliance.hub.terminals import Terminals
from cmdop_appliance.hub.viewed import Away, Resized, Shown, Taken, Viewers
from cmdop_appliance.protocol.limits import INPUT_BYTES
from cmdop_appliance.protocol.messages import Heartbeat, Heartbeatack
from cmdop_appliance.protocol.terminals import (
    Size,
    TerminalInput,
    TerminalResize,
    TerminalTaken,
)
from cmdop_appliance.store import clients
from tests.hub.viewers import WRITER, Gallery, of, piece
from tests.support import records
from tests.support.live_hub import CALLER

BOB = "b" * 32
ASKS = b"\x1b[c"


@pytest.fixture
async def gallery(box):
    return await Gallery.opened(box)


@pytest.fixture
async def old_gallery(gallery):
    """A terminal whose program began a minute ago."""
    await gallery.hub.store.run(
        lambda tx: tx.execute("UPDATE terminal SET created_ms = created_ms - 60000")
    )
    return gallery


async def observe(gallery: Gallery) -> None:
    """The caller's key is attached to the machine as an observer from now on."""
    client = records.client(gallery.box.link.session_id, CALLER.key_id, mode="observer")
    await gallery.hub.store.run(clients.attach, client)


async def size_told(gallery: Gallery) -> Size:
    return (await gallery.heard(TerminalResize)).size


# ── sizes ────────────────────────────────────────────────────────────────────────────────────────


async def test_the_smallest_screen_of_an_operator_counts(gallery):
    fits = {"size": Size(120, 40)}
    async with gallery.look(size=Size(120, 40), met=fits) as alice:
        fits = {"size": Size(100, 40)}
        async with (
            gallery.look(size=Size(100, 50), writer=BOB, met=fits) as bob,
            gallery.look("observer", size=Size(10, 5), met=fits),
        ):
            await bob.resize(Size(90, 50))
            while await of(alice, Resized) != Resized(Size(90, 40)):
                pass
        row = await gallery.box.row(gallery.terminal.id)
        assert (row.cols, row.rows) == (120, 40)
    await gallery.box.link.say(Heartbeat())
    await gallery.heard(Heartbeatack)
    sizes = [each.size for each in gallery.told if isinstance(each, TerminalResize)]
    assert sizes == [Size(120, 40), Size(100, 40), Size(90, 40), Size(120, 40)]


async def test_a_machine_that_missed_a_size_is_told_when_it_is_back(gallery):
    async with gallery.look(size=Size(100, 50)) as viewing:
        await gallery.box.link.cut()
        assert await piece(viewing) == Away()
        await viewing.resize(Size(90, 50))
        await gallery.box.again((gallery.terminal.id, "running"))
        await gallery.meet(size=Size(100, 50))
        assert await size_told(gallery) == Size(90, 50)


async def test_who_is_cut_off_leaves_its_place_too(gallery):
    async with gallery.look(size=Size(100, 50)) as alice:
        with trio.CancelScope() as scope:
            async with gallery.look(size=Size(10, 5), writer=BOB):
                scope.cancel()
                await trio.lowlevel.checkpoint()
        while await of(alice, Resized) != Resized(Size(100, 50)):
            pass


async def test_who_leaves_a_hub_that_fails_need_not_know(gallery, monkeypatch):
    async def fail(self, terminal, size) -> None:
        raise Unavailable("the hub's disk failed")

    async with gallery.look(size=Size(100, 50)):
        async with gallery.look(size=Size(10, 5), writer=BOB):
            monkeypatch.setattr(Terminals, "resize", fail)
        monkeypatch.undo()


async def test_sizes_are_told_one_after_another(gallery, monkeypatch):
    resize, told, go_on = Terminals.resize, [], trio.Event()

    async def slow(self, terminal, size) -> None:
        told.append(size)
        await go_on.wait()
        await resize(self, terminal, size)

    async with gallery.look(size=Size(100, 50)) as viewing, trio.open_nursery() as nursery:
        monkeypatch.setattr(Terminals, "resize", slow)
        for size in (Size(90, 50), Size(80, 50), Size(70, 50)):
            nursery.start_soon(viewing.resize, size)
        await wait_all_tasks_blocked()
        assert len(told) == 1
        go_on.set()
        while await of(viewing, Resized) != Resized(viewing.size):
            pass
    assert told[-1] == viewing.size


async def test_everybody_knows_how_many_look(old_gallery):
    gallery = old_gallery
    async with gallery.look() as alice:
        assert await of(alice, Viewers) == Viewers(1, 0)
        async with gallery.look("observer"):
            assert await of(alice, Viewers) == Viewers(1, 1)
            assert gallery.hub.viewings.count(gallery.terminal.id) == (1, 1)
        assert await of(alice, Viewers) == Viewers(1, 0)
    assert gallery.hub.viewings.count(gallery.terminal.id) == (0, 0)
    assert not gallery.hub.viewings._audiences


async def test_who_looks_is_recorded(gallery):
    async with gallery.look("observer"):
        pass
    entry = (await gallery.box.recorded())[-1]
    assert (entry.action, entry.target, entry.actor) == (
        "terminal.attached",
        gallery.terminal.id,
        CALLER.email,
    )
    assert entry.details["mode"] == "observer"


# ── typing ───────────────────────────────────────────────────────────────────────────────────────


async def test_what_operators_type_comes_in_the_order_in_which_they_typed(gallery):
    async with gallery.look() as alice, gallery.look(writer=BOB) as bob:
        await alice.type(0, b"l")
        await bob.type(7, b"x\x03")
        await alice.type(1, b"s\r")
        typed = [await gallery.heard(TerminalInput) for _ in range(3)]
        assert [(each.writer, each.offset, each.data) for each in typed] == [
            (WRITER, 0, b"l"),
            (BOB, 7, b"x\x03"),
            (WRITER, 1, b"s\r"),
        ]


async def test_only_who_typed_is_told_what_was_taken(gallery):
    async with gallery.look() as alice, gallery.look(writer=BOB) as bob:
        await gallery.box.link.say(TerminalTaken(id=gallery.terminal.id, writer=WRITER, offset=5))
        assert await of(alice, Taken) == Taken(5)
        await gallery.box.link.say(TerminalTaken(id=gallery.terminal.id, writer=BOB, offset=9))
        assert await of(bob, Taken) == Taken(9)


async def test_of_much_that_is_not_taken_the_rest_is_refused_at_once(gallery):
    part = b"x" * INPUT_BYTES
    offsets = [100 + number * INPUT_BYTES for number in range(5)]
    async with gallery.look() as viewing:
        for offset in offsets:
            await viewing.type(offset, part)
        assert await of(viewing, Taken) == Taken(100)
        assert [(await gallery.heard(TerminalInput)).offset for _ in range(4)] == offsets[:4]
        await gallery.box.link.heartbeat()  # no more was said
        taken = TerminalTaken(id=gallery.terminal.id, writer=WRITER, offset=offsets[1])
        await gallery.box.link.say(taken)
        assert await of(viewing, Taken) == Taken(offsets[1])
        await viewing.type(offsets[4], part)
        assert (await gallery.heard(TerminalInput)).offset == offsets[4]


async def test_while_much_waits_for_the_machine_more_is_refused(gallery, monkeypatch):
    async with gallery.look() as viewing:
        await viewing.type(100, b"a")
        assert (await gallery.heard(TerminalInput)).offset == 100
        monkeypatch.setattr(TerminalLink, "is_crowded", True)
        await viewing.type(101, b"b")
        assert await of(viewing, Taken) == Taken(100)
        monkeypatch.undo()
        await viewing.type(101, b"c")
        assert (await gallery.heard(TerminalInput)).data == b"c"


async def test_what_is_typed_while_the_machine_is_away_is_not_sent_later(gallery):
    async with gallery.look() as viewing:
        await gallery.box.link.cut()
        assert await piece(viewing) == Away()
        await viewing.type(0, b"x" * INPUT_BYTES)
        await viewing.type(10 * INPUT_BYTES, b"x" * INPUT_BYTES)  # nobody waits for room, either
        await gallery.box.again((gallery.terminal.id, "running"))
        await gallery.meet()
        await gallery.box.link.heartbeat()
        await piece(viewing)
        await viewing.type(0, b"again")
        assert (await gallery.heard(TerminalInput)).data == b"again"


async def test_an_observer_may_only_look(gallery):
    async with gallery.look("observer") as viewing:
        with pytest.raises(Forbidden, match="only look"):
            await viewing.type(0, b"x")
        with pytest.raises(Forbidden, match="only look"):
            await viewing.resize(Size())
        await gallery.box.link.heartbeat()  # nothing was sent
        await gallery.write(0, b"seen")
        assert await piece(viewing) == Shown(4, b"seen")


async def test_who_is_attached_as_an_observer_is_no_operator(gallery):
    await observe(gallery)
    with pytest.raises(Forbidden):
        async with gallery.ask():
            pass
    assert gallery.hub.viewings.count(gallery.terminal.id) == (0, 0)
    async with gallery.look("observer"):
        pass


async def test_who_becomes_an_observer_may_type_no_more(gallery, autojump_clock: MockClock):
    other = replace(CALLER, key_id="key_2")
    async with (
        gallery.look(size=Size(10, 5)) as alice,
        gallery.look(size=Size(80, 24), caller=other, writer=BOB) as bob,
    ):
        await observe(gallery)
        while await of(bob, Viewers) != Viewers(1, 1):
            pass
        with pytest.raises(Forbidden):
            await alice.type(0, b"x")
        with pytest.raises(Forbidden):
            await alice.resize(Size())
        while await size_told(gallery) != Size(80, 24):
            pass


async def test_who_becomes_an_observer_while_much_is_taken_may_type_no_more(
    gallery, autojump_clock: MockClock
):
    """There is always something to be heard."""
    taken = TerminalTaken(id=gallery.terminal.id, writer=WRITER, offset=5)
    async with gallery.look() as alice:
        await observe(gallery)
        for _ in range(7):
            await gallery.box.link.say(taken)
            await trio.sleep(1)
        assert gallery.hub.viewings.count(gallery.terminal.id) == (0, 1)
        assert alice.mode == "observer"


async def test_nobody_looks_at_what_is_out_of_reach(gallery):
    with pytest.raises(TerminalNotFound):
        async with gallery.ask(caller=replace(CALLER, workspace_id="ws_other")):
            pass


# ── questions of programs ────────────────────────────────────────────────────────────────────────


async def shown(gallery: Gallery, viewings: dict, offset: int, data: bytes) -> dict[str, bytes]:
    """What each viewer is shown of this, `!` behind it."""
    for watch in range(len(viewings)):
        await gallery.write(offset, data + b"!", watch=watch)
    return {name: (await piece(each)).data for name, each in viewings.items()}


async def test_one_terminal_answers_that_of_the_first_operator(old_gallery):
    gallery = old_gallery
    async with AsyncExitStack() as stack:
        viewings = {}
        for name, mode in (("eve", "observer"), ("alice", "operator"), ("bob", "operator")):
            viewings[name] = await stack.enter_async_context(gallery.look(mode, writer=BOB))
        assert await shown(gallery, viewings, 0, ASKS) == {
            "eve": b"!",
            "alice": ASKS + b"!",
            "bob": b"!",
        }


async def test_the_next_operator_answers_when_the_first_has_left(old_gallery):
    """And nothing that was answered, though it is shown to that one only now."""
    gallery, leave = old_gallery, trio.Event()

    async def alice(task_status) -> None:
        async with gallery.look(writer=BOB) as viewing:
            task_status.started()
            assert await piece(viewing) == Shown(3, ASKS)
            await leave.wait()

    async with trio.open_nursery() as nursery:
        await nursery.start(alice)
        async with gallery.look() as bob:
            await gallery.write(0, ASKS + b"\x1b[", watch=0)
            leave.set()
            while await of(bob, Viewers) != Viewers(1, 0):
                pass
            await gallery.write(0, ASKS + b"\x1b[6n!", watch=1)
            assert await piece(bob) == Shown(8, b"\x1b[6n!")


async def test_what_was_written_before_asks_nobody(old_gallery):
    gallery = old_gallery
    async with gallery.look(met={"at": 0, "end": 5}) as viewing:
        await gallery.write(0, ASKS + b"ab" + ASKS)
        assert await piece(viewing) == Shown(8, b"ab" + ASKS)


async def test_what_was_written_while_the_machine_was_away_asks_nobody(gallery):
    async with gallery.look() as viewing:
        await gallery.box.link.cut()
        assert await piece(viewing) == Away()
        await gallery.box.again((gallery.terminal.id, "running"))
        await gallery.meet(end=3)
        await piece(viewing)
        await gallery.write(0, ASKS + b"a")
        assert await piece(viewing) == Shown(4, b"a")


async def test_who_opens_a_terminal_answers_what_its_program_has_asked_already(gallery):
    async with gallery.look(met={"at": 0, "end": 4}) as viewing:
        await gallery.write(0, ASKS + b"a")
        assert await piece(viewing) == Shown(4, ASKS + b"a")
