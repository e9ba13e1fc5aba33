"""What the hub says: in order, together what waits together, nothing left behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cmdop_appliance.hub.connection import LinkClosed
from cmdop_appliance.hub.line import Line
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.conversation import Conversation, State, join, split
from cmdop_appliance.protocol.frames import Data, decode_data
from cmdop_appliance.protocol.limits import MESSAGE_BYTES
from cmdop_appliance.protocol.messages import Acknowledge, Heartbeatack


class SlowConnection:
    """Takes a frame only when it is let through."""

    def __init__(self) -> None:
        self.frames: list[list[str]] = []
        self.gate = trio.Event()
        self.gate.set()
        self.busy = trio.Event()
        self.room = trio.Event()
        self.room.set()
        self.closed = False

    async def wait_room(self) -> None:
        await self.room.wait()

    async def send(self, frame: str | bytes) -> None:
        self.busy.set()
        await self.gate.wait()
        if self.closed:
            raise LinkClosed
        if isinstance(frame, bytes):
            self.frames.append([f"data at {decode_data(frame).offset}"])
        else:
            self.frames.append([str(part) for part in split(frame)])


def ready_line() -> tuple[Line, SlowConnection, Conversation]:
    connection, conversation = SlowConnection(), Conversation("hub")
    conversation.state = State.READY
    return Line(connection, conversation), connection, conversation


@asynccontextmanager
async def carried(line: Line) -> AsyncIterator[trio.Nursery]:
    """As a session carries it, until the block ends."""
    async with trio.open_nursery() as nursery:
        with line.carried_by(nursery):
            yield nursery
            nursery.cancel_scope.cancel()


async def test_a_lone_message_leaves_at_once():
    line, connection, _ = ready_line()
    await line.say(Heartbeatack())
    assert connection.frames == [['{"type":"heartbeat_ack"}']]


async def test_what_is_said_while_the_line_is_busy_travels_together_and_in_order():
    line, connection, _ = ready_line()
    connection.gate = trio.Event()
    ids = [new_id("cmd") for _ in range(3)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.say, Heartbeatack())
        await connection.busy.wait()
        for command_id in ids:
            await line.say(Acknowledge(id=command_id))
        connection.gate.set()
    assert [len(frame) for frame in connection.frames] == [1, 3]
    assert [command_id in text for command_id, text in zip(ids, connection.frames[1], strict=True)]


async def test_send_all_returns_only_when_everything_is_under_way():
    line, connection, _ = ready_line()
    connection.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.say, Heartbeatack())
        await connection.busy.wait()
        line.queue(Heartbeatack())
        nursery.start_soon(line.send_all)
        await trio.testing.wait_all_tasks_blocked()
        assert connection.frames == []
        connection.gate.set()
    assert sum(map(len, connection.frames)) == 2


async def test_a_crowded_line_makes_its_speakers_wait():
    line, connection, _ = ready_line()
    connection.gate = trio.Event()
    said = 0

    async def speak() -> None:
        nonlocal said
        for _ in range(1000):
            await line.say(Heartbeatack())
            said += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.say, Heartbeatack())
        await connection.busy.wait()
        nursery.start_soon(speak)
        await trio.testing.wait_all_tasks_blocked()
        assert 0 < said < 1000
        assert line.is_crowded
        connection.gate.set()
    assert sum(map(len, connection.frames)) == 1001


async def test_what_finds_no_company_leaves_alone_after_a_moment(autojump_clock: MockClock):
    line, connection, _ = ready_line()
    async with carried(line) as nursery:
        line.say_later(Heartbeatack())
        assert connection.frames == []
        with trio.fail_after(1):
            await connection.busy.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert connection.frames == [['{"type":"heartbeat_ack"}']]


async def test_nothing_is_said_after_the_last_word():
    line, connection, conversation = ready_line()
    conversation.state = State.OVER
    with pytest.raises(LinkClosed):
        line.queue(Heartbeatack())
    await line.send_all()
    assert connection.frames == []


def test_frames_are_filled_up_to_the_limit_and_not_beyond():
    waiting = ["x" * (MESSAGE_BYTES // 3)] * 7
    frames = []
    while waiting:
        frames.append(join(waiting))
    assert all(len(frame) <= MESSAGE_BYTES for frame in frames)
    assert [len(split(frame)) for frame in frames] == [2, 2, 2, 1]
    assert len(join(["x" * MESSAGE_BYTES])) == MESSAGE_BYTES


async def test_a_message_goes_before_all_data_that_waits():
    line, connection, _ = ready_line()
    connection.gate = trio.Event()
    async with carried(line) as nursery:
        await line.post_data(Data(1, 0, b"x"))
        await connection.busy.wait()
        for offset in (1, 2):
            nursery.start_soon(line.post_data, Data(1, offset, b"x"))
            await wait_all_tasks_blocked()
        await line.say(Heartbeatack())
        connection.gate.set()
        await wait_all_tasks_blocked()
    assert [frame[0] for frame in connection.frames] == [
        "data at 0",
        '{"type":"heartbeat_ack"}',
        "data at 1",
        "data at 2",
    ]


async def test_data_waits_for_room_and_messages_do_not():
    line, connection, _ = ready_line()
    connection.room = trio.Event()
    async with carried(line):
        await line.post_data(Data(1, 0, b"x"))
        await wait_all_tasks_blocked()
        await line.say(Heartbeatack())
        assert connection.frames == [['{"type":"heartbeat_ack"}']]
        connection.room.set()
        await wait_all_tasks_blocked()
    assert connection.frames[1:] == [["data at 0"]]


async def test_no_data_follows_the_end_of_the_conversation():
    line, connection, conversation = ready_line()
    async with carried(line):
        conversation.state = State.OVER
        await line.post_data(Data(1, 0, b"x"))
        await wait_all_tasks_blocked()
    assert not connection.frames


async def test_a_line_that_has_ended_takes_no_data():
    line, _, _ = ready_line()
    async with carried(line):
        await line.post_data(Data(1, 0, b"x"))
        await wait_all_tasks_blocked()
    with pytest.raises(LinkClosed):
        await line.post_data(Data(1, 0, b"x"))


async def test_what_is_posted_leaves_at_once():
    line, connection, _ = ready_line()
    async with carried(line):
        line.post(Heartbeatack())
        await wait_all_tasks_blocked()
        assert connection.frames == [['{"type":"heartbeat_ack"}']]


async def test_whoever_posts_and_goes_leaves_the_line_whole():
    line, connection, _ = ready_line()
    connection.gate = trio.Event()
    async with carried(line):
        with trio.CancelScope() as caller:
            line.post(Heartbeatack())
            await line.post_data(Data(1, 0, b"x"))
            await connection.busy.wait()
            caller.cancel()
            await trio.sleep_forever()
        connection.gate.set()
        await wait_all_tasks_blocked()
    assert {frame[0] for frame in connection.frames} == {"data at 0", '{"type":"heartbeat_ack"}'}
