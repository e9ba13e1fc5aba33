"""How the websocket of a terminal ends before its terminal does: a real hub, a real socket."""

import json
import struct
from typing import Any

import pytest
import trio
import trio.testing

from cmdop_appliance.api import conversation
from cmdop_appliance.hub import bus, connection, terminal_link
from cmdop_appliance.protocol.limits import INPUT_BYTES, SCREEN_BYTES, TERMINALS, WATCH_BYTES
from cmdop_appliance.protocol.terminals import (
    TerminalCredit,
    TerminalUnwatch,
)
from cmdop_appliance.store import machines
from tests.api.terminal_room import START, Room, Viewer, at_a_terminal
from tests.api.terminal_site import BOUND
from tests.support.records import REACH


@pytest.fixture
async def room(tmp_path):
    async with at_a_terminal(tmp_path) as made:
        yield made


# ── who is thrown out ────────────────────────────────────────────────────────────────────────────

FIRST: dict[str, tuple[Any, str]] = {
    "keys": (b"\0" * 9, "start"),
    "nothing": ("", ""),
    "no JSON": ("{", ""),
    "no object": ("[]", ""),
    "no type": ("{}", "type"),
    "another type": ('{"type":"root"}', "type"),
    "a resize": ('{"type":"resize","cols":1,"rows":1}', "start"),
    "deep": ('{"type":"start","x":' + "[" * 5000, ""),
    "a lone surrogate": ('{"type":"start","writer":"\\ud800"}', ""),
    "an offset before all": ({**START, "offset": -1}, "offset"),
    "an offset beyond all": ({**START, "offset": 2**60}, "offset"),
    "no width": ({**START, "cols": None}, "cols"),
    "no height": ({**START, "rows": None}, "rows"),
    "no cells": ({**START, "cols": 0}, "cols"),
    "too many cells": ({**START, "rows": 2001}, "rows"),
    "no writer": ({**START, "writer": None}, "writer"),
    "a short writer": ({**START, "writer": "abc"}, "writer"),
    "a mode that is none": ({**START, "mode": "root"}, "mode"),
}
THEN: dict[str, Any] = {
    "a second start": START,
    "an offset and no key": b"\0" * 8,
    "nothing at all": b"",
    "an offset beyond all": b"\x80" + b"\0" * 8,
    "no JSON": "]",
    "no type": "{}",
    "no size": {"type": "resize", "cols": 80},
    "no cells": {"type": "resize", "cols": 0, "rows": 24},
}


def raw(message: Any) -> str | bytes:
    return json.dumps(message) if isinstance(message, dict) else message


async def test_who_begins_otherwise_is_told_what_was_wrong(room):
    for name, (message, named) in FIRST.items():
        viewer = Viewer(await room.site.connect(room.path, room.key.header))
        await viewer.socket.send_message(raw(message))
        code, reason = await viewer.closed()
        assert (code, named in reason) == (4400, True), (name, reason)
        assert viewer.said[-1]["code"] == "protocol_error"


async def test_who_goes_on_otherwise_is_told_what_was_wrong(room):
    for name, message in THEN.items():
        viewer = await room.sit()
        await room.watched()
        await viewer.hear("hello")
        await viewer.socket.send_message(raw(message))
        assert (await viewer.closed())[0] == 4400, name


async def test_more_than_a_message_may_have_ends_it(room):
    viewer = await room.sit()
    await room.watched()
    await viewer.hear("hello")
    await viewer.type(0, b"x" * (INPUT_BYTES + 1))
    assert (await viewer.closed())[0] == 1009  # RFC 6455: message too big


async def test_who_never_begins_is_not_waited_for(room, monkeypatch):
    monkeypatch.setattr(conversation, "HANDSHAKE_S", 0.05)
    viewer = Viewer(await room.site.connect(room.path, room.key.header))
    assert (await viewer.closed())[0] == 4400


@pytest.mark.parametrize("begun", [True, False])
async def test_a_key_that_is_revoked_is_cut_off_at_once(room, monkeypatch, begun):
    monkeypatch.setattr(bus, "SWEEP_S", 10 * BOUND)
    key = await room.site.key()
    viewer = Viewer(await room.site.connect(room.path, key.header))
    if begun:
        await viewer.say(START)
        await room.watched()
        await viewer.hear("hello")
    await room.site.revoke(key)
    assert (await viewer.closed())[0] == 4401


async def test_a_terminal_that_goes_out_of_reach_is_seen_no_more(room, monkeypatch):
    monkeypatch.setattr(bus, "SWEEP_S", 0.05)
    viewer = await room.sit(await room.site.key(tags=["prod"]))
    await room.watched()
    await viewer.hear("hello")
    await room.hub.store.run(machines.edit, REACH, room.machine.machine_id, name=None, tags=[])
    assert (await viewer.closed())[0] == 4404


async def test_a_machine_that_is_removed_takes_its_viewers_along(room, monkeypatch):
    monkeypatch.setattr(bus, "SWEEP_S", 10 * BOUND)
    viewer = await room.sit()
    await room.watched()
    await viewer.hear("hello")
    await room.hub.commands.remove_machine(room.key.caller, room.machine.machine_id)
    code, _ = await viewer.closed()
    assert code in (1000, 4404)
    if code == 1000:
        assert viewer.said[-1]["end"] == "lost"


@pytest.mark.parametrize("begun", [True, False])
async def test_a_hub_that_stops_says_that_it_will_be_back(room, begun):
    viewer = Viewer(await room.site.connect(room.path, room.key.header))
    if begun:
        await viewer.say(START)
        await room.watched()
        await viewer.hear("hello")
    room.hub.bus.stop()
    assert (await viewer.closed())[0] == 1001


async def test_one_more_than_can_look_is_told_so(room, monkeypatch):
    monkeypatch.setattr(terminal_link, "WATCHES", TERMINALS + 1)
    await room.sit()
    await room.watched()
    one_more = await room.sit(writer="f" * 32)
    assert (await one_more.closed())[0] == 4429
    assert one_more.said[-1]["code"] == "too_many_terminals"


async def test_what_is_being_sent_comes_to_its_end_before_the_last_words(room, monkeypatch):
    begun, go_on = trio.Event(), trio.Event()

    async def send(self, frame):
        if isinstance(frame, bytes) and not go_on.is_set():
            begun.set()
            await go_on.wait()
        await send_at_once(self, frame)

    send_at_once = connection.Connection.send
    monkeypatch.setattr(connection.Connection, "send", send)
    key = await room.site.key()
    viewer = await room.sit(key)
    asked = await room.watched()
    await room.write(asked, 0, b"one")
    await begun.wait()
    await room.write(asked, 3, b"not to be begun")
    await room.site.revoke(key)
    await trio.testing.wait_all_tasks_blocked(0.01)
    go_on.set()
    assert await viewer.see() == (3, b"one")
    assert (await viewer.closed())[0] == 4401
    assert viewer.said[-1]["type"] == "error"


@pytest.mark.parametrize("kind", [str, bytes])
async def test_a_key_that_is_revoked_waits_for_nobody_who_takes_nothing(room, monkeypatch, kind):
    async def send(self, frame):
        if isinstance(frame, kind) and b"hello" not in (frame if kind is bytes else frame.encode()):
            await trio.sleep_forever()
        await send_at_once(self, frame)

    send_at_once = connection.Connection.send
    monkeypatch.setattr(connection.Connection, "send", send)
    key = await room.site.key()
    viewer = await room.sit(key)
    asked = await room.watched()
    await viewer.hear("hello")
    await room.write(asked, 0, b"one")
    await room.site.revoke(key)
    assert (await viewer.closed())[0] == 4401


# ── who takes nothing ────────────────────────────────────────────────────────────────────────────


async def stalled(room: Room, parts: int = 0) -> trio.SocketStream:
    """A client that begins and types, and then reads nothing and answers no ping."""
    sock = trio.socket.socket()
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await sock.connect(("127.0.0.1", room.site.port))
    stream = trio.SocketStream(sock)
    await stream.send_all(room.site.request(room.path, room.key.header))
    while not (await stream.receive_some()).endswith(b"\r\n\r\n"):
        pass
    text = json.dumps(START).encode()
    assert len(text) < 126
    await stream.send_all(bytes([0x81, 0x80 | len(text)]) + b"\0\0\0\0" + text)
    for part in range(parts):
        keys = struct.pack(">Q", part * INPUT_BYTES) + b"x" * INPUT_BYTES
        head = struct.pack(">BBH", 0x82, 0x80 | 126, len(keys))
        await stream.send_all(head + b"\0\0\0\0" + keys)
    return stream


async def test_a_client_at_a_silent_terminal_hears_that_the_hub_is_there(room, monkeypatch):
    monkeypatch.setattr(conversation, "HEARTBEAT_S", 0.02)
    viewer = await room.sit()
    await room.watched()
    await viewer.hear("hello")
    for _ in range(2):
        assert await viewer.hear("beat") == {"type": "beat"}


@pytest.mark.parametrize("parts", [0, 9])  # 9: more than is ever under way
async def test_a_client_that_answers_no_ping_does_not_keep_its_seat(room, monkeypatch, parts):
    monkeypatch.setattr(conversation, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(conversation, "SILENT_S", 0.5)
    other = await room.sit(writer="f" * 32)
    await room.watched()

    async def stall() -> None:
        async with await stalled(room, parts):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stall)  # beside it, for who does not listen answers no ping, either
        for operators in (2, 1):
            while (await other.hear("viewers"))["operators"] != operators:
                pass
        nursery.cancel_scope.cancel()


async def test_a_client_that_takes_nothing_is_cut_off(room, monkeypatch):
    monkeypatch.setattr(connection, "SEND_S", 0.1)
    piece, at = b"x" * SCREEN_BYTES, 0
    async with await stalled(room):
        asked = await room.watched()
        limit = WATCH_BYTES
        while True:
            while at + len(piece) <= limit:
                await room.write(asked, at, piece)
                at += len(piece)
            match await room.machine.link.hear():
                case TerminalCredit(watch=asked.watch, offset=offset):
                    limit = offset
                case TerminalUnwatch(watch=asked.watch):
                    break
