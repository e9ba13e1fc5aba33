"""Recordings of terminals: made by the hub, whatever dies, within bounds, and read as asciicast."""

import json
import os
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cmdop_appliance.config import TerminalsConfig
from cmdop_appliance.errors import RecordingNotFound
from cmdop_appliance.hub import terminal_link
from cmdop_appliance.hub.recordings import Recordings
from cmdop_appliance.hub.terminals import Opening
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Terminal
from cmdop_appliance.protocol.limits import SCREEN_BYTES, TERMINALS
from cmdop_appliance.protocol.terminals import (
    Shell,
    Size,
    TerminalCredit,
    TerminalDone,
    TerminalEnded,
    TerminalGap,
    TerminalOpen,
    TerminalOpened,
    TerminalResize,
    TerminalUnwatch,
    TerminalWatch,
)
from cmdop_appliance.store import terminals as rows
from cmdop_appliance.store.listing import Paging
from tests.hub.scripted_terminals import CODING, PtyMachine, joined
from tests.hub.viewers import Gallery, Met
from tests.support import records
from tests.support.live_hub import BOUND
from tests.support.records import NOW, REACH

RECORDED = Opening(kind="terminal", what=Shell(), is_recorded=True)
GENEROUS = TerminalsConfig()


class Studio:
    """A hub's recordings of the terminals of one machine."""

    def __init__(self, box: PtyMachine, folder) -> None:
        self.box, self.folder = box, folder
        self.recordings: Recordings

    @asynccontextmanager
    async def recording(self, config: TerminalsConfig = GENEROUS):
        hub = self.box.live.hub
        self.recordings = Recordings(hub.store, hub.bus, hub.clock, self.folder, config)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.recordings.run)
            yield
            nursery.cancel_scope.cancel()
        assert self.recordings._bytes == self.bytes

    async def opened(self, opening: Opening = RECORDED, met: Met | None = None) -> Gallery:
        """A terminal whose output is recorded from here on."""
        made: list[Terminal] = []

        async def ask() -> None:
            made.append((await self.box.ask(opening)).terminal)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            gallery = Gallery(self.box, records.terminal(self.box.machine_id))
            asked = await gallery.heard(TerminalOpen)
            await self.box.link.say(TerminalOpened(id=asked.id, started_ms=NOW))
        gallery.terminal = made[0]
        watch = await gallery.meet(**(met or {}))
        assert (watch.id, watch.offset) == (gallery.terminal.id, None)
        return gallery

    def path(self, gallery: Gallery) -> Path:
        return self.folder / f"{gallery.terminal.id}.rec"

    @property
    def bytes(self) -> int:
        """Of all recordings."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    async def settle(self) -> None:
        """All that the machine has said is recorded."""
        await self.box.link.heartbeat()
        await wait_all_tasks_blocked()

    async def end(self, gallery: Gallery, end: int) -> None:
        await self.box.link.say(TerminalDone(watch=gallery.watch, end=end))
        await self.box.link.say(TerminalEnded(id=gallery.terminal.id, end="exited", exit_code=0))
        with trio.fail_after(BOUND):
            while gallery.terminal.id in self.recordings._begun:
                await wait_all_tasks_blocked()

    async def cast(self, terminal: Terminal) -> tuple[dict, list[list]]:
        """The head of a recording and its events, without their times."""
        found = [each async for each in await self.recordings.asciicast(terminal)]
        head, *lines = [json.loads(line) for line in b"".join(found).splitlines()]
        times = [line[0] for line in lines]
        assert times == sorted(times)
        return head, [line[1:] for line in lines]


@pytest.fixture
async def studio(box, tmp_path):
    return Studio(box, tmp_path / "recordings")


async def test_a_recording_is_an_asciicast(studio):
    async with studio.recording():
        gallery = await studio.opened(replace(RECORDED, size=Size(100, 30)))
        await gallery.write(0, b"$ ls\r\n\x1b[31mred")
        await studio.settle()
        await studio.box.live.hub.terminals.resize(gallery.terminal, Size(90, 20))
        await gallery.heard(TerminalResize)
        await gallery.write(14, b"wide")
        await studio.settle()
        head, events = await studio.cast(gallery.terminal)
    assert {name: head[name] for name in ("version", "width", "height", "title")} == {
        "version": 2,
        "width": 100,
        "height": 30,
        "title": gallery.terminal.name,
    }
    assert events == [
        ["r", "100x30"],
        ["o", "$ ls\r\n\x1b[31mred"],
        ["r", "90x20"],
        ["o", "wide"],
    ]


async def test_characters_that_were_written_in_pieces_are_whole(studio):
    async with studio.recording():
        gallery = await studio.opened()
        text = "€ 日本 \x1b[1m".encode()
        for at in range(len(text)):
            await gallery.write(at, text[at : at + 1])
            await studio.settle()
        _, events = await studio.cast(gallery.terminal)
    assert "".join(text for kind, text in events if kind == "o") == "€ 日本 \x1b[1m"


async def test_a_recording_reaches_nobodys_clipboard(studio):
    parts = [b"a\x1b[c\x05\xff", b"\x1b]52;c;", *[b"A" * SCREEN_BYTES] * 4, b"\x07b"]
    async with studio.recording():
        gallery, at = await studio.opened(), 0
        for part in parts:
            await gallery.write(at, part)
            await wait_all_tasks_blocked()
            at += len(part)
        _, events = await studio.cast(gallery.terminal)
    assert events[1:] == [["o", "a\ufffd"], ["o", "b"]]


async def test_what_is_lost_is_marked(studio):
    async with studio.recording():
        gallery = await studio.opened(met={"at": 7})
        await gallery.write(7, b"a\x1b]0;")
        await studio.box.link.say(TerminalGap(watch=gallery.watch, offset=20))
        await gallery.write(20, b"b")
        await studio.settle()
        _, events = await studio.cast(gallery.terminal)
    marks = [["m", "7 bytes not recorded"], ["o", "a"], ["m", "8 bytes not recorded"], ["o", "b"]]
    assert events[1:] == marks


async def test_a_recording_goes_on_at_the_right_byte_after_the_hub(studio):
    async with studio.recording():
        gallery = await studio.opened()
        await gallery.write(0, b"before\xe2")
        await studio.settle()
    await gallery.heard(TerminalUnwatch)
    async with studio.recording():
        assert (await gallery.meet()).offset == 7
        await gallery.write(7, b"\x82\xacbehind")
        await studio.settle()
        _, events = await studio.cast(gallery.terminal)
    assert events[1:] == [["o", "before"], ["o", "€behind"]]


async def test_a_recording_goes_on_when_its_machine_is_back(studio):
    async with studio.recording():
        gallery = await studio.opened()
        await gallery.write(0, b"before")
        await studio.settle()
        await studio.box.again((gallery.terminal.id, "running"))
        assert (await gallery.meet()).offset == 6
        await gallery.write(6, b"behind")
        await studio.settle()
        _, events = await studio.cast(gallery.terminal)
    assert events[1:] == [["o", "before"], ["o", "behind"]]


async def test_an_end_that_its_machine_could_not_show_any_more_is_marked(studio):
    async with studio.recording():
        gallery = await studio.opened()
        await gallery.write(0, b"before")
        await studio.settle()
        await studio.box.again((gallery.terminal.id, "ended"))
        gallery.watch = (await gallery.heard(TerminalWatch)).watch
        await studio.end(gallery, 0)
        _, events = await studio.cast(gallery.terminal)
    assert events[1:] == [["o", "before"], ["m", "some bytes not recorded"]]


async def test_only_what_is_to_be_recorded_is(studio):
    async with studio.recording():
        terminal = await studio.box.opened()
        await studio.settle()  # nobody reads it
        with pytest.raises(RecordingNotFound):
            await studio.recordings.asciicast(terminal)
    assert list(studio.folder.iterdir()) == []


async def test_each_terminal_is_read_once(studio):
    async with studio.recording():
        await studio.opened()
        await studio.opened()
        await studio.settle()


async def test_where_there_is_no_room_for_a_reader_it_is_looked_for_again(studio, monkeypatch):
    async with studio.recording():
        monkeypatch.setattr(terminal_link, "WATCHES", 0)
        terminal = await studio.box.opened(RECORDED)
        await wait_all_tasks_blocked()
        monkeypatch.undo()
        studio.box.live.hub.bus.publish(rows.RECORDED, None)
        assert (await studio.box.link.expect(TerminalWatch)).id == terminal.id


async def test_viewers_keep_out_no_recorder(studio, monkeypatch):
    monkeypatch.setattr(terminal_link, "WATCHES", TERMINALS)  # and no room for a viewer
    async with studio.recording():
        terminal = await studio.box.opened(RECORDED)
        assert (await studio.box.link.expect(TerminalWatch)).id == terminal.id


async def test_a_recording_gives_credit(studio):
    async with studio.recording():
        gallery = await studio.opened()
        for at in range(0, 4 * SCREEN_BYTES, SCREEN_BYTES):
            await gallery.write(at, b"x" * SCREEN_BYTES)
        assert (await gallery.heard(TerminalCredit)).offset > 0


# ── within bounds ────────────────────────────────────────────────────────────────────────────────


async def test_of_one_terminal_so_much_is_recorded(studio):
    async with studio.recording(TerminalsConfig(recording_bytes=1024)):
        gallery = await studio.opened()
        for at in range(0, 2000, 100):
            await gallery.write(at, b"x" * 100)
            with trio.fail_after(BOUND):
                await wait_all_tasks_blocked()
        await gallery.heard(TerminalUnwatch)  # it reads no more
        _, events = await studio.cast(gallery.terminal)
        assert events[-1] == ["m", "no more was recorded"]
        assert studio.path(gallery).stat().st_size <= 1024
        other = await studio.opened()
        assert studio.recordings._begun == {other.terminal.id}  # it does not begin again
    async with studio.recording():  # nor with the next hub
        await gallery.heard(TerminalWatch)
        await studio.settle()
        await studio.end(gallery, 2000)
        await studio.opened()
        assert not studio.recordings._done  # it may make room now


async def test_those_that_ended_first_make_room(studio):
    most = TerminalsConfig(recordings_bytes=1024 * 1024)
    async with studio.recording(most):
        galleries = []
        for _ in range(4):
            gallery = await studio.opened()
            galleries.append(gallery)
            for at in range(0, 12 * SCREEN_BYTES, SCREEN_BYTES):
                await gallery.write(at, b"x" * SCREEN_BYTES)
                await wait_all_tasks_blocked()
            await studio.end(gallery, 12 * SCREEN_BYTES)
            assert studio.bytes <= 1024 * 1024
        with pytest.raises(RecordingNotFound):
            await studio.recordings.asciicast(galleries[0].terminal)
        _, events = await studio.cast(galleries[3].terminal)
        assert len(events) == 13


async def test_where_all_run_and_there_is_no_room_no_more_is_recorded(studio):
    most = TerminalsConfig(recordings_bytes=1024 * 1024)
    async with studio.recording(most):
        first, second = await studio.opened(), await studio.opened()
        for at in range(0, 17 * SCREEN_BYTES, SCREEN_BYTES):
            for gallery in (first, second):
                await gallery.write(at, b"x" * SCREEN_BYTES)
                await wait_all_tasks_blocked()
        for gallery in (first, second):
            assert (await studio.cast(gallery.terminal))[1][-1] == ["m", "no more was recorded"]
        assert studio.bytes <= 1024 * 1024


async def test_what_goes_on_after_the_hub_is_not_dropped_for_others(studio):
    async with studio.recording():
        gallery = await studio.opened()
        await gallery.write(0, b"x" * 1000)
        await studio.settle()
    async with studio.recording(TerminalsConfig(recordings_bytes=1024 * 1024)):
        await gallery.meet()
        for at in range(1000, 1000 + 40 * SCREEN_BYTES, SCREEN_BYTES):
            await gallery.write(at, b"x" * SCREEN_BYTES)
            await wait_all_tasks_blocked()
        assert studio.path(gallery).exists()


async def test_older_recordings_count_after_a_restart_too(studio):
    studio.folder.mkdir()
    kept = []
    for number in range(3):
        over = {"status": "ended", "ended_ms": NOW, "end": "exited"}
        terminal = records.terminal(studio.box.machine_id, name=f"old-{number}", **over)
        await studio.box.live.hub.store.run(rows.insert, terminal)
        path = studio.folder / f"{terminal.id}.rec"
        path.write_bytes(b"x" * 400_000)
        os.utime(path, (number, number))
        kept.append(terminal.id)
    async with studio.recording(TerminalsConfig(recordings_bytes=1_300_000)):
        gallery = await studio.opened()
        for at in range(0, 4 * SCREEN_BYTES, SCREEN_BYTES):
            await gallery.write(at, b"x" * SCREEN_BYTES)
            await wait_all_tasks_blocked()
    names = {path.stem for path in studio.folder.iterdir()}
    assert names == {*kept[1:], gallery.terminal.id}


async def test_what_no_terminal_is_known_of_is_dropped(studio):
    async with studio.recording():
        gallery = await studio.opened()
        await gallery.write(0, b"x")
        await studio.settle()
        await studio.end(gallery, 1)
        assert studio.path(gallery).exists()
        await studio.box.live.hub.store.run(lambda tx: tx.execute("DELETE FROM terminal"))
        await studio.opened()
        await wait_all_tasks_blocked()
        assert not studio.path(gallery).exists()


async def test_a_machine_that_makes_up_sessions_takes_nothing_from_another(studio, monkeypatch):
    monkeypatch.setattr(rows, "KEPT_MOST", 2)
    box = studio.box
    rogue = await joined(box.live)
    async with studio.recording():
        gallery = await studio.opened(replace(CODING, is_recorded=True))
        await gallery.write(0, b"x")
        await studio.settle()
        await studio.end(gallery, 1)
        ended = await box.until(gallery.terminal.id, status="ended")
        told = await box.told()
        for _ in range(4):
            await rogue.again(*((new_id("session"), "running") for _ in range(3)))
            await rogue.settled()
        await studio.opened()  # which has the recordings looked through
        await wait_all_tasks_blocked()
        assert await box.row(gallery.terminal.id) == ended
        assert await box.told() == told
        assert studio.path(gallery).exists()
    page = await box.live.hub.store.run(rows.page, REACH, Paging(), machine_id=rogue.machine_id)
    assert sorted(each.status for each in page.items) == ["ended"] * 2 + ["running"] * 3


async def test_a_full_disk_ends_a_recording_and_nothing_else(studio, monkeypatch, caplog):
    async with studio.recording():
        gallery = await studio.opened()
        await gallery.write(0, b"kept")
        await studio.settle()
        write = os.write
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
        await gallery.write(4, b"lost")
        await gallery.heard(TerminalUnwatch)
        monkeypatch.setattr(os, "write", write)
        assert (await studio.cast(gallery.terminal))[1][1:] == [["o", "kept"]]
        other = await studio.opened()
        assert studio.recordings._begun == {other.terminal.id}  # it is not tried again
    assert "no more is recorded" in caplog.text
    assert "lost" not in caplog.text
