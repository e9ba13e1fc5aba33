"""Commands through a real agent, its real keeper, and a hub that a test speaks for."""

import errno
import hashlib
import os
import threading

import pytest

from cmdop_appliance.agent import journal
from cmdop_appliance.agent.policy import CommandsPolicy, Policy
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.messages import (
    Accepted,
    Acknowledge,
    Cancel,
    Finished,
    Rejected,
    Started,
    Stream,
)
from cmdop_appliance.protocol.terminals import Size
from tests.agent.dispatched import cancel_all, has_begun, sh
from tests.support.agents import commands_of, eventually, running_agent

MAX_PARALLEL = Policy().commands.max_parallel


# ── one command ──────────────────────────────────────────────────────────────────────────────


async def test_a_command_ends_with_its_exit_code_and_both_streams(peer):
    command = await peer.dispatch(*sh("echo out; echo err >&2; exit 7"))
    finished = await peer.finish(command)
    assert (finished.end, finished.exit_code, finished.signal) == ("exited", 7, None)
    assert peer.stdout(command) == b"out\n"
    assert bytes(peer.output[command, "stderr"]) == b"err\n"
    assert finished.stdout.bytes == 4
    assert finished.stdout.sha256 == hashlib.sha256(b"out\n").digest()
    assert finished.stderr.sha256 == hashlib.sha256(b"err\n").digest()
    assert finished.started_ms > 0
    assert finished.duration_ms >= 0


async def test_a_command_in_a_terminal_writes_all_of_it_to_its_stdout(peer):
    script = "stty size; cat; echo err >&2; exit 7"
    command = await peer.dispatch(*sh(script), stdin=b"typed\n", pty=Size(cols=100, rows=40))
    finished = await peer.finish(command)
    assert (finished.end, finished.exit_code) == ("exited", 7)
    output = b"40 100\r\ntyped\r\nerr\r\n"
    assert peer.stdout(command) == output
    assert finished.stdout == Stream(len(output), hashlib.sha256(output).digest())
    assert finished.stderr.bytes == 0


async def test_a_signal_is_named_and_gives_128_and_its_number(peer):
    finished = await peer.finish(await peer.dispatch(*sh("kill -TERM $$")))
    assert (finished.end, finished.exit_code, finished.signal) == ("exited", 143, "SIGTERM")


async def test_a_command_that_cannot_start_has_failed_with_a_reason(peer):
    finished = await peer.finish(await peer.dispatch("/no/such/program"))
    assert (finished.end, finished.exit_code) == ("failed", None)
    assert finished.reason
    assert finished.message


async def test_the_deadline_ends_a_command(peer):
    finished = await peer.finish(await peer.dispatch("sleep", "60", timeout_ms=100))
    assert (finished.end, finished.exit_code) == ("timeout", None)


async def test_the_operator_is_in_the_environment(peer):
    command = await peer.dispatch(
        *sh("echo $CMDOP_OPERATOR $CMDOP_COMMAND_ID $MORE"), operator="ann", env={"MORE": "x"}
    )
    await peer.finish(command)
    assert peer.stdout(command) == f"ann {command} x\n".encode()


async def test_a_long_command_is_announced_before_its_output(peer):
    command = await peer.dispatch(*sh("sleep 0.2; echo late"))
    started = await peer.expect(Started, command)
    assert started.started_ms > 0
    assert peer.stdout(command) == b""
    await peer.finish(command)
    assert peer.stdout(command) == b"late\n"


# ── at most once ─────────────────────────────────────────────────────────────────────────────


async def test_a_command_dispatched_again_at_any_time_starts_once(peer, tmp_path):
    marker = tmp_path / "marker"
    argv = sh(f"echo x >> {marker}; sleep 0.2")
    command = await peer.dispatch(*argv)
    await peer.dispatch(*argv, again=command)
    await peer.expect(Started, command)
    await peer.dispatch(*argv, again=command)
    await peer.expect(Started, command)
    first = await peer.expect(Finished, command)
    await peer.dispatch(*argv, again=command)
    assert await peer.expect(Finished, command) == first
    await peer.send(Acknowledge(id=command))
    await peer.dispatch(*argv, again=command)
    forgotten = await peer.expect(Finished, command)
    assert (forgotten.end, forgotten.reason) == ("lost", "forgotten")
    await peer.finish(await peer.dispatch("true"))
    assert marker.read_text() == "x\n"


async def test_what_a_backup_has_starts_only_if_it_certainly_never_did(peer, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "TOMBSTONES_AT_MOST", 1)
    marker = tmp_path / "marker"
    argv = sh(f"echo x >> {marker}")
    unseen = new_id("cmd")
    ran = [await peer.dispatch(*argv) for _ in range(2)]
    for command in ran:
        await peer.finish(command)
    for command in (*ran, unseen):  # the first was let go, and the last may have been
        await peer.dispatch(*argv, again=command, is_restored=True)
        told = await peer.expect(Finished, command)
        assert (told.end, told.reason) == ("lost", "forgotten")
    newer = await peer.dispatch(*argv, is_restored=True)
    await peer.finish(newer)
    await peer.dispatch(*argv, again=unseen)  # of a hub that goes on, it is a new one
    await peer.finish(unseen)
    assert marker.read_text() == "x\n" * 4


async def test_the_start_is_in_the_journal_before_the_command_runs(peer, state_dir):
    command = await peer.dispatch(*sh(f"grep -c $CMDOP_COMMAND_ID {state_dir}/journal.log"))
    await peer.finish(command)
    assert peer.stdout(command) == b"1\n"


async def test_commands_that_start_together_share_a_sync_that_precedes_them_all(
    peer, state_dir, monkeypatch
):
    syncs, go, sync = [], threading.Event(), os.fdatasync

    def wait_and_sync(fd):
        syncs.append(len(commands_of(state_dir)))
        go.wait(20)
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", wait_and_sync)
    first = await peer.dispatch("sleep", "60")
    await eventually(lambda: syncs, "the first sync")
    others = [await peer.dispatch("sleep", "60") for _ in range(9)]
    await peer.send(Cancel(id=(probe := new_id("cmd"))))
    await peer.finish(probe)  # so all nine were read
    assert syncs == [0]
    assert commands_of(state_dir) == []
    go.set()
    for _ in (first, *others):
        await peer.expect(Started)
    assert len(syncs) == 2
    for command in (first, *others):
        await peer.send(Cancel(id=command))
    for _ in (first, *others):
        await peer.expect(Finished)


async def test_a_command_whose_start_cannot_be_recorded_does_not_start(peer, monkeypatch, tmp_path):
    def fail(fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        finished = await peer.finish(await peer.dispatch(*sh(f"touch {tmp_path}/marker")))
    assert (finished.end, finished.reason, finished.exit_code) == ("failed", "journal", None)
    assert not (tmp_path / "marker").exists()
    assert (await peer.finish(await peer.dispatch("true"))).exit_code == 0


async def test_a_command_too_large_for_the_keeper_fails_and_costs_no_other(peer):
    huge = "\0" * 150_000  # six bytes each as JSON
    finished = await peer.finish(await peer.dispatch("echo", huge))
    assert (finished.end, finished.exit_code) == ("failed", None)
    assert (await peer.finish(await peer.dispatch("true"))).exit_code == 0


async def test_a_hub_that_dispatches_more_than_fits_is_told_so(peer, monkeypatch):
    monkeypatch.setattr("cmdop_appliance.agent.commands.QUEUE_BYTES", 100_000)
    rejected = await peer.dispatch("echo", "x" * 100_000)
    assert (await peer.expect(Rejected, rejected)).reason == "queue_full"
    assert (await peer.finish(await peer.dispatch("true"))).exit_code == 0
    later = await peer.dispatch("true", again=rejected)  # it was never seen
    assert (await peer.finish(later)).exit_code == 0


async def test_another_spec_for_a_known_id_is_rejected(peer, tmp_path):
    command = await peer.dispatch("sleep", "0.2")
    await peer.dispatch(*sh(f"touch {tmp_path}/marker"), again=command, spec_hash=b"x" * 32)
    assert (await peer.expect(Rejected)).reason == "spec_mismatch"
    assert (await peer.finish(command)).exit_code == 0
    assert not (tmp_path / "marker").exists()


async def test_what_is_cancelled_before_its_dispatch_never_starts(peer, tmp_path):
    command = new_id("cmd")
    await peer.send(Cancel(id=command))
    assert (await peer.expect(Finished, command)).end == "cancelled"
    await peer.dispatch(*sh(f"touch {tmp_path}/marker"), again=command)
    assert (await peer.finish(command)).end == "cancelled"
    await peer.dispatch(*sh(f"touch {tmp_path}/marker"), again=command)
    await peer.finish(await peer.dispatch("true"))
    assert not (tmp_path / "marker").exists()


async def test_a_cancelled_command_leaves_no_process(peer, state_dir):
    command = await peer.dispatch("sleep", "60")
    await peer.expect(Started, command)
    await peer.send(Cancel(id=command))
    finished = await peer.finish(command)
    assert (finished.end, finished.exit_code) == ("cancelled", None)
    assert commands_of(state_dir) == []


async def test_no_more_run_than_max_parallel_and_the_next_waits_its_turn(peer, state_dir):
    running = [await peer.dispatch("sleep", "60") for _ in range(MAX_PARALLEL)]
    waiting = await peer.dispatch(*sh("echo turn"))
    for _ in running:
        await peer.expect(Started)
    assert len(commands_of(state_dir)) == MAX_PARALLEL
    await peer.dispatch(*sh("echo turn"), again=waiting)  # a queued command goes on waiting
    await peer.send(Cancel(id=running[0]))
    await peer.finish(running[0])
    assert (await peer.finish(waiting)).exit_code == 0
    for command in running[1:]:
        await peer.send(Cancel(id=command))
    for _ in running[1:]:
        await peer.expect(Finished)


async def test_a_command_that_waited_too_long_expires_in_the_queue(peer, tmp_path):
    running = [await peer.dispatch("sleep", "60") for _ in range(MAX_PARALLEL)]
    waiting = await peer.dispatch(*sh(f"touch {tmp_path}/marker"), ttl_ms=50)
    assert (await peer.expect(Finished, waiting)).end == "expired"
    for command in running:
        await peer.send(Cancel(id=command))
    for _ in running:
        await peer.expect(Finished)
    assert not (tmp_path / "marker").exists()


async def test_a_queued_command_that_is_cancelled_never_starts(peer, tmp_path):
    running = [await peer.dispatch("sleep", "60") for _ in range(MAX_PARALLEL)]
    waiting = await peer.dispatch(*sh(f"touch {tmp_path}/marker"))
    await peer.send(Cancel(id=waiting))
    assert (await peer.expect(Finished, waiting)).end == "cancelled"
    for command in running:
        await peer.send(Cancel(id=command))
    for _ in running:
        await peer.expect(Finished)
    assert not (tmp_path / "marker").exists()


async def test_no_more_run_than_the_machine_allows(state_dir, hub):
    policy = Policy(commands=CommandsPolicy(max_parallel=2))
    async with running_agent(state_dir, hub, policy=policy):
        peer = await hub.accept()
        running = [await peer.dispatch("sleep", "60") for _ in range(2)]
        waiting = await peer.dispatch("true")
        for _ in running:
            await peer.expect(Started)
        await peer.send(Cancel(id=(probe := new_id("cmd"))))
        await peer.finish(probe)
        assert not has_begun(peer, waiting)
        await cancel_all(peer, running[:1])
        assert (await peer.finish(waiting)).exit_code == 0
        await cancel_all(peer, running[1:])


@pytest.mark.parametrize("behind", [{}, {"serial_key": "k"}])
async def test_a_command_that_waits_is_accepted_once_but_not_one_with_a_bound(
    state_dir, hub, behind
):
    policy = Policy(commands=CommandsPolicy(max_parallel=2 if behind else 1))
    async with running_agent(state_dir, hub, policy=policy):
        peer = await hub.accept()
        running = await peer.dispatch("sleep", "60", **behind)
        await peer.expect(Started, running)
        bounded = await peer.dispatch("true", ttl_ms=60_000, **behind)
        waiting = await peer.dispatch("true", **behind)
        await peer.expect(Accepted, waiting)
        await peer.dispatch("true", again=waiting, **behind)
        await peer.send(Cancel(id=(probe := new_id("cmd"))))
        await peer.finish(probe)
        assert peer.heard_of(waiting) == [Accepted(id=waiting)]
        assert peer.heard_of(bounded) == []
        await cancel_all(peer, [running])
        assert (await peer.finish(waiting)).exit_code == 0
