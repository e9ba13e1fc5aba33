"""Who speaks next: answers, then what people wait for at a keyboard, then all else in turn."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cmdop_appliance.agent.answers import ANSWERS, Answers
from cmdop_appliance.agent.command import Command, Phase
from cmdop_appliance.agent.outbox import ECHO_BYTES, QUEUE_MESSAGES, Outbox, Shown
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.frames import Data, Output, Screen
from cmdop_appliance.protocol.limits import OUTPUT_BYTES, SCREEN_BYTES
from cmdop_appliance.protocol.messages import FEATURES, Heartbeat, Started
from cmdop_appliance.protocol.terminals import (
    Size,
    TerminalDone,
    TerminalGap,
    TerminalTaken,
    TerminalWaiting,
    TerminalWatched,
)

ECHO = Screen(1, 0, b"x" * ECHO_BYTES)
BULK = Screen(2, 0, b"x" * (ECHO_BYTES + 1))
TERMINAL, SESSION, WRITER = new_id("term"), new_id("session"), "0f" * 16


@pytest.fixture
async def outbox():
    outbox = Outbox()
    outbox.open(FEATURES)
    return outbox


def writing(path: Path, pieces: int) -> Command:
    """A command that has written so many frames of output."""
    path.write_bytes(bytes(pieces * OUTPUT_BYTES))
    command = Command(new_id("cmd"), None)
    command.outflow.open(path, path.with_suffix(".err"))
    command.outflow.resume(0, 0)
    command.phase = Phase.RUNNING
    command.next()  # that it has started
    return command


async def all_of(outbox: Outbox, count: int) -> list[object]:
    return [await outbox.next() for _ in range(count)]


async def test_an_echo_stands_behind_answers_and_before_all_that_is_large(
    outbox, nursery, tmp_path
):
    outbox.look_at(writing(tmp_path / "out", 1))
    await outbox.send(Data(1, 0, b"d"))
    for item in (BULK, ECHO):
        nursery.start_soon(outbox.show, item)
        await wait_all_tasks_blocked()
    await outbox.say(Heartbeat())
    said = await all_of(outbox, 5)
    assert said[:2] == [Heartbeat(), ECHO]
    assert {type(item) for item in said[2:]} == {Screen, Output, Data}


@pytest.mark.parametrize(
    "item",
    [
        TerminalWatched(watch=1, offset=0, end=0, size=Size()),
        TerminalGap(watch=1, offset=5),
        TerminalDone(watch=1, end=5),
    ],
    ids=lambda item: type(item).__name__,
)
async def test_what_is_short_goes_as_an_echo(outbox, nursery, item: Shown):
    nursery.start_soon(outbox.show, BULK)
    await wait_all_tasks_blocked()
    nursery.start_soon(outbox.show, item)
    await wait_all_tasks_blocked()
    assert await all_of(outbox, 2) == [item, BULK]


async def test_screens_output_and_files_take_turns(outbox, nursery, tmp_path):
    outbox.look_at(writing(tmp_path / "out", 2))

    async def show() -> None:
        for offset in range(3):
            await outbox.show(Screen(1, offset, b"x" * SCREEN_BYTES))

    async def send() -> None:
        for offset in range(3):
            await outbox.send(Data(1, offset, b"d"))

    nursery.start_soon(show)
    nursery.start_soon(send)
    said = []
    for _ in range(8):
        await wait_all_tasks_blocked()
        said.append(type(await outbox.next()))
    for turn in (said[:3], said[3:6]):
        assert set(turn) == {Screen, Output, Data}
    assert set(said[6:]) == {Screen, Data}


async def test_every_reader_has_one_piece_waiting_and_they_take_turns(outbox, nursery):
    async def show(watch: int) -> None:
        for offset in range(3):
            await outbox.show(Screen(watch, offset, BULK.data))

    for watch in range(3):
        nursery.start_soon(show, watch)
    said = []
    for _ in range(9):
        await wait_all_tasks_blocked()
        said.append(await outbox.next())
    for turn in (said[:3], said[3:6], said[6:]):
        assert {item.watch for item in turn} == {0, 1, 2}


async def test_what_a_reader_left_behind_is_not_said(outbox, nursery):
    for item in (ECHO, BULK):
        with trio.CancelScope() as scope:
            scope.cancel()
            await outbox.show(item)
    await outbox.say(Heartbeat())
    assert await outbox.next() == Heartbeat()
    assert outbox.next_nowait() is None


async def test_a_connection_that_ends_lets_go_of_readers_and_says_nothing_later(outbox, nursery):
    done = []

    async def show(item: Shown) -> None:
        await outbox.show(item)
        done.append(item)

    for item in (ECHO, BULK):
        nursery.start_soon(show, item)
    await wait_all_tasks_blocked()
    outbox.shut()
    await outbox.show(ECHO)  # nobody is there
    await wait_all_tasks_blocked()
    assert set(map(id, done)) == {id(ECHO), id(BULK)}
    outbox.open(FEATURES)
    assert outbox.next_nowait() is None


async def test_output_that_has_to_be_caught_up_with_holds_up_no_screen(outbox, nursery, tmp_path):
    nursery.start_soon(outbox.show, BULK)
    await outbox.next()  # now it is the turn of output
    command = writing(tmp_path / "out", 8)
    command.outflow.resume(8 * OUTPUT_BYTES, 0)  # which an earlier agent has sent
    outbox.look_at(command)
    nursery.start_soon(outbox.show, BULK)
    await wait_all_tasks_blocked()
    assert outbox.next_nowait() is BULK
    assert outbox.next_nowait() is None


# ── answers that nobody waits for ────────────────────────────────────────────────────────────


@pytest.fixture
async def answers(outbox, nursery):
    answers = Answers(outbox)
    nursery.start_soon(answers.run)
    return answers


async def fill(outbox: Outbox) -> Callable[[], None]:
    """Leave no room for answers; what is given makes it."""
    for number in range(QUEUE_MESSAGES):
        await outbox.say(Started(id=new_id("cmd"), started_ms=number))

    def drain() -> None:
        for _ in range(QUEUE_MESSAGES):
            outbox.next_nowait()

    return drain


async def test_of_answers_of_one_kind_about_one_thing_the_newest_is_said(outbox, answers):
    drain = await fill(outbox)
    answers.say(TerminalWaiting(id=SESSION, on=True), SESSION)
    await wait_all_tasks_blocked()  # this one is on its way
    for offset in (1, 2, 3):
        answers.say(TerminalTaken(id=TERMINAL, writer=WRITER, offset=offset), TERMINAL, WRITER)
        answers.say(TerminalWaiting(id=SESSION, on=offset == 3), SESSION)
    drain()
    assert [await outbox.next() for _ in range(3)] == [
        TerminalWaiting(id=SESSION, on=True),
        TerminalTaken(id=TERMINAL, writer=WRITER, offset=3),
        TerminalWaiting(id=SESSION, on=True),
    ]


async def test_who_asks_waits_while_too_many_answers_do(outbox, answers, nursery):
    drain = await fill(outbox)
    for number in range(ANSWERS + 1):  # one of them is on its way
        await answers.wait_room()
        answers.say(TerminalTaken(id=TERMINAL, writer=WRITER, offset=number), str(number))
        await wait_all_tasks_blocked()
    waited = trio.Event()

    async def ask() -> None:
        await answers.wait_room()
        waited.set()

    nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    assert not waited.is_set()
    drain()
    await waited.wait()


async def test_a_connection_that_ends_lets_go_of_who_waits_for_room(outbox, answers):
    await fill(outbox)
    for number in range(ANSWERS + 1):
        answers.say(TerminalTaken(id=TERMINAL, writer=WRITER, offset=number), str(number))
    outbox.shut()
    await answers.wait_room()
    await wait_all_tasks_blocked()
    answers.say(TerminalWaiting(id=SESSION, on=True), SESSION)  # to nobody
    outbox.open(FEATURES)
    await wait_all_tasks_blocked()
    assert outbox.next_nowait() is None
