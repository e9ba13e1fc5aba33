"""Who reads a terminal: each byte once, from where it was asked, and no more than was granted."""

import errno

from cmdop_appliance.agent import watches
from cmdop_appliance.agent.keeper.segments import SEGMENT_BYTES
from cmdop_appliance.agent.keeper_client import Keeper
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.frames import Screen
from cmdop_appliance.protocol.limits import WATCH_BYTES
from cmdop_appliance.protocol.terminals import (
    Size,
    TerminalCredit,
    TerminalEnd,
    TerminalEnded,
    TerminalForget,
    TerminalTaken,
    TerminalUnwatch,
    TerminalWatch,
    TerminalWatched,
)
from tests.agent.dispatched import sh
from tests.agent.typed import Reader, ask_for, open_terminal, told, type_in, watch

# Writes lines of ten bytes that tell where they stand, as a terminal shows them; nine in a file.
COUNTED = "stty -opost -echo; seq -f %09.0f 0 {lines}"


def counted(first: int, end: int) -> bytes:
    """What `COUNTED` writes from one line to another."""
    return b"".join(b"%09d\n" % number for number in range(first, end))


async def test_output_is_read_from_its_start_from_any_byte_and_from_its_end(peer):
    terminal = await open_terminal(peer, *sh(COUNTED.format(lines=99)))
    await told(peer, TerminalEnded, terminal)
    whole = counted(0, 100)
    for offset, at in [(None, 0), (0, 0), (7, 7), (999, 999), (1000, 1000)]:
        reader = await watch(peer, terminal, 1, offset)
        watched = TerminalWatched(watch=1, offset=at, end=1000, size=Size())
        assert reader.watched == watched
        assert await reader.read_all() == whole[at:]


async def test_a_reader_that_has_more_than_there_is_begins_at_the_end(peer):
    terminal = await open_terminal(peer, *sh("printf abc"))
    await told(peer, TerminalEnded, terminal)
    reader = await watch(peer, terminal, offset=2**62)
    assert reader.watched.offset == reader.watched.end == 3
    assert await reader.read_all() == b""


async def test_output_is_seen_as_it_comes_by_every_reader(peer):
    terminal = await open_terminal(peer, *sh("stty -echo; echo ready; cat"))
    readers = [await watch(peer, terminal, number) for number in range(3)]
    for reader in readers:
        await reader.read_until(b"ready\r\n")
    for line in range(5):
        await type_in(peer, terminal, b"%d\r" % line, 2 * line)
        for reader in readers:
            await reader.read_until(b"%d\r\n" % line)
    await type_in(peer, terminal, b"\4", 10)
    for reader in readers:
        assert await reader.read_all() == b"ready\r\n0\r\n1\r\n2\r\n3\r\n4\r\n"


async def test_a_reader_that_grants_no_more_is_sent_no_more(peer):
    terminal = await open_terminal(peer, *sh(COUNTED.format(lines=29_999)))
    await told(peer, TerminalEnded, terminal)
    reader = await watch(peer, terminal)
    while reader.at < WATCH_BYTES:
        await reader.read(grants=False)
    assert reader.at == WATCH_BYTES
    other = await watch(peer, terminal, 2)
    await other.read_all()
    assert sum(len(item.data) for item in peer.heard if is_piece(item, 1)) == WATCH_BYTES
    await peer.send(TerminalCredit(watch=1, offset=WATCH_BYTES + 5))
    await reader.read(grants=False)
    assert reader.at == WATCH_BYTES + 5
    await peer.send(TerminalCredit(watch=1, offset=10))  # what was granted stays granted
    await reader.grant()
    assert await reader.read_all() == counted(0, 30_000)


async def test_a_reader_that_falls_behind_finds_a_gap_and_then_what_is_kept(peer):
    terminal = await open_terminal(peer, *sh(f"read x; {COUNTED.format(lines=249_999)}"))
    reader = await watch(peer, terminal)
    await type_in(peer, terminal, b"\r")
    while reader.at < WATCH_BYTES:
        await reader.read(grants=False)
    await told(peer, TerminalEnded, terminal)
    await peer.send(TerminalCredit(watch=1, offset=reader.at + 5))
    await reader.read(grants=False)
    await (await watch(peer, terminal, 2)).read_all()
    assert reader.gaps == 1  # behind which it was granted nothing
    assert sum(len(item.data) for item in peer.heard if is_piece(item, 1)) == WATCH_BYTES
    await reader.grant()
    await reader.read_all()
    assert reader.gaps == 1
    assert len(reader.data) >= SEGMENT_BYTES
    lines = reader.data.split(b"\n")[1:]
    assert lines[-2:] == [b"000249999", b""]
    assert [int(line) for line in lines[:-1]] == list(range(int(lines[0]), 250_000))


async def test_a_reader_that_left_is_sent_no_more_and_its_number_is_free(peer):
    terminal = await open_terminal(peer, *sh("stty -echo; echo ready; cat"))
    reader = await watch(peer, terminal)
    await reader.read_until(b"ready\r\n")
    await peer.send(TerminalUnwatch(watch=1))
    await type_in(peer, terminal, b"more\r")
    again = await watch(peer, terminal, 1, reader.at)
    await again.read_until(b"more\r\n")
    assert again.data == b"more\r\n"


async def test_a_reader_who_comes_while_the_terminal_opens_reads_it(peer):
    terminal = await ask_for(peer, *sh("echo ready"))
    reader = await watch(peer, terminal)
    assert await reader.read_all() == b"ready\r\n"


async def test_who_reads_what_is_forgotten_meanwhile_finds_the_end(peer):
    terminal = await open_terminal(peer, *sh(COUNTED.format(lines=29_999)))
    await told(peer, TerminalEnded, terminal)
    reader = await watch(peer, terminal)
    while reader.at < WATCH_BYTES:
        await reader.read(grants=False)
    await peer.send(TerminalForget(ids=[terminal]))
    await ask_for(peer, "true", again=terminal)
    await peer.expect(TerminalEnded, terminal)
    await reader.grant()
    await reader.read_all()
    assert reader.at == 300_000


async def test_output_that_is_not_there_though_it_was_told_keeps_nobody_busy(peer, state_dir):
    terminal = await open_terminal(peer, *sh("echo ready; cat"))
    reader = await watch(peer, terminal)
    await reader.read_until(b"ready\r\n")
    (kept,) = (state_dir / "keeper" / "output").glob("*.pty/*")
    kept.unlink()
    await type_in(peer, terminal, b"more\r")
    await told(peer, TerminalTaken, terminal)
    await peer.send(TerminalEnd(id=terminal))
    await reader.read_all()
    assert (reader.gaps, reader.data) == (1, b"")


async def test_only_who_comes_to_look_is_somebody_for_whom_a_terminal_waits(peer, monkeypatch):
    touched = []

    async def touch(_keeper: Keeper, terminal_id: str) -> None:
        touched.append(terminal_id)

    monkeypatch.setattr(Keeper, "touch", touch)
    recorded, looked_at = [await open_terminal(peer, "cat") for _ in range(2)]
    await peer.send(TerminalWatch(watch=1, id=recorded, quiet=True))
    await watch(peer, looked_at, 2)
    assert touched == [looked_at]


# ── hubs that lie ────────────────────────────────────────────────────────────────────────────


async def test_an_unknown_terminal_has_nothing_to_read(peer):
    reader = await watch(peer, new_id("term"), 1, 5)
    assert (reader.is_done, reader.watched) == (True, None)


async def test_what_is_said_of_unknown_readers_is_ignored(peer):
    await peer.send(TerminalCredit(watch=9, offset=5))
    await peer.send(TerminalUnwatch(watch=9))
    await open_terminal(peer, "cat")


async def test_credit_without_end_is_credit_for_what_there_is(peer):
    terminal = await open_terminal(peer, *sh(COUNTED.format(lines=29_999)))
    reader = Reader(peer, 1)
    await peer.send(TerminalWatch(watch=1, id=terminal))
    await peer.send(TerminalCredit(watch=1, offset=2**63 - 1))
    while not reader.is_done:
        await reader.read(grants=False)
    assert reader.data == counted(0, 30_000)


async def test_a_number_that_two_readers_have_ends_the_connection(peer):
    terminal = await open_terminal(peer, "cat")
    await watch(peer, terminal)
    await peer.send(TerminalWatch(watch=1, id=terminal))
    assert await peer.expect_end() == Close.PROTOCOL


async def test_more_readers_than_there_may_be_end_the_connection(peer, monkeypatch):
    monkeypatch.setattr(watches, "WATCHES", 2)
    terminal = await open_terminal(peer, "cat")
    for number in range(2):
        await watch(peer, terminal, number)
    await peer.send(TerminalUnwatch(watch=0))
    await watch(peer, terminal, 3)
    await peer.send(TerminalWatch(watch=4, id=terminal))
    assert await peer.expect_end() == Close.PROTOCOL


async def test_readers_of_an_earlier_connection_are_sent_nothing_on_the_next(peer, hub):
    terminal = await open_terminal(peer, *sh("echo ready; cat"))
    reader = await watch(peer, terminal)
    await reader.read_until(b"ready")
    await peer.cut()
    peer = await hub.accept()
    await type_in(peer, terminal, b"more\r")
    reader = await watch(peer, terminal, 2)
    await reader.read_until(b"more")
    assert not [item for item in peer.heard if is_piece(item, 1)]
    await watch(peer, terminal, 1)


async def test_a_screen_that_cannot_be_read_just_now_is_read_later(peer, monkeypatch, caplog):
    terminal = await open_terminal(peer, *sh("echo ready"))
    await told(peer, TerminalEnded, terminal)
    read_screen, refused = watches.read_screen, []

    def refusing(*args: object) -> tuple[int, bytes]:
        if not refused:
            refused.append(args)
            raise OSError(errno.EMFILE, "Too many open files")
        return read_screen(*args)

    monkeypatch.setattr(watches, "read_screen", refusing)
    monkeypatch.setattr(watches, "_RETRY_S", 0.01)
    assert await (await watch(peer, terminal)).read_all() == b"ready\r\n"
    assert "cannot read a screen" in caplog.text


def is_piece(item: object, number: int) -> bool:
    return isinstance(item, Screen) and item.watch == number
