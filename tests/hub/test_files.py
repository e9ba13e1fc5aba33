"""Files for callers: who may ask a machine, and what they get back.

The agent is scripted: it answers what a test wants it to.
"""

from dataclasses import replace
from functools import partial

import pytest
import trio
from msgspec.structs import replace as replace_fields

from cmdop_appliance.errors import (
    FileExists,
    FileNotFound,
    Forbidden,
    IdempotencyConflict,
    MachineNotFound,
    SessionNotActive,
    StorageFull,
    Unavailable,
)
from cmdop_appliance.hub.files import shown
from cmdop_appliance.protocol.files import Delete, Entries, Exist, Existing, Found, Write
from cmdop_appliance.protocol.limits import MESSAGE_BYTES
from cmdop_appliance.protocol.messages import FileAnswer, FileCall
from cmdop_appliance.store import clients
from tests.hub.scripted_files import (
    ENTRIES,
    FOUND,
    LIST,
    MAKING,
    MKDIR,
    READ,
    WRITTEN,
    answering,
    recorded,
)
from tests.support import records
from tests.support.full_disk import fill
from tests.support.live_hub import BOUND, CALLER, Link, LiveHub
from tests.support.records import once

LONG_FOUND = replace_fields(FOUND, path=b"/long" * 800 + b"/new")


async def observe(live: LiveHub, link: Link) -> None:
    """The caller becomes one who may only look."""
    client = records.client(link.session_id, CALLER.key_id, mode="observer")
    await live.hub.store.run(clients.attach, client)


# ── who may ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("call", [Delete(path=b"/f"), *MAKING, Write(path=b"/f")])
async def test_an_observer_changes_nothing(live, link, machine_id, call):
    await observe(live, link)
    files = live.hub.files
    asked = (
        files.write(CALLER, machine_id, call, b"")
        if isinstance(call, Write)
        else files.ask(CALLER, machine_id, call, Found)
    )
    with trio.fail_after(BOUND), pytest.raises(Forbidden, match="observer"):
        await asked
    await link.heartbeat()  # nothing was said to the machine before
    assert await recorded(live) == []


async def test_an_observer_lists_and_reads(live, link, machine_id):
    await observe(live, link)
    async with answering(link, ENTRIES, "file_not_found"):
        await live.hub.files.ask(CALLER, machine_id, LIST, Entries)
        with pytest.raises(FileNotFound):
            await live.hub.files.read(CALLER, machine_id, READ)
    assert await recorded(live) == [("file.read", machine_id, {"path": "/f"})]


@pytest.mark.parametrize("call", [LIST, MKDIR])
async def test_a_machine_out_of_reach_is_not_there(live, link, machine_id, call):
    for caller in (replace(CALLER, workspace_id="ws_other"), replace(CALLER, tags=("web",))):
        with pytest.raises(MachineNotFound):
            await live.hub.files.ask(caller, machine_id, call, Found)
    await link.heartbeat()
    assert await recorded(live) == []


@pytest.mark.parametrize("call", [LIST, MKDIR])
async def test_a_machine_that_is_not_connected_is_not_asked(live, link, machine_id, call):
    await link.cut()
    with pytest.raises(SessionNotActive) as caught:
        await live.hub.files.ask(CALLER, machine_id, call, Found)
    assert caught.value.details == {"current_status": "GRACE_PERIOD", "machine_id": machine_id}
    assert await recorded(live) == []


async def test_whoever_loses_the_machine_is_told_that_nobody_knows(live, link, machine_id):
    async with trio.open_nursery() as nursery:

        async def cut() -> None:
            await link.expect(FileCall)
            await link.cut()

        nursery.start_soon(cut)
        with pytest.raises(Unavailable, match="may be done, or not") as caught:
            await live.hub.files.ask(CALLER, machine_id, MKDIR, Found)
    assert "stat" in caught.value.hint


# ── asked again ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("call", MAKING, ids=["move", "copy", "mkdir"])
async def test_the_same_request_again_is_answered_without_the_machine(live, link, machine_id, call):
    async with answering(link, FOUND):
        first = await live.hub.files.ask(CALLER, machine_id, call, Found, once=once())
    await link.cut()
    again = await live.hub.files.ask(CALLER, machine_id, call, Found, once=once(salt=b"2" * 32))
    assert first == again == FOUND
    assert len(await recorded(live)) == 1
    elsewhere = replace(CALLER, tags=("web",))
    with pytest.raises(MachineNotFound):
        await live.hub.files.ask(elsewhere, machine_id, call, Found, once=once())


async def test_another_request_with_the_same_key_is_not_asked(live, link, machine_id):
    async with answering(link, FOUND):
        await live.hub.files.ask(CALLER, machine_id, MKDIR, Found, once=once())
    other = once(request_hash=b"x" * 32)
    with pytest.raises(IdempotencyConflict):
        await live.hub.files.ask(CALLER, machine_id, MKDIR, Found, once=other)
    await link.heartbeat()
    assert len(await recorded(live)) == 1


async def test_a_request_that_failed_leaves_its_key_free(live, link, machine_id):
    async with answering(link, "file_exists", FOUND) as heard:
        with pytest.raises(FileExists):
            await live.hub.files.ask(CALLER, machine_id, MKDIR, Found, once=once())
        other = once(request_hash=b"x" * 32)
        await live.hub.files.ask(CALLER, machine_id, MKDIR, Found, once=other)
    assert heard == [MKDIR, MKDIR]


async def test_of_two_requests_at_once_with_one_key_each_gets_its_own_answer(
    live, link, machine_id
):
    async with trio.open_nursery() as nursery:
        for text in (b"x", b"y"):
            same_key = once(request_hash=text * 32)
            ask = partial(live.hub.files.ask, once=same_key)
            nursery.start_soon(ask, CALLER, machine_id, MKDIR, Found)
        calls = [await link.expect(FileCall) for _ in range(2)]
        for call in calls:
            await link.say(FileAnswer(id=call.id, answer=FOUND))


# ── a hub whose disk is full ─────────────────────────────────────────────────────────────────────


async def test_whoever_hears_that_the_hub_is_full_hears_that_the_file_is_in_place(
    live, link, machine_id
):
    await fill(live.hub.store, live.hub.clock.now_ms())
    written = replace_fields(WRITTEN, path=b"/" + b"f" * 4000)
    with pytest.raises(StorageFull, match="is in place, whole; only its event") as caught:
        await live.hub.files.uploaded(CALLER, machine_id, written)
    assert "the hub's disk is full" in caught.value.message
    assert "free some space" in caught.value.hint


async def test_what_was_done_is_answered_though_the_hub_cannot_note_that(live, link, machine_id):
    async with trio.open_nursery() as nursery:

        async def play() -> None:
            call = await link.expect(FileCall)
            await fill(live.hub.store, live.hub.clock.now_ms())
            await link.say(FileAnswer(id=call.id, answer=LONG_FOUND))

        nursery.start_soon(play)
        ask = partial(live.hub.files.ask, CALLER, machine_id, MKDIR, Found)
        assert await ask(once=once()) == LONG_FOUND


# ── which exist ──────────────────────────────────────────────────────────────────────────────────


async def test_more_paths_than_fit_one_message_are_asked_for_in_parts(live, link, machine_id):
    paths = [b"/%04d" % number + b"\xff" * 1400 for number in range(1000)]
    heard: list[int] = []

    async def play() -> None:
        while sum(heard) < len(paths):
            call = await link.expect(FileCall)
            assert isinstance(call.call, Exist)
            heard.append(len(call.call.paths))
            exist = [int(path[1:5]) % 2 == 0 for path in call.call.paths]
            await link.say(FileAnswer(id=call.id, answer=Existing(exist=exist)))

    assert sum(map(len, paths)) > MESSAGE_BYTES
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play)
        found = await live.hub.files.exist(CALLER, machine_id, paths)
    assert len(heard) > 1
    assert found == [number % 2 == 0 for number in range(1000)]


async def test_who_asks_for_no_path_learns_nothing_of_a_machine_out_of_reach(
    live, link, machine_id
):
    async with answering(link, Existing(exist=[])):
        assert await live.hub.files.exist(CALLER, machine_id, []) == []
    with pytest.raises(MachineNotFound):
        await live.hub.files.exist(CALLER, "mach_x", [])


# ── names ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "text", "encoded"),
    [
        (b"/plain", "/plain", None),
        ("/\u00fc\ufffd".encode(), "/\u00fc\ufffd", None),
        (b"/a\xffb", "/a\ufffdb", "L2H/Yg=="),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd", "7aCA"),
        (b"", "", None),
    ],
)
def test_a_name_is_text_and_base64_where_that_is_not_all(path, text, encoded):
    assert shown(path) == (text, encoded)
