"""Output arrives whole and in time, however often the connection is cut."""

import hashlib
import os

import pytest
import trio

from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.limits import WINDOW_BYTES
from cmdop_appliance.protocol.messages import Finished, Heartbeat, Started
from tests.agent.dispatched import sh
from tests.support.agents import commands_of, eventually, running_agent


async def test_megabytes_of_binary_output_arrive_byte_by_byte_within_the_window(peer, tmp_path):
    data = os.urandom(5_000_000)
    (tmp_path / "data").write_bytes(data)
    peer.stores = False
    command = await peer.dispatch("cat", str(tmp_path / "data"))
    while peer.unstored < WINDOW_BYTES:
        item = await peer.receive()
        if isinstance(item, Output):
            await peer._keep(item)
    with trio.move_on_after(0.3):  # that nothing comes can only be seen by waiting
        while isinstance(item := await peer.receive(), Heartbeat):
            pass
        pytest.fail(f"{item!r} beyond the window")
    peer.stores = True
    await peer.store(command)
    finished = await peer.finish(command)
    assert peer.stdout(command) == data
    assert finished.stdout.bytes == len(data)
    assert finished.stdout.sha256 == hashlib.sha256(data).digest()


async def test_output_appears_while_the_command_runs(peer, tmp_path):
    command = await peer.dispatch(
        *sh(f"echo early; until [ -e {tmp_path}/go ]; do sleep 0.01; done")
    )
    while peer.stdout(command) != b"early\n":
        item = await peer.receive()
        if isinstance(item, Output):
            await peer._keep(item)
    (tmp_path / "go").touch()
    await peer.finish(command)


async def test_a_cut_connection_goes_on_at_the_byte_the_hub_names(state_dir, hub, tmp_path):
    data = os.urandom(2_000_000)
    (tmp_path / "data").write_bytes(data)
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        peer.stores = False
        command = await peer.dispatch("cat", str(tmp_path / "data"))
        while peer.unstored < 100_000:
            item = await peer.receive()
            if isinstance(item, Output):
                await peer._keep(item)
        held = peer.stdout(command)[:70_001]
        await peer.cut()

        peer = await hub.accept()
        assert command in peer.inventory
        peer.output[command, "stdout"] = bytearray(held)
        await peer.resume(command, len(held))
        item = await peer.receive()
        while not isinstance(item, Output):
            item = await peer.receive()
        assert item.offset == len(held)
        await peer._keep(item)
        finished = await peer.finish(command)
    assert peer.stdout(command) == data
    assert finished.stdout.sha256 == hashlib.sha256(data).digest()


async def test_a_hub_may_ask_for_output_again_at_any_time(peer):
    command = await peer.dispatch(*sh("printf 0123456789"))
    first = await peer.expect(Finished, command)
    await peer.resume(command, 4)
    item = await peer.receive()
    while not isinstance(item, Output):
        item = await peer.receive()
    assert (item.offset, item.data) == (4, b"456789")
    assert await peer.finish(command) == first


async def test_nothing_of_an_old_command_is_said_before_the_hub_resumes_it(
    state_dir, hub, tmp_path
):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        ended = await peer.dispatch(*sh("echo out"))
        await peer.expect(Finished, ended)
        runs = await peer.dispatch(
            *sh(f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo out")
        )
        await peer.expect(Started, runs)
        await peer.cut()
        peer = await hub.accept()
        assert peer.inventory == {ended: "ended", runs: "running"}
        (tmp_path / "go").touch()
        await eventually(lambda: not commands_of(state_dir), "its end")
        for _ in range(3):  # by then the agent knows of the end, too
            await peer.finish(await peer.dispatch("true"))
        assert peer.heard_of(ended) + peer.heard_of(runs) == []
        for command in (ended, runs):
            await peer.resume(command)
            assert (await peer.finish(command)).exit_code == 0
            assert peer.stdout(command) == b"out\n"
