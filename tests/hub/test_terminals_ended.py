"""Terminals that come to their end, and how large they are.

The agent is scripted: it answers what a test wants it to.
"""

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.errors import TerminalEnded, TerminalNotStarted
from cmdop_appliance.protocol.terminals import (
    Size,
    TerminalEnd,
    TerminalForget,
    TerminalOpen,
    TerminalResize,
)
from cmdop_appliance.protocol.terminals import TerminalEnded as Ended
from tests.hub.scripted_terminals import CODING, NAMED
from tests.support import records
from tests.support.live_hub import CALLER


async def test_an_end_is_asked_of_the_machine_and_recorded_once(
    live, box, autojump_clock: MockClock
):
    terminal = await box.opened(CODING)
    for _ in range(2):
        ending = await live.hub.terminals.end(CALLER, terminal.id)
        assert (ending.status, ending.is_ending) == ("running", True)
        assert await box.link.expect(TerminalEnd) == TerminalEnd(id=terminal.id)
    await trio.sleep(1)  # or it would have ended before it could
    said = {"started_ms": records.NOW, "duration_ms": 5, "signal": "SIGHUP"}
    for _ in range(2):  # the second time it had not heard that it may forget
        await box.link.say(Ended(id=terminal.id, end="cancelled", **said))
        assert await box.link.expect(TerminalForget) == TerminalForget(ids=[terminal.id])
    row = await box.row(terminal.id)
    assert (row.end, row.signal, row.ended_ms) == ("cancelled", "SIGHUP", row.started_ms + 5)
    with pytest.raises(TerminalEnded):
        await live.hub.terminals.end(CALLER, terminal.id)
    assert [each.action for each in await box.recorded()] == [
        "coding_session.opened",
        "terminal.ended",
    ]
    assert await box.told() == ["coding_session.started", "coding_session.ended"]


async def test_an_end_is_told_to_a_machine_that_was_away(live, box):
    terminal = await box.opened()
    await box.link.cut()
    await live.hub.terminals.end(CALLER, terminal.id)
    await box.again((terminal.id, "running"))
    assert await box.link.expect(TerminalEnd) == TerminalEnd(id=terminal.id)


async def test_a_terminal_that_is_ended_while_it_opens_is_ended_once_it_has(live, box):
    async with trio.open_nursery() as nursery:
        failures = []

        async def ask() -> None:
            with pytest.raises(TerminalNotStarted, match="ended before it was open") as caught:
                await box.ask()
            failures.append(caught.value)

        nursery.start_soon(ask)
        asked = await box.link.expect(TerminalOpen)
        await live.hub.terminals.end(CALLER, asked.id)
        await box.link.expect(TerminalEnd)
        await box.ended(asked.id, end="cancelled")
    assert failures[0].details == {"reason": "cancelled", "terminal_id": asked.id}


async def test_a_size_is_told_to_the_machine_also_to_one_that_was_away(live, box):
    terminal = await box.opened()
    await live.hub.terminals.resize(terminal, Size(120, 40))
    resize = await box.link.expect(TerminalResize)
    assert resize == TerminalResize(id=terminal.id, size=Size(120, 40))
    await box.link.cut()
    await live.hub.terminals.resize(terminal, Size(100, 30))
    row = await box.row(terminal.id)
    assert (row.cols, row.rows) == (100, 30)
    await box.again((terminal.id, "running"))
    assert (await box.link.expect(TerminalResize)).size == Size(100, 30)


async def test_a_machine_that_is_removed_takes_its_terminals_with_it(live, box):
    running = await box.opened(CODING)
    async with trio.open_nursery() as nursery:

        async def remove() -> None:
            await box.link.expect(TerminalOpen)
            await live.hub.commands.remove_machine(CALLER, box.machine_id)

        nursery.start_soon(remove)
        with pytest.raises(TerminalNotStarted, match="was removed") as caught:
            await box.ask(NAMED)
    for terminal_id in (running.id, caught.value.details["terminal_id"]):
        row = await box.until(terminal_id, status="ended")
        assert (row.end, row.code) == ("lost", "machine_removed")
    assert await box.told() == ["coding_session.started", "coding_session.ended"]
