"""The agent, the keeper or the machine dies: a command's true end is told, or that it is lost."""

import hashlib
import json
import os
import signal
import zlib
from contextlib import suppress

from cmdop_appliance.agent.journal import Entry, Journal
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.messages import Acknowledge, Finished, Started
from tests.agent.dispatched import sh
from tests.support.agents import commands_of, eventually, keepers_of, running_agent


async def test_a_command_outlives_its_agent_and_ends_with_its_true_exit_code(
    state_dir, hub, tmp_path
):
    script = f"echo before; until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo after; exit 9"
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        command = await peer.dispatch(*sh(script))
        await peer.expect(Started, command)
    (tmp_path / "go").touch()
    async with running_agent(state_dir, hub, join=False):
        peer = await hub.accept()
        assert peer.inventory[command] in ("running", "ended")
        await peer.resume(command, 3)
        peer.output[command, "stdout"] = bytearray(b"bef")
        finished = await peer.finish(command)
    assert (finished.end, finished.exit_code) == ("exited", 9)
    assert peer.stdout(command) == b"before\nafter\n"
    assert finished.stdout.sha256 == hashlib.sha256(b"before\nafter\n").digest()


async def test_an_acknowledged_command_is_in_no_inventory_and_leaves_no_output_file(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        command = await peer.dispatch(*sh("seq 10000"))
        await peer.finish(command)
        await peer.dispatch("true", again=command)
        assert (await peer.expect(Finished, command)).reason == "forgotten"
        await eventually(lambda: _written(state_dir) == b"", "its files removed")
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        assert peer.inventory == {}


async def test_an_end_that_is_acknowledged_twice_at_once_is_let_go_of(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        command = await peer.dispatch(*sh("echo out"))
        await peer.expect(Finished, command)
        twice = [str(peer.conversation.send(Acknowledge(id=command))) for _ in range(2)]
        await peer.ws.send_message("\n".join(twice))
        await peer.dispatch("true", again=command)  # on the same connection
        assert (await peer.expect(Finished, command)).reason == "forgotten"
        await eventually(lambda: _written(state_dir) == b"", "its files removed")


async def test_what_the_keeper_missed_of_an_acknowledgement_it_is_told_later(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        command = await peer.dispatch(*sh("echo out"))
        await peer.expect(Finished, command)
    journal = Journal(state_dir / "journal.log")
    journal.forget(command)
    journal.close()
    async with running_agent(state_dir, hub):
        assert (await hub.accept()).inventory == {}
        await eventually(lambda: _written(state_dir) == b"", "its files removed")


async def test_a_start_that_the_keeper_never_saw_is_lost_and_never_run(state_dir, hub):
    command = new_id("cmd")
    state_dir.mkdir(parents=True)
    journal = Journal(state_dir / "journal.log")
    journal.starting([Entry(command, b"h" * 32, "some boot")])
    journal.close()
    for _ in range(2):  # and it stays so
        async with running_agent(state_dir, hub):
            peer = await hub.accept()
            assert peer.inventory == {command: "ended"}
            await peer.resume(command)
            finished = await peer.expect(Finished, command)
            assert (finished.end, finished.reason) == ("lost", "start_unknown")
            assert finished.exit_code is None


async def test_a_command_of_an_earlier_boot_is_lost_rebooted_with_its_output(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        command = await peer.dispatch(*sh("echo out; sleep 60"))
        await peer.expect(Started, command)
        await eventually(lambda: _written(state_dir) == b"out\n", "output in its file")
    _kill_all(state_dir)
    await eventually(lambda: not keepers_of(state_dir), "keeper gone")
    _pretend_reboot(state_dir)
    for _ in range(2):
        async with running_agent(state_dir, hub):
            peer = await hub.accept()
            await peer.resume(command)
            finished = await peer.expect(Finished, command)
            assert (finished.end, finished.reason) == ("lost", "rebooted")
            assert finished.exit_code is None
            assert peer.stdout(command) == b"out\n"
            assert finished.stdout.bytes == 4


async def test_a_killed_keeper_loses_its_commands_and_says_which_process_lives(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        command = await peer.dispatch("sleep", "60")
        await peer.expect(Started, command)
        (pid,) = commands_of(state_dir)
        (keeper,) = keepers_of(state_dir)
        os.kill(keeper, signal.SIGKILL)
        finished = await peer.expect(Finished, command)
        assert (finished.end, finished.reason) == ("lost", "keeper_killed")
        assert finished.exit_code is None
        assert str(pid) in finished.message
        again = await peer.dispatch("true")  # a new keeper runs
        assert (await peer.finish(again)).exit_code == 0
    _kill_all(state_dir)
    await eventually(lambda: not keepers_of(state_dir), "keeper gone")
    _pretend_reboot(state_dir)
    async with running_agent(state_dir, hub):  # what was lost stays lost in the same way
        peer = await hub.accept()
        await peer.resume(command)
        assert (await peer.expect(Finished, command)).reason == "keeper_killed"


def _written(state_dir):
    """All that is kept of any stdout."""
    kept = b""
    for path in (state_dir / "keeper" / "output").glob("*.out"):
        with suppress(FileNotFoundError):  # forgotten just now
            kept += path.read_bytes()
    return kept


def _kill_all(state_dir):
    for pid in keepers_of(state_dir) + commands_of(state_dir):
        os.kill(pid, signal.SIGKILL)


def _pretend_reboot(state_dir):
    """The keeper's log as it would be found after a reboot: every line names another boot."""
    log = state_dir / "keeper" / "keeper.log"
    lines = []
    for line in filter(None, log.read_bytes().splitlines()):
        fields = json.loads(line.partition(b" ")[2])
        if "boot_id" in fields:
            fields["boot_id"] = "another-boot"
        body = json.dumps(fields, separators=(",", ":")).encode()
        lines.append(b"%08x %s\n" % (zlib.crc32(body), body))
    log.write_bytes(b"".join(lines))
