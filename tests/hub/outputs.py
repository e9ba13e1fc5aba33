"""A command of a store and its outputs, without a hub."""

import time
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from cmdop_appliance.hub.live_stream import LiveStream
from cmdop_appliance.hub.output import Outputs, save_all
from cmdop_appliance.store import output as rows
from cmdop_appliance.store.engine import Store, open_store
from tests.support.records import connected, recorded

MAX_BYTES = 2 * 1024 * 1024
# No two places in it look alike, so that a byte at the wrong offset is seen.
TRUTH = b"".join(b"%07d\n" % number for number in range(8000))


@asynccontextmanager
async def command_in(path: Path):
    """A store with one command; its id, and its outputs."""
    async with open_store(path, inline=True) as store:
        machine, session_id, _ = await connected(store)
        command_id = (await recorded(store, machine.id, session_id)).id
        outputs = Outputs(store, path / "output", MAX_BYTES)
        outputs.begin(command_id)
        try:
            yield store, command_id, outputs
        finally:
            outputs.close()


async def everything(outputs: Outputs, command_id: str, stream: str = "stdout") -> bytes:
    """What a reader gets who reads piece by piece to the end."""
    read = b""
    while piece := await outputs.read(command_id, stream, len(read), 3001):
        read += piece
    return read


async def end(store: Store, outputs: Outputs, command_id: str) -> None:
    """As an end is recorded, without the command's own row."""
    await store.run(save_all, await outputs.sync([command_id]))
    outputs.end(command_id)


async def row(store: Store, command_id: str, stream: str = "stdout") -> rows.StoredStream:
    return (await store.run(rows.of_command, command_id))[stream]


def files(path: Path) -> list[Path]:
    return [file for file in (path / "output").rglob("*") if file.is_file()]


async def until_safe(stream: LiveStream, size: int) -> None:
    for _ in range(1000):
        if stream.safe == size:
            return
        await trio.to_thread.run_sync(time.sleep, 0.01)
    raise AssertionError(f"safe up to {stream.safe}, not {size}")
