"""What an agent remembers of its hub's audit log: ever more, and never less."""

import logging

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.agent.memory import FILE, KEEP_S, AuditMemory
from cmdop_appliance.protocol.messages import AuditHead, Heartbeatack, Ready
from tests.support.agents import clean_state_dir, eventually, running_agent
from tests.support.hub_peer import Peer, running_hub

HUB = b"\1" * 32


def head(seq: int, digest: bytes = b"h") -> AuditHead:
    return AuditHead(seq=seq, hash=digest * 32)


@pytest.fixture
def state_dir(tmp_path):
    with clean_state_dir(tmp_path / "agent") as path:
        path.mkdir()
        yield path


async def kept(state_dir, expected: AuditHead, clock: MockClock, minutes: float) -> None:
    """Return once the disk holds this, however long that takes, and let so much time pass."""
    while AuditMemory(state_dir, HUB).recall() != expected:
        clock.jump(minutes * KEEP_S)
        await trio.lowlevel.checkpoint()


def test_it_remembers_the_newest(state_dir):
    memory = AuditMemory(state_dir, HUB)
    assert memory.recall() is None
    for seq in (3, 3, 7):
        memory.hear(head(seq))
        assert memory.recall() == head(seq)


@pytest.mark.parametrize("told", [head(1), head(6), head(7, b"x")], ids=str)
def test_a_log_that_was_cut_does_not_make_it_forget_by_growing(state_dir, told, caplog):
    memory = AuditMemory(state_dir, HUB)
    memory.hear(head(7))
    memory.hear(told)
    memory.hear(head(8, b"x"))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [(record.remembered, record.told) for record in warnings] == [(7, told.seq)]
    assert memory.recall() == head(7)  # told now: from here on it may go on with the hub
    memory.hear(head(9, b"x"))
    assert memory.recall() == head(9, b"x")


async def test_the_disk_hears_of_it_once_a_minute(state_dir, mock_clock: MockClock):
    memory = AuditMemory(state_dir, HUB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.keep)
        memory.hear(head(1))
        await kept(state_dir, head(1), mock_clock, 0)
        for seq in (2, 3):
            memory.hear(head(seq))
            await trio.testing.wait_all_tasks_blocked()
            while trio.to_thread.current_default_thread_limiter().borrowed_tokens:
                await trio.lowlevel.checkpoint()  # what is being written is written
        assert AuditMemory(state_dir, HUB).recall() == head(1)
        await kept(state_dir, head(3), mock_clock, 1)
        nursery.cancel_scope.cancel()
    assert (state_dir / FILE).stat().st_mode & 0o777 == 0o600


async def test_what_another_hub_told_is_not_told_to_this_one(state_dir):
    AuditMemory(state_dir, b"\2" * 32)._write(head(9))
    assert AuditMemory(state_dir, HUB).recall() is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"7",
        b'{"hub": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"}',
        b'{"hub": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE", "seq": 0, "hash": "00"}',
        b'{"hub": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE", "seq": "1", "hash": 1}',
    ],
)
def test_a_damaged_file_is_no_memory_and_stops_nobody(state_dir, content, caplog):
    (state_dir / FILE).write_bytes(content)
    assert AuditMemory(state_dir, HUB).recall() is None
    assert "what the hub told is lost" in caplog.messages


async def test_a_directory_that_takes_nothing_costs_only_the_memory_on_disk(state_dir, caplog):
    (state_dir / f".{FILE}.new").mkdir()  # in the way, for root too
    memory = AuditMemory(state_dir, HUB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.keep)
        memory.hear(head(1))
        await eventually(lambda: "what the hub told is not kept" in caplog.messages, "a warning")
        nursery.cancel_scope.cancel()
    assert memory.recall() == head(1)


def said_ready(peer: Peer) -> AuditHead | None:
    """What the agent remembered when it was ready."""
    ready = peer.heard[-1]
    assert isinstance(ready, Ready)
    return ready.audit_head


async def test_an_agent_tells_what_it_remembers_on_each_connection_and_after_a_restart(tmp_path):
    with clean_state_dir(tmp_path / "agent") as state_dir:
        async with running_hub() as hub:
            async with running_agent(state_dir, hub):
                peer = await hub.accept()
                assert said_ready(peer) is None
                await peer.send(Heartbeatack(audit_head=head(5)))
                await eventually((state_dir / FILE).exists, "the disk holds it")
                await peer.cut()
                peer = await hub.accept()
                assert said_ready(peer) == head(5)
            async with running_agent(state_dir, hub, join=False):
                peer = await hub.accept()
                assert said_ready(peer) == head(5)
