"""Calls for files on a live link: answers find their callers, and no machine is believed further.

The agent here is scripted: it says what an honest one would, and what a hostile one might.
"""

import hashlib

import pytest
import trio
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from cmdop_appliance.errors import (
    FileIoError,
    FileNotFound,
    FilesNotSupported,
    NoSpace,
    OffsetMismatch,
    SessionNotActive,
    Unavailable,
)
from cmdop_appliance.hub.transfers import FileLink, Transfer, find_link
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.files import (
    AnyCall,
    Delete,
    Done,
    Existing,
    Kept,
    Opened,
    Placed,
    Read,
    Write,
    Written,
)
from cmdop_appliance.protocol.frames import Data
from cmdop_appliance.protocol.limits import DATA_BYTES, FILE_CALLS, TRANSFER_BYTES
from cmdop_appliance.protocol.messages import (
    FileAnswer,
    FileCall,
    FileCredit,
    FileEnd,
    FileFailed,
    FileStop,
    Ready,
)
from tests.support.live_hub import Link, LiveHub, ScriptedAgent, live_hub

KEY = "key_1"
DIGEST = hashlib.sha256(b"content").digest()
DELETE = Delete(path=b"/tmp/\xff")
READ, WRITE = Read(path=b"/f"), Write(path=b"/f")


def opened(first: int = 0, end: int = 7, size: int = 7) -> Opened:
    return Opened(path=b"/f", size=size, first=first, end=end, version="v", modified_ms=1)


WRITTEN = Written(path=b"/f", size=7, sha256=DIGEST, created=True)


@pytest.fixture
async def live(tmp_path):
    async with live_hub(tmp_path) as hub:
        yield hub


async def joined(live: LiveHub) -> tuple[Link, FileLink]:
    agent = ScriptedAgent(live)
    link = await agent.join()
    return link, await find_link(live.hub.bus, (await agent.machine()).id)


async def all_answers(transfer: Transfer) -> None:
    while True:
        await transfer.answer()


async def called(link: Link) -> FileCall:
    return await link.expect(FileCall)


async def test_a_call_reaches_the_machine_and_its_answer_the_caller(live):
    link, files = await joined(live)
    async with files.open(DELETE, KEY) as transfer:
        call = await called(link)
        assert call.call == DELETE
        await link.say(FileAnswer(id=call.id, answer=Done()))
        assert await transfer.answer() == Done()


async def test_a_machine_that_is_not_connected_has_no_files(live):
    agent = ScriptedAgent(live)
    link = await agent.join()
    machine = await agent.machine()
    await link.cut()
    with pytest.raises(SessionNotActive) as caught:
        await find_link(live.hub.bus, machine.id)
    assert caught.value.details == {"current_status": "GRACE_PERIOD", "machine_id": machine.id}


async def test_whoever_asks_while_an_agent_says_what_it_has_waits_for_that(live):
    agent = ScriptedAgent(live)
    await (await agent.join()).cut()
    machine = await agent.machine()
    link = agent.dial()
    await link.prove(await link.greet())
    await link.welcomed()  # its session is CONNECTED from here on
    async with trio.open_nursery() as nursery:
        found: list[FileLink] = []

        async def find() -> None:
            found.append(await find_link(live.hub.bus, machine.id))

        nursery.start_soon(find)
        await wait_all_tasks_blocked()
        assert found == []
        await link.say(Ready(features=["files"]))
    assert found[0].is_supported


async def test_an_agent_of_an_older_release_is_not_asked(live):
    agent = ScriptedAgent(live)
    agent.features = []
    await agent.join()
    with pytest.raises(FilesNotSupported):
        await find_link(live.hub.bus, (await agent.machine()).id)


@pytest.mark.parametrize(
    ("code", "kind"),
    [("file_not_found", FileNotFound), ("no_space", NoSpace), ("no such word", FileIoError)],
)
async def test_a_failure_of_the_machine_is_raised_as_what_it_is(live, code, kind):
    link, files = await joined(live)
    async with files.open(DELETE, KEY) as transfer:
        call = await called(link)
        await link.say(FileFailed(id=call.id, code=code, message="no\x1b[31m"))
        with pytest.raises(kind, match="no\ufffd"):
            await transfer.answer()


async def test_where_an_upload_stands_comes_with_its_failure(live):
    link, files = await joined(live)
    async with files.open(WRITE, KEY) as transfer:
        call = await called(link)
        failed = FileFailed(id=call.id, code="offset_mismatch", message="no", offset=5)
        await link.say(failed)
        with pytest.raises(OffsetMismatch) as caught:
            await transfer.answer()
    assert caught.value.details == {"offset": 5}


async def test_the_bytes_of_a_file_come_in_order_and_end_with_their_checksum(live):
    link, files = await joined(live)
    async with files.open(READ, KEY) as transfer:
        call = await called(link)
        await link.say(FileAnswer(id=call.id, answer=opened()))
        assert await transfer.answer() == opened()
        await link.say(Data(call.id, 0, b"con"))
        await link.say(Data(call.id, 3, b"tent"))
        await link.say(FileEnd(id=call.id, end=7, sha256=DIGEST))
        received = b""
        while data := await transfer.receive():
            received += data
        assert received == b"content"
        assert transfer.sha256 == DIGEST


async def test_a_reader_that_takes_gives_credit_and_one_that_waits_gives_none(live):
    link, files = await joined(live)
    async with files.open(READ, KEY) as transfer:
        call = await called(link)
        size = 2 * TRANSFER_BYTES
        await link.say(FileAnswer(id=call.id, answer=opened(end=size, size=size)))
        await transfer.answer()
        for offset in range(0, TRANSFER_BYTES, DATA_BYTES):
            await link.say(Data(call.id, offset, bytes(DATA_BYTES)))
        await link.heartbeat()  # nothing else was said to it
        assert len(await transfer.receive()) == TRANSFER_BYTES
        assert await link.expect(FileCredit) == FileCredit(id=call.id, offset=size)


async def test_a_writer_sends_no_more_than_the_machine_gave_credit_for(live):
    link, files = await joined(live)
    async with files.open(WRITE, KEY) as transfer:
        call = await called(link)
        await link.say(FileAnswer(id=call.id, answer=Placed(path=b"/f", offset=0)))
        await transfer.answer()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transfer.send, bytes(TRANSFER_BYTES + 1))
            received = 0
            while received < TRANSFER_BYTES:
                received += len((await link.expect(Data)).data)
            await wait_all_tasks_blocked()
            await link.heartbeat()
            await link.say(FileCredit(id=call.id, offset=TRANSFER_BYTES + 1))
            last = await link.expect(Data)
        assert (last.offset, len(last.data)) == (TRANSFER_BYTES, 1)
        async with trio.open_nursery() as nursery:
            answers = []

            async def finish() -> None:
                answers.append(await transfer.finish(DIGEST))

            nursery.start_soon(finish)
            end = await link.expect(FileEnd)
            assert end == FileEnd(id=call.id, end=TRANSFER_BYTES + 1, sha256=DIGEST)
            written = replace(WRITTEN, size=TRANSFER_BYTES + 1)
            await link.say(FileAnswer(id=call.id, answer=written))
        assert answers == [written]


async def test_a_writer_hears_of_a_failure_while_it_sends(live):
    link, files = await joined(live)
    async with files.open(WRITE, KEY) as transfer:
        call = await called(link)
        await link.say(FileAnswer(id=call.id, answer=Placed(path=b"/f", offset=0)))
        await transfer.answer()
        with pytest.RaisesGroup(NoSpace):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transfer.send, bytes(2 * TRANSFER_BYTES))
                await link.say(FileFailed(id=call.id, code="no_space", message="full"))


async def test_a_part_is_kept_and_a_whole_is_written(live):
    link, files = await joined(live)
    async with files.open(WRITE, KEY) as transfer:
        call = await called(link)
        await link.say(FileAnswer(id=call.id, answer=Placed(path=b"/f", offset=0)))
        await transfer.answer()
        with pytest.RaisesGroup(Unavailable):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transfer.finish, DIGEST)
                await link.expect(FileEnd)
                await link.say(FileAnswer(id=call.id, answer=Kept(offset=0)))
        assert (await link.closed())[0] == Close.PROTOCOL


@pytest.mark.parametrize("written", [replace(WRITTEN, size=8), replace(WRITTEN, sha256=b"x" * 32)])
async def test_a_machine_that_wrote_something_else_is_cut_off(live, written):
    link, files = await joined(live)
    async with files.open(Write(path=b"/f", offset=7), KEY) as transfer:
        call = await called(link)
        await link.say(FileAnswer(id=call.id, answer=Placed(path=b"/f", offset=7)))
        await transfer.answer()
        with pytest.RaisesGroup(Unavailable):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transfer.finish, DIGEST)
                await link.expect(FileEnd)
                await link.say(FileAnswer(id=call.id, answer=written))
        assert (await link.closed())[0] == Close.PROTOCOL


async def test_a_caller_that_leaves_tells_the_machine_to_stop(live):
    link, files = await joined(live)
    async with files.open(READ, KEY):
        call = await called(link)
    assert await link.expect(FileStop) == FileStop(id=call.id)


async def test_a_call_that_has_ended_needs_no_stop(live):
    link, files = await joined(live)
    async with files.open(DELETE, KEY) as transfer:
        await link.say(FileAnswer(id=(await called(link)).id, answer=Done()))
        await transfer.answer()
    await link.heartbeat()


async def test_what_comes_late_for_a_call_that_was_left_is_passed_over(live):
    link, files = await joined(live)
    async with files.open(READ, KEY):
        call = await called(link)
    await link.expect(FileStop)
    await link.say(FileAnswer(id=call.id, answer=opened()))
    await link.say(Data(call.id, 0, b"content"))
    await link.say(FileFailed(id=call.id, code="no_space", message=""))
    await link.heartbeat()


async def test_a_lost_link_ends_every_call_at_once(live):
    link, files = await joined(live)
    async with (
        files.open(READ, KEY) as reading,
        files.open(WRITE, KEY) as writing,
        files.open(READ, KEY) as asked,
    ):
        read, write = await called(link), await called(link)
        await link.say(FileAnswer(id=read.id, answer=opened()))
        await reading.answer()
        await link.say(FileAnswer(id=write.id, answer=Placed(path=b"/f", offset=0)))
        await writing.answer()
        await link.cut()
        for waiting in (reading.receive(), writing.send(bytes(2 * TRANSFER_BYTES)), asked.answer()):
            with trio.fail_after(5), pytest.raises(Unavailable, match="lost"):
                await waiting
    with pytest.raises(Unavailable):
        async with files.open(DELETE, KEY):
            pass


async def test_what_was_heard_before_the_link_was_lost_counts(live):
    link, files = await joined(live)
    async with files.open(DELETE, KEY) as deleting, files.open(READ, KEY) as reading:
        delete, read = await called(link), await called(link)
        await link.say(FileAnswer(id=delete.id, answer=Done()))
        await link.say(FileAnswer(id=read.id, answer=opened()))
        await link.say(Data(read.id, 0, b"content"))
        await link.say(FileEnd(id=read.id, end=7, sha256=DIGEST))
        await link.heartbeat()
        await link.cut()
        assert await deleting.answer() == Done()
        await reading.answer()
        assert await reading.receive() == b"content"
        assert await reading.receive() == b""


async def test_callers_that_leave_at_any_moment_leave_the_link_whole(live):
    link, files = await joined(live)
    link.hub_end.takes = trio.Event()  # the socket takes nothing now
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            async with files.open(WRITE, KEY) as transfer:
                await transfer.answer()

        for _ in range(3):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    link.hub_end.takes.set()
    for _ in range(3):
        await called(link)
    for _ in range(3):
        await link.expect(FileStop)
    await link.heartbeat()


async def test_a_link_that_stands_still_is_asked_no_more(live):
    link, files = await joined(live)
    link.hub_end.takes = trio.Event()  # the socket takes nothing

    async def ask_and_leave() -> None:
        for _ in range(300):
            async with files.open(DELETE, KEY):
                await trio.lowlevel.checkpoint()

    with pytest.raises(Unavailable, match="takes nothing now"):
        await ask_and_leave()
    link.hub_end.takes.set()


async def test_a_machine_has_no_more_calls_at_a_time_than_it_takes(live):
    link, files = await joined(live)
    begun = 0

    async def wait(call: AnyCall, key_id: str) -> None:
        nonlocal begun
        async with files.open(call, key_id):
            begun += 1
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for number in range(FILE_CALLS):
            nursery.start_soon(wait, READ, f"key_{number}")
            nursery.start_soon(wait, DELETE, f"key_{number}")
        for _ in range(FILE_CALLS):
            await called(link)
        await wait_all_tasks_blocked()
        assert begun == FILE_CALLS
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (DELETE, [Existing(exist=[])]),
        (DELETE, [Done(), Done()]),
        (READ, [opened(end=8)]),
        (Read(path=b"/f", length=7), [opened(end=2**62, size=2**62)]),
        (READ, [opened(), opened()]),
        (READ, [Data(0, 0, b"x")]),
        (READ, [opened(), Data(0, 1, b"x")]),
        (READ, [opened(), Data(0, 0, b"more than it has")]),
        (READ, [opened(), FileEnd(id=0, end=3)]),
        (READ, [opened(), FileEnd(id=0, end=7)]),
        (READ, [opened(), FileCredit(id=0, offset=1)]),
        (WRITE, [WRITTEN]),
        (WRITE, [Kept(offset=0)]),
        (WRITE, [Placed(path=b"/f", offset=1)]),
        (WRITE, [Placed(path=b"/f", offset=0), Data(0, 0, b"x")]),
        (WRITE, [Placed(path=b"/f", offset=0), WRITTEN]),
        (WRITE, [FileCredit(id=0, offset=1)]),
        (DELETE, [FileFailed(id=1, code="no_space", message="of a call that nobody made")]),
    ],
)
async def test_a_machine_that_says_what_no_call_is_answered_with_is_cut_off(live, call, said):
    link, files = await joined(live)
    async with files.open(call, KEY) as transfer:
        await called(link)
        for item in said:
            is_answer = not isinstance(item, Data | FileEnd | FileCredit | FileFailed)
            await link.say(FileAnswer(id=0, answer=item) if is_answer else item)
        code, _ = await link.closed()
        assert code == Close.PROTOCOL
        if not transfer.is_over:
            with pytest.raises(Unavailable):
                await all_answers(transfer)


async def test_commands_pass_a_file_that_nobody_takes(live):
    link, files = await joined(live)
    async with files.open(READ, KEY) as transfer:
        call = await called(link)
        size = 10 * TRANSFER_BYTES
        await link.say(FileAnswer(id=call.id, answer=opened(end=size, size=size)))
        await transfer.answer()
        for offset in range(0, TRANSFER_BYTES, DATA_BYTES):
            await link.say(Data(call.id, offset, bytes(DATA_BYTES)))
        await link.heartbeat()  # is heard, and answered
