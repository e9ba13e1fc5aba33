"""Files for callers: who may ask a machine, what is recorded of it, and what they get back.

The agent is scripted: it answers what a test wants it to.
"""

import hashlib
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio
from msgspec.structs import replace as replace_fields
from trio.testing import MockClock, wait_all_tasks_blocked

from cmdop_appliance.errors import (
    FileExists,
    FileNotFound,
    FileTooLarge,
    Forbidden,
    IdempotencyConflict,
    MachineNotFound,
    NoSpace,
    PathNotAllowed,
    SessionNotActive,
    StorageFull,
    Unavailable,
)
from cmdop_appliance.hub import audit as hub_audit
from cmdop_appliance.hub.files import CONTENT_BYTES, shown
from cmdop_appliance.model import AuditEntry
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.files import (
    AnyAnswer,
    AnyCall,
    Copy,
    Delete,
    Done,
    Entries,
    Entry,
    Exist,
    Existing,
    Found,
    List,
    Mkdir,
    Move,
    Opened,
    Placed,
    Read,
    Stat,
    Write,
    Written,
)
from cmdop_appliance.protocol.frames import Data
from cmdop_appliance.protocol.limits import DATA_BYTES, MESSAGE_BYTES
from cmdop_appliance.protocol.messages import (
    FileAnswer,
    FileCall,
    FileEnd,
    FileFailed,
    FileStop,
)
from cmdop_appliance.store import audit, clients, events
from cmdop_appliance.store.listing import Paging
from tests.support import records
from tests.support.full_disk import fill
from tests.support.live_hub import BOUND, CALLER, Link, LiveHub
from tests.support.records import REACH, WORKSPACE, once

SMALL = 64 * 1024
DIGEST = hashlib.sha256(b"content").digest()
LIST, READ = List(path=b"", limit=20), Read(path=b"/f")
FOUND = Found(
    path=b"/new",
    entry=Entry(
        name=b"new", type="file", size=1, mode=0o644, owner="root", group="root", modified_ms=0
    ),
    version="v",
)
LONG_FOUND = replace_fields(FOUND, path=b"/long" * 800 + b"/new")
ENTRIES = Entries(path=b"/", entries=[], total=0)
WRITTEN = Written(path=b"/f\xff", size=7, sha256=DIGEST, created=True)
MKDIR = Mkdir(path=b"/new")
MAKING = [Move(source=b"/f", destination=b"/new"), Copy(source=b"/f", destination=b"/new"), MKDIR]


@pytest.fixture
async def link(agent):
    return await agent.join()


@pytest.fixture
async def machine_id(link, agent):
    return (await agent.machine()).id


def opened(size: int, end: int) -> Opened:
    return Opened(path=b"/f", size=size, first=0, end=end, version="v", modified_ms=1)


@asynccontextmanager
async def answering(link: Link, *answers: AnyAnswer | str):
    """The machine gives these answers, a text being a failure; what it was asked is in the list."""
    heard: list[AnyCall] = []

    async def play() -> None:
        for answer in answers:
            call = await link.expect(FileCall)
            heard.append(call.call)
            if isinstance(answer, str):
                await link.say(FileFailed(id=call.id, code=answer, message="no"))
            else:
                await link.say(FileAnswer(id=call.id, answer=answer))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(play)
        yield heard


async def recorded(live: LiveHub) -> list[tuple[str, str, dict[str, object]]]:
    """(action, target, details) of what was asked of files, oldest first."""
    return [(each.action, each.target, each.details) for each in await entries(live, outcome="ok")]


async def refused(live: LiveHub) -> list[dict[str, object]]:
    """The details of what came to nothing, oldest first."""
    found = await entries(live, outcome="refused")
    assert {each.action for each in found} <= {"file.refused"}
    return [each.details for each in found]


async def entries(live: LiveHub, outcome: str) -> list[AuditEntry]:
    """What the audit log tells of files, oldest first."""
    paging = Paging(limit=100, sort="created_at")
    page = await live.hub.store.run(audit.page, WORKSPACE, paging, outcome=outcome)
    return [each for each in page.items if each.action.startswith("file.")]


async def happened(live: LiveHub) -> list[dict[str, object]]:
    """What was told of uploads."""
    told = await live.hub.store.run(events.after, REACH, 0, 1000)
    return [each.data for each in told if each.type == "file.uploaded"]


async def observe(live: LiveHub, link: Link) -> None:
    """The caller becomes one who may only look."""
    client = records.client(link.session_id, CALLER.key_id, mode="observer")
    await live.hub.store.run(clients.attach, client)


# ── who may, and what is recorded ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "answer", "entry"),
    [
        (Delete(path=b"/f"), Done(), ("file.delete", {"path": "/f"})),
        (MAKING[0], FOUND, ("file.move", {"source": "/f", "destination": "/new"})),
        (MAKING[1], FOUND, ("file.copy", {"source": "/f", "destination": "/new"})),
        (MKDIR, FOUND, ("file.mkdir", {"path": "/new"})),
    ],
    ids=["delete", "move", "copy", "mkdir"],
)
async def test_what_changes_something_is_recorded_with_its_paths(
    live, link, machine_id, call, answer, entry
):
    async with answering(link, answer) as heard:
        got = await live.hub.files.ask(CALLER, machine_id, call, type(answer))
    assert (got, heard) == (answer, [call])
    assert await recorded(live) == [(entry[0], machine_id, entry[1])]


@pytest.mark.parametrize(
    ("call", "answer", "entry"),
    [
        (
            Delete(path=b"/f\xff", recursive=True),
            Done(),
            ("file.delete", {"path": "/f\ufffd", "path_base64": "L2b/", "recursive": True}),
        ),
        (
            Move(source=b"/f", destination=b"/\xff", overwrite=True),
            FOUND,
            (
                "file.move",
                {
                    "source": "/f",
                    "destination": "/\ufffd",
                    "destination_base64": "L/8=",
                    "overwrite": True,
                },
            ),
        ),
        (
            Mkdir(path=b"/new", parents=True, mode=0o1777),
            FOUND,
            ("file.mkdir", {"path": "/new", "parents": True, "mode": "1777"}),
        ),
        (
            Stat(path=b"/f", checksum=True),
            FOUND,
            ("file.read", {"path": "/f", "checksum": True}),
        ),
    ],
    ids=["delete", "move", "mkdir", "checksum"],
)
async def test_all_that_is_asked_is_recorded_and_what_is_so_by_default_is_not(
    live, link, machine_id, call, answer, entry
):
    async with answering(link, answer):
        await live.hub.files.ask(CALLER, machine_id, call, type(answer))
    assert await recorded(live) == [(entry[0], machine_id, entry[1])]
    assert await refused(live) == []


async def test_how_a_file_is_to_be_written_is_recorded(live, link, machine_id):
    call = Write(
        path=b"/f",
        upload="u-1",
        offset=7,
        mode=0o600,
        owner="root",
        group="0",
        create_parents=True,
        overwrite=False,
        if_match=DIGEST,
    )
    async with live.hub.files.open(CALLER, machine_id, call):
        pass
    asked = {
        "path": "/f",
        "upload_id": "u-1",
        "offset": 7,
        "mode": "0600",
        "owner": "root",
        "group": "0",
        "create_parents": True,
        "overwrite": False,
        "if_match": DIGEST.hex(),
    }
    assert await recorded(live) == [("file.write", machine_id, asked)]


async def test_which_part_is_read_is_recorded_without_the_version_that_a_caller_may_make_up(
    live, link, machine_id
):
    call = Read(path=b"/f", offset=-7, length=3, if_version="a key, pasted for a version")
    async with live.hub.files.open(CALLER, machine_id, call):
        pass
    asked = {"path": "/f", "offset": -7, "length": 3}
    assert await recorded(live) == [("file.read", machine_id, asked)]


@pytest.mark.parametrize(
    "call",
    [Delete(path=b"/f\xff"), *MAKING, Stat(path=b"/f", checksum=True)],
    ids=lambda call: type(call).__name__,
)
async def test_what_the_machine_refuses_is_recorded_with_its_reason(live, link, machine_id, call):
    async with answering(link, "path_not_allowed"):
        with pytest.raises(PathNotAllowed):
            await live.hub.files.ask(CALLER, machine_id, call, Found)
    ((action, _, asked),) = await recorded(live)
    assert await refused(live) == [{**asked, "asked": action, "why": "path_not_allowed"}]


async def test_a_content_that_the_machine_refuses_is_recorded_with_its_reason(
    live, link, machine_id
):
    files = live.hub.files
    async with answering(link, "file_not_found", "no_space"):
        with pytest.raises(FileNotFound):
            await files.read(CALLER, machine_id, Read(path=b"/f", length=10))
        with pytest.raises(NoSpace):
            await files.write(CALLER, machine_id, Write(path=b"/f"), b"x")
    assert await refused(live) == [
        {"path": "/f", "length": 10, "asked": "file.read", "why": "file_not_found"},
        {"path": "/f", "asked": "file.write", "why": "no_space"},
    ]


async def test_what_is_lost_with_the_link_is_recorded(live, link, machine_id):
    async def write() -> None:
        with pytest.raises(Unavailable):
            await live.hub.files.write(CALLER, machine_id, Write(path=b"/f"), b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await link.expect(FileCall)
        await link.cut()
    assert await refused(live) == [{"path": "/f", "asked": "file.write", "why": "unavailable"}]


async def test_whoever_looks_around_in_vain_is_not_recorded(live, link, machine_id):
    async with answering(link, "file_not_found"):
        with pytest.raises(FileNotFound):
            await live.hub.files.ask(CALLER, machine_id, Stat(path=b"/f"), Found)
    assert await refused(live) == []


async def test_refusals_of_machines_cannot_fill_the_log(live, link, machine_id, monkeypatch):
    monkeypatch.setattr(hub_audit, "_ENTRIES", 2)
    async with answering(link, *["file_not_found"] * 4):
        for _ in range(4):
            with pytest.raises(FileNotFound):
                await live.hub.files.ask(CALLER, machine_id, Delete(path=b"/f"), Done)
    assert len(await recorded(live)) == 4
    assert len(await refused(live)) == 2


async def test_it_is_recorded_before_the_machine_hears_of_it(live, link, machine_id):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.hub.files.ask, CALLER, machine_id, MKDIR, Found)
        call = await link.expect(FileCall)
        assert [action for action, _, _ in await recorded(live)] == ["file.mkdir"]
        await link.say(FileAnswer(id=call.id, answer=FOUND))


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (LIST, ENTRIES),
        (Stat(path=b"/f"), FOUND),
        (Exist(paths=[b"/f"]), Existing(exist=[True])),
    ],
    ids=["list", "stat", "exist"],
)
async def test_looking_around_is_not_recorded(live, link, machine_id, call, answer):
    async with answering(link, answer):
        assert await live.hub.files.ask(CALLER, machine_id, call, type(answer)) == answer
    assert await recorded(live) == []


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


# ── contents ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_small_file_is_read_in_one_call(live, link, machine_id):
    async with trio.open_nursery() as nursery:

        async def play() -> None:
            call = await link.expect(FileCall)
            assert call.call == Read(path=b"/f", length=SMALL)
            await link.say(FileAnswer(id=call.id, answer=opened(7, 7)))
            await link.say(Data(call.id, 0, b"con"))
            await link.say(Data(call.id, 3, b"tent"))
            await link.say(FileEnd(id=call.id, end=7, sha256=DIGEST))

        nursery.start_soon(play)
        content = await live.hub.files.read(CALLER, machine_id, READ)
    assert (content.data, content.size, content.sha256) == (b"content", 7, DIGEST)


@pytest.mark.parametrize("size", [CONTENT_BYTES + 1, 2**63 - 1])
async def test_what_is_too_large_for_an_answer_is_not_sent(live, link, machine_id, size):
    async with answering(link, opened(size, SMALL)):
        with trio.fail_after(BOUND), pytest.raises(FileTooLarge) as caught:
            await live.hub.files.read(CALLER, machine_id, READ)
    assert str(size) in caught.value.message
    assert "download" in caught.value.hint
    await link.expect(FileStop)


async def test_a_part_of_what_is_too_large_is_read(live, link, machine_id):
    async with trio.open_nursery() as nursery:

        async def play() -> None:
            call = await link.expect(FileCall)
            assert call.call == Read(path=b"/f", offset=0, length=7)
            await link.say(FileAnswer(id=call.id, answer=opened(2**40, 7)))
            await link.say(Data(call.id, 0, b"content"))
            await link.say(FileEnd(id=call.id, end=7))

        nursery.start_soon(play)
        part = Read(path=b"/f", length=7)
        content = await live.hub.files.read(CALLER, machine_id, part)
    assert (content.data, content.size, content.sha256) == (b"content", 2**40, None)


async def test_a_file_that_grows_too_large_in_between_is_refused(live, link, machine_id):
    async with trio.open_nursery() as nursery:

        async def play() -> None:
            for size, end in ((SMALL + 1, SMALL), (CONTENT_BYTES + 1, CONTENT_BYTES + 1)):
                call = await link.expect(FileCall)
                await link.say(FileAnswer(id=call.id, answer=opened(size, end)))
                await link.expect(FileStop)

        nursery.start_soon(play)
        with pytest.raises(FileTooLarge):
            await live.hub.files.read(CALLER, machine_id, READ)


async def test_four_large_files_are_read_at_a_time(live, link, machine_id):
    large = SMALL + 1
    begun: list[int] = []
    done: list[bytes] = []

    async def read() -> None:
        content = await live.hub.files.read(CALLER, machine_id, READ)
        done.append(content.data)

    async def play() -> None:
        while True:
            match await link.hear():
                case FileCall(id=number, call=Read(length=None)):
                    begun.append(number)
                case FileCall(id=number):
                    await link.say(FileAnswer(id=number, answer=opened(large, SMALL)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(play)
        for _ in range(6):
            nursery.start_soon(read)
        await wait_all_tasks_blocked(0.01)
        for number in range(6):
            assert len(begun) == min(6, number + 4)
            call = begun[number]
            await link.say(FileAnswer(id=call, answer=opened(large, large)))
            await link.say(Data(call, 0, b"x" * large))
            await link.say(FileEnd(id=call, end=large, sha256=DIGEST))
            with trio.fail_after(BOUND):
                while len(done) <= number or len(begun) < min(6, number + 5):
                    await wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert done == [b"x" * large] * 6


async def test_a_machine_that_hangs_does_not_keep_its_turn(
    live, link, machine_id, autojump_clock: MockClock
):
    async def play() -> None:
        little = await link.expect(FileCall)
        await link.say(FileAnswer(id=little.id, answer=opened(SMALL + 1, SMALL)))
        await link.expect(FileStop)
        await link.expect(FileCall)  # and says nothing more

    async with trio.open_nursery() as nursery:
        nursery.start_soon(play)
        with pytest.raises(Unavailable, match="within 60 s"):
            await live.hub.files.read(CALLER, machine_id, READ)
    assert live.hub.files._large_reads.borrowed_tokens == 0


async def test_a_content_arrives_with_its_checksum_and_is_told_of(live, link, machine_id):
    call = Write(path=b"/f", mode=0o600)
    async with trio.open_nursery() as nursery:

        async def play() -> None:
            asked = await link.expect(FileCall)
            assert asked.call == call
            entry = ("file.write", machine_id, {"path": "/f", "mode": "0600"})
            assert await recorded(live) == [entry]
            await link.say(FileAnswer(id=asked.id, answer=Placed(path=b"/f", offset=0)))
            data = await link.hear()
            assert isinstance(data, Data)
            assert bytes(data.data) == b"content"
            end = await link.expect(FileEnd)
            assert (end.end, end.sha256) == (7, DIGEST)
            assert await happened(live) == []
            await link.say(FileAnswer(id=asked.id, answer=WRITTEN))

        nursery.start_soon(play)
        assert await live.hub.files.write(CALLER, machine_id, call, b"content") == WRITTEN
    (told,) = await happened(live)
    assert told == {
        "machine_id": machine_id,
        "path": "/f\ufffd",
        "path_base64": "L2b/",
        "size": 7,
        "sha256": DIGEST.hex(),
        "created": True,
        "user_email": CALLER.email,
    }


async def test_a_content_that_the_machine_refuses_is_not_told_of(live, link, machine_id):
    async with answering(link, "no_space"):
        with pytest.raises(Exception, match="no"):
            await live.hub.files.write(CALLER, machine_id, Write(path=b"/f"), b"x" * DATA_BYTES)
    assert await happened(live) == []


@pytest.mark.parametrize(
    "part", [READ, Read(path=b"/f", length=7)], ids=["the whole", "what was asked for"]
)
async def test_a_machine_that_sends_more_than_is_asked_for_is_not_heard(
    live, link, machine_id, part
):
    async with answering(link, opened(2**62, 2**62)):
        with trio.fail_after(BOUND), pytest.raises(Unavailable):
            await live.hub.files.read(CALLER, machine_id, part)
    assert (await link.closed())[0] == Close.PROTOCOL


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
