"""Contents of files in one answer or one request: whole, within bounds, and told of.

The agent is scripted: it answers what a test wants it to.
"""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cmdop_appliance.errors import FileTooLarge, Unavailable
from cmdop_appliance.hub.files import CONTENT_BYTES
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.files import Opened, Placed, Read, Write
from cmdop_appliance.protocol.frames import Data
from cmdop_appliance.protocol.limits import DATA_BYTES
from cmdop_appliance.protocol.messages import FileAnswer, FileCall, FileEnd, FileStop
from cmdop_appliance.store import events
from tests.hub.scripted_files import DIGEST, READ, WRITTEN, answering, recorded
from tests.support.live_hub import BOUND, CALLER, LiveHub
from tests.support.records import REACH

SMALL = 64 * 1024


def opened(size: int, end: int) -> Opened:
    return Opened(path=b"/f", size=size, first=0, end=end, version="v", modified_ms=1)


async def happened(live: LiveHub) -> list[dict[str, object]]:
    """What was told of uploads."""
    told = await live.hub.store.run(events.after, REACH, 0, 1000)
    return [each.data for each in told if each.type == "file.uploaded"]


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
