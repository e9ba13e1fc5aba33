"""What is said on the websocket of a terminal: a real hub and socket, and a machine by script."""

import pytest
import trio

from cmdop_appliance.auth import new_secret
from cmdop_appliance.hub import viewing
from cmdop_appliance.protocol.limits import INPUT_BYTES
from cmdop_appliance.protocol.terminals import (
    Size,
    TerminalDone,
    TerminalEnded,
    TerminalGap,
    TerminalResize,
    TerminalTaken,
)
from cmdop_appliance.store import clients
from tests.api.terminal_room import LOOK, START, WRITER, Room, Viewer, at_a_terminal
from tests.api.terminal_site import PROTOCOL, TICKET
from tests.support import records


@pytest.fixture
async def room(tmp_path):
    async with at_a_terminal(tmp_path) as made:
        yield made


# ── what is seen ─────────────────────────────────────────────────────────────────────────────────


async def test_a_client_is_greeted_and_sees_the_screen_with_the_offset_behind_each_piece(room):
    viewer = await room.sit()
    asked = await room.watched(offset=5, end=5)
    assert asked.offset is None
    hello = await viewer.hear("hello")
    assert (hello["mode"], hello["offset"]) == ("operator", 5)
    assert hello["terminal"]["id"] == room.terminal_id
    assert hello["terminal"]["viewers"] == {"operators": 1, "observers": 0}
    await room.write(asked, 5, b"one")
    assert await viewer.see() == (8, b"one")
    await room.write(asked, 8, "zwölf".encode())
    assert await viewer.see() == (14, "zwölf".encode())


async def test_a_greeting_says_where_the_output_behind_it_begins(room, monkeypatch):
    async def wait_shown(self):
        while self.offset != 8:
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(viewing.Viewing, "wait_begun", wait_shown)
    viewer = await room.sit()
    asked = await room.watched(offset=5, end=5)
    await room.write(asked, 5, b"one")
    assert (await viewer.hear("hello"))["offset"] == 5
    assert await viewer.see() == (8, b"one")


async def test_a_client_that_comes_back_goes_on_where_it_was(room):
    viewer = await room.sit(offset=8)
    asked = await room.watched(offset=8, end=14)
    assert asked.offset == 8
    assert (await viewer.hear("hello"))["offset"] == 8
    await room.write(asked, 8, b"second")
    assert await viewer.see() == (14, b"second")


async def test_what_is_not_kept_is_a_gap(room):
    viewer = await room.sit()
    asked = await room.watched()
    await room.write(asked, 0, b"one")
    await room.machine.link.say(TerminalGap(watch=asked.watch, offset=100))
    await room.write(asked, 100, b"two")
    assert await viewer.see() == (3, b"one")
    assert (await viewer.hear("gap"))["offset"] == 100
    assert await viewer.see() == (103, b"two")


async def test_the_end_is_told_behind_the_last_byte_and_closes_it(room):
    viewer = await room.sit()
    asked = await room.watched()
    await room.write(asked, 0, b"bye")
    await room.machine.link.say(TerminalDone(watch=asked.watch, end=3))
    ended = TerminalEnded(id=room.terminal_id, end="exited", exit_code=3, duration_ms=5)
    await room.machine.link.say(ended)
    assert await viewer.see() == (3, b"bye")
    assert await viewer.hear("end") == {
        "type": "end",
        "end": "exited",
        "exit_code": 3,
        "signal": None,
        "code": None,
        "message": None,
    }
    assert (await viewer.closed())[0] == 1000


async def test_a_machine_that_goes_and_comes_back_is_away_and_back(room):
    viewer = await room.sit()
    asked = await room.watched()
    await room.write(asked, 0, b"one")
    assert await viewer.see() == (3, b"one")
    await room.machine.link.cut()
    await viewer.hear("away")
    await room.machine.again((room.terminal_id, "running"))
    asked = await room.watched(offset=3, end=3)
    assert asked.offset == 3
    await viewer.hear("back")
    await room.write(asked, 3, b"two")
    assert await viewer.see() == (6, b"two")


# ── what is typed ────────────────────────────────────────────────────────────────────────────────


async def test_keys_reach_the_machine_as_they_are_and_are_told_to_be_taken(room):
    viewer = await room.sit()
    await room.watched()
    await viewer.hear("hello")
    keys = b"\x1b[A\r\0\xff"
    await viewer.type(7, keys)
    typed = await room.typed()
    assert (typed.id, typed.writer, typed.offset, typed.data) == (
        room.terminal_id,
        WRITER,
        7,
        keys,
    )
    taken = TerminalTaken(id=room.terminal_id, writer=WRITER, offset=13)
    await room.machine.link.say(taken)
    assert (await viewer.hear("taken"))["offset"] == 13


async def test_what_another_client_typed_is_not_told_to_be_taken(room):
    viewer = await room.sit()
    await room.watched()
    await viewer.hear("hello")
    for writer, offset in (("f" * 32, 99), (WRITER, 1)):
        taken = TerminalTaken(id=room.terminal_id, writer=writer, offset=offset)
        await room.machine.link.say(taken)
    assert (await viewer.hear("taken"))["offset"] == 1


async def test_as_much_as_a_message_may_have_is_typed(room):
    viewer = await room.sit()
    await room.watched()
    await viewer.hear("hello")
    await viewer.type(0, b"x" * INPUT_BYTES)
    assert (await room.typed()).data == b"x" * INPUT_BYTES


async def test_a_new_size_does_not_wait_behind_what_nobody_takes(room):
    viewer = await room.sit()
    await room.watched()
    await viewer.hear("hello")
    for part in range(9):  # more than is ever under way
        await viewer.type(part * INPUT_BYTES, b"x" * INPUT_BYTES)
    await viewer.resize(70, 20)
    while (await viewer.hear("resize"))["cols"] != 70:
        pass


async def test_the_smallest_screen_of_an_operator_counts(room):
    first = await room.sit(cols=100, rows=30)
    await room.watched()
    await first.hear("hello")
    second = await room.sit(cols=90, rows=40, writer="f" * 32)
    await room.watched()
    await second.hear("hello")
    while (told := await first.hear("resize"))["cols"] != 90:
        pass
    assert told == {"type": "resize", "cols": 90, "rows": 30}
    await first.resize(70, 50)
    while (told := await second.hear("resize"))["cols"] != 70:
        pass
    assert told == {"type": "resize", "cols": 70, "rows": 40}
    sizes = []
    while Size(70, 40) not in sizes:
        message = await room.machine.link.hear()
        if isinstance(message, TerminalResize):
            sizes.append(message.size)
    await second.socket.aclose()
    while (told := await first.hear("resize"))["rows"] != 50:
        pass
    assert told == {"type": "resize", "cols": 70, "rows": 50}


async def test_everybody_is_told_how_many_look(room):
    first = await room.sit()
    await room.watched()
    while (told := await first.hear("viewers"))["operators"] != 1:
        pass
    second = await room.sit(mode="observer")
    await room.watched()
    while (told := await first.hear("viewers"))["observers"] != 1:
        pass
    assert told == {"type": "viewers", "operators": 1, "observers": 1}
    await second.socket.aclose()
    while (told := await first.hear("viewers"))["observers"] != 0:
        pass
    assert told["operators"] == 1


# ── who may only look ────────────────────────────────────────────────────────────────────────────


async def test_an_observer_needs_no_screen_and_is_refused_each_time_it_types(room):
    socket = await room.site.connect(room.path, room.key.header)
    viewer = Viewer(socket)
    await viewer.say(LOOK)
    asked = await room.watched()
    assert (await viewer.hear("hello"))["mode"] == "observer"
    await viewer.type(0, b"x")
    assert (await viewer.hear("error"))["code"] == "forbidden"
    await viewer.resize(10, 10)
    assert (await viewer.hear("error"))["code"] == "forbidden"
    await room.write(asked, 0, b"still here")
    assert await viewer.see() == (10, b"still here")
    await socket.aclose()
    operator = await room.sit()
    await room.watched()
    await operator.type(0, b"y")
    assert (await room.typed()).data == b"y"  # and nothing before
    assert [entry.target for entry in await room.refusals()] == [room.terminal_id] * 2


async def test_a_key_that_may_only_read_is_no_operator(room):
    reader = await room.site.key("sessions:read")
    viewer = await room.sit(reader)
    code, reason = await viewer.closed()
    assert (code, reason) == (4403, "Token lacks required permission: commands:execute")
    assert viewer.said == [{"type": "error", "code": "forbidden", "message": reason}]
    (entry,) = await room.refusals()
    assert entry.details["why"] == "commands:execute"
    await room.sit(reader, mode="observer")
    await room.watched()


async def test_an_operator_who_becomes_an_observer_types_no_more(room, monkeypatch):
    monkeypatch.setattr(viewing, "SWEEP_S", 0)
    viewer = await room.sit()
    await room.watched()
    await viewer.hear("hello")
    session_id, key_id = room.machine.link.session_id, room.key.caller.key_id
    client = records.client(session_id, key_id, mode="observer")
    await room.hub.store.run(clients.attach, client)
    taken = TerminalTaken(id=room.terminal_id, writer=WRITER, offset=0)
    await room.machine.link.say(taken)  # whatever is heard, it looks again
    await viewer.hear("viewers")
    while (told := await viewer.hear("viewers"))["operators"]:
        pass
    assert told["observers"] == 1
    await viewer.type(0, b"x")
    assert (await viewer.hear("error"))["code"] == "forbidden"


async def by_ticket(room: Room, mode: str) -> Viewer:
    ticket = new_secret().hex()
    room.hub.tickets.issue(room.key.caller, room.terminal_id, mode, ticket)
    offers = (PROTOCOL, TICKET + ticket)
    return Viewer(await room.site.connect(room.path, ("Origin", room.site.origin), offers=offers))


@pytest.mark.parametrize("mode", ["operator", "observer"])
async def test_a_ticket_says_what_its_holder_may_do(room, mode):
    viewer = await by_ticket(room, mode)
    await viewer.say(START)
    await room.watched()
    assert (await viewer.hear("hello"))["mode"] == mode


async def test_a_ticket_is_for_what_it_was_issued_for(room):
    for has, wants in (("observer", "operator"), ("operator", "observer")):
        viewer = await by_ticket(room, has)
        await viewer.say({**START, "mode": wants})
        assert (await viewer.closed())[0] == 4400
