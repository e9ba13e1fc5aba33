"""A real agent asked for its files over a real link, by a hub that says just what a test wants."""

import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.outbox import QUEUE_DATA, Outbox
from cmdop_appliance.agent.policy import FilesPolicy
from cmdop_appliance.agent.transfers import Transfers
from cmdop_appliance.errors import RemoteProtocolError
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.files import (
    AnyCall,
    Delete,
    Done,
    Exist,
    Existing,
    Kept,
    Opened,
    Placed,
    Read,
    Uploaded,
    Write,
    Written,
)
from cmdop_appliance.protocol.frames import Data, Output
from cmdop_appliance.protocol.limits import DATA_BYTES, FILE_CALLS, QUICK_CALLS, TRANSFER_BYTES
from cmdop_appliance.protocol.messages import (
    FEATURES,
    FileAnswer,
    FileCall,
    FileCredit,
    FileEnd,
    FileFailed,
    FileStop,
    Finished,
)
from cmdop_appliance.protocol.words import Message
from tests.support.agents import clean_state_dir, eventually, running_agent
from tests.support.hub_peer import PATIENCE_S, HubPeer, Peer, running_hub


@asynccontextmanager
async def connected(tmp_path: Path) -> AsyncIterator[tuple[HubPeer, Peer]]:
    state_dir = tmp_path / "state"
    with clean_state_dir(state_dir):
        async with running_hub() as hub, running_agent(state_dir, hub):
            yield hub, await hub.accept()


@pytest.fixture
async def peer(tmp_path):
    async with connected(tmp_path) as (_, peer):
        yield peer


async def ask(peer: Peer, number: int, call: AnyCall):
    """Its first answer."""
    await peer.send(FileCall(id=number, call=call))
    return (await peer.expect(FileAnswer, number)).answer


async def received(peer: Peer, number: int) -> tuple[bytes, FileEnd]:
    """All data of a Read, and its end; credit for all of it."""
    data = bytearray()
    while True:
        item = await peer.receive()
        if isinstance(item, Data) and item.id == number:
            assert item.offset == len(data)
            data += item.data
            await peer.send(FileCredit(id=number, offset=len(data) + TRANSFER_BYTES))
        elif isinstance(item, FileEnd) and item.id == number:
            return bytes(data), item


async def test_a_file_is_read_whole_with_its_checksum(peer, tmp_path):
    content = os.urandom(5 * TRANSFER_BYTES + 1)
    (tmp_path / "f").write_bytes(content)
    opened = await ask(peer, 1, Read(path=bytes(tmp_path / "f")))
    assert (opened.first, opened.end, opened.size) == (0, len(content), len(content))
    data, end = await received(peer, 1)
    assert data == content
    assert end == FileEnd(id=1, end=len(content), sha256=hashlib.sha256(content).digest())


async def test_an_empty_file_is_read_to_its_end(peer, tmp_path):
    (tmp_path / "f").touch()
    assert isinstance(await ask(peer, 1, Read(path=bytes(tmp_path / "f"))), Opened)
    assert await received(peer, 1) == (
        b"",
        FileEnd(id=1, end=0, sha256=hashlib.sha256(b"").digest()),
    )


async def test_a_hub_that_gives_no_credit_gets_no_more(peer, tmp_path):
    (tmp_path / "f").write_bytes(bytes(3 * TRANSFER_BYTES))
    await ask(peer, 1, Read(path=bytes(tmp_path / "f")))
    held = 0
    while held < TRANSFER_BYTES:
        item = await peer.receive()
        held += len(item.data) if isinstance(item, Data) else 0
    assert held == TRANSFER_BYTES
    await ask(peer, 2, Exist(paths=[b"/"]))  # answered, and nothing of the file before it
    assert not any(isinstance(item, Data) for item in peer.heard[-1:])


async def test_a_command_runs_while_a_file_waits_for_credit(peer, tmp_path):
    (tmp_path / "f").write_bytes(bytes(3 * TRANSFER_BYTES))
    await ask(peer, 1, Read(path=bytes(tmp_path / "f")))
    command_id = await peer.dispatch("true")
    await peer.resume(command_id)
    assert (await peer.finish(command_id)).exit_code == 0


async def test_a_file_is_written_and_answered_when_it_is_in_place(peer, tmp_path):
    content = os.urandom(3 * DATA_BYTES + 5)
    placed = await ask(peer, 1, Write(path=bytes(tmp_path / "f")))
    assert placed == Placed(path=bytes(tmp_path / "f"), offset=0)
    for start in range(0, len(content), DATA_BYTES):
        await peer.send(Data(1, start, content[start : start + DATA_BYTES]))
    digest = hashlib.sha256(content).digest()
    await peer.send(FileEnd(id=1, end=len(content), sha256=digest))
    answer = (await peer.expect(FileAnswer, 1)).answer
    assert answer == Written(
        path=bytes(tmp_path / "f"), size=len(content), sha256=digest, created=True
    )
    assert (tmp_path / "f").read_bytes() == content


async def test_credit_comes_as_data_goes_to_the_disk(peer, tmp_path):
    await ask(peer, 1, Write(path=bytes(tmp_path / "f")))
    for start in range(0, TRANSFER_BYTES, DATA_BYTES):
        await peer.send(Data(1, start, bytes(DATA_BYTES)))
    granted = 0
    while granted < 2 * TRANSFER_BYTES - DATA_BYTES * 4:
        granted = (await peer.expect(FileCredit, 1)).offset
    assert granted <= 2 * TRANSFER_BYTES


async def test_a_hub_that_sends_without_credit_is_refused(peer, tmp_path):
    await ask(peer, 1, Write(path=bytes(tmp_path / "f")))
    await peer.send(Data(1, 5, b"beyond what was said"))
    assert await peer.expect_end() == Close.PROTOCOL


async def test_a_call_made_twice_is_refused(peer, tmp_path):
    await ask(peer, 1, Write(path=bytes(tmp_path / "f")))
    await peer.send(FileCall(id=1, call=Exist(paths=[])))
    assert await peer.expect_end() == Close.PROTOCOL


async def test_a_failure_is_told_with_its_code(peer, tmp_path):
    await peer.send(FileCall(id=1, call=Read(path=bytes(tmp_path / "gone"))))
    failed = await peer.expect(FileFailed, 1)
    assert (failed.code, failed.offset) == ("file_not_found", None)


async def test_a_stopped_write_leaves_nothing_behind(peer, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    await ask(peer, 1, Write(path=bytes(folder / "f")))
    await peer.send(Data(1, 0, b"half"))
    await eventually(lambda: list(folder.iterdir()), "the temporary")
    await peer.send(FileStop(id=1))
    await eventually(lambda: not list(folder.iterdir()), "an empty directory")


async def test_a_write_that_is_stopped_while_it_is_placed_leaves_nothing_behind(peer, tmp_path):
    folder, records = tmp_path / "folder", tmp_path / "state" / "files"
    folder.mkdir()
    records.mkdir()
    for number in range(20):
        await peer.send(FileCall(id=number, call=Write(path=os.fsencode(folder / "x"))))
        with trio.fail_after(PATIENCE_S):
            while not any(records.iterdir()):
                await trio.lowlevel.checkpoint()
        await peer.send(FileStop(id=number))
        await eventually(lambda: not any(records.iterdir()), "the record is gone")
    assert not any(folder.iterdir())


async def test_a_stopped_read_sends_no_more_and_the_next_call_does(peer, tmp_path):
    (tmp_path / "f").write_bytes(bytes(3 * TRANSFER_BYTES))
    await ask(peer, 1, Read(path=bytes(tmp_path / "f")))
    await peer.send(FileStop(id=1))
    await peer.send(FileCredit(id=1, offset=2 * TRANSFER_BYTES))  # crossed on the way
    assert await ask(peer, 2, Exist(paths=[bytes(tmp_path / "f")])) == Existing(exist=[True])


async def test_a_lost_link_keeps_what_an_upload_has_brought(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    target = bytes(folder / "f")
    async with connected(tmp_path) as (hub, peer):
        await ask(peer, 1, Write(path=target, upload="u1"))
        await peer.send(Data(1, 0, b"first half"))
        await eventually(
            lambda: any(file.stat().st_size == 10 for file in folder.iterdir()), "what arrived"
        )
        await peer.cut()
        peer = await hub.accept()
        assert await ask(peer, 1, Uploaded(path=target, upload="u1")) == Kept(offset=10)
        await ask(peer, 2, Write(path=target, upload="u1", offset=10))
        await peer.send(Data(2, 10, b", second half"))
        whole = b"first half, second half"
        digest = hashlib.sha256(whole).digest()
        await peer.send(FileEnd(id=2, end=len(whole), sha256=digest))
        answer = (await peer.expect(FileAnswer, 2)).answer
        assert isinstance(answer, Written)
    assert [file.read_bytes() for file in folder.iterdir()] == [whole]


async def test_numbers_of_an_earlier_connection_mean_nothing_on_the_next(tmp_path):
    (tmp_path / "f").write_bytes(bytes(3 * TRANSFER_BYTES))
    async with connected(tmp_path) as (hub, peer):
        await ask(peer, 1, Read(path=bytes(tmp_path / "f")))
        await peer.cut()
        peer = await hub.accept()
        assert await ask(peer, 1, Delete(path=bytes(tmp_path / "f"))) == Done()
        assert not any(isinstance(item, Data) for item in peer.heard)


async def test_output_and_files_take_turns(peer, tmp_path):
    size = 8 * TRANSFER_BYTES
    (tmp_path / "f").write_bytes(bytes(size))
    await ask(peer, 1, Read(path=bytes(tmp_path / "f")))
    await peer.send(FileCredit(id=1, offset=size))
    command_id = await peer.dispatch("head", "-c", str(size), "/dev/zero")
    await peer.resume(command_id)
    finished = await peer.expect(Finished, command_id)
    assert finished.stdout.bytes == size


@asynccontextmanager
async def transfers_of(files: Files) -> AsyncIterator[tuple[Transfers, Outbox]]:
    """What a hub says to `Transfers`, and what they would answer, without a link between."""
    outbox = Outbox()
    outbox.open(FEATURES)
    transfers = Transfers(files, outbox)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transfers.run)
        yield transfers, outbox
        nursery.cancel_scope.cancel()


async def said(outbox: Outbox) -> Message | Output | Data:
    with trio.fail_after(PATIENCE_S):
        return await outbox.next()


async def test_that_a_file_was_changed_is_told_behind_all_that_was_sent_of_it(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(bytes(2 * TRANSFER_BYTES))
    async with transfers_of(Files(tmp_path / "state", FilesPolicy())) as (transfers, outbox):
        await transfers.hear(FileCall(id=1, call=Read(path=bytes(path))))
        assert isinstance(await said(outbox), FileAnswer)
        await eventually(lambda: len(outbox._data) == QUEUE_DATA, "all that there is credit for")
        path.write_bytes(b"another")
        await transfers.hear(FileCredit(id=1, offset=2 * TRANSFER_BYTES))
        items = [await said(outbox) for _ in range(QUEUE_DATA + 1)]
    assert [type(item) for item in items] == [Data] * QUEUE_DATA + [FileFailed]


class Stuck(Files):
    """Files on a disk that answers nothing."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def carry_out(self, call: AnyCall, is_stopped: Callable[[], bool]) -> Done:
        self.gate.wait()
        return Done()

    def sweep(self) -> None:
        pass


async def test_calls_that_nobody_waits_for_leave_though_the_disk_hangs():
    files = Stuck()
    async with transfers_of(files) as (transfers, outbox):
        await wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        for number in range(500):
            await transfers.hear(FileCall(id=number, call=Delete(path=b"/f")))
            await wait_all_tasks_blocked()
            await transfers.hear(FileStop(id=number))
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living - before <= QUICK_CALLS
        await transfers.hear(FileCall(id=500, call=Delete(path=b"/f")))
        files.gate.set()
        assert await said(outbox) == FileAnswer(id=500, answer=Done())


async def test_a_hub_that_asks_without_end_is_refused():
    files = Stuck()
    async with transfers_of(files) as (transfers, _):
        for number in range(2 * FILE_CALLS):
            await transfers.hear(FileCall(id=number, call=Delete(path=b"/f")))
        with pytest.raises(RemoteProtocolError, match="more than 32 calls"):
            await transfers.hear(FileCall(id=99, call=Delete(path=b"/f")))
        files.gate.set()
