"""Commands through a real agent, its real keeper, and a hub that a test speaks for."""

import errno
import hashlib
import json
import os
import signal
import threading
import zlib
from contextlib import suppress

import pytest
import trio

from cmdop_appliance.agent.grants import close_window, open_window
from cmdop_appliance.agent.journal import Entry, Journal
from cmdop_appliance.agent.policy import CommandsPolicy, FilesPolicy, Policy
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.limits import WINDOW_BYTES
from cmdop_appliance.protocol.messages import (
    Accepted,
    Acknowledge,
    Cancel,
    Finished,
    Heartbeat,
    Notice,
    Rejected,
    Started,
)
from tests.support.agents import (
    clean_state_dir,
    commands_of,
    eventually,
    keepers_of,
    running_agent,
)
from tests.support.hub_peer import running_hub

MAX_PARALLEL = Policy().commands.max_parallel


@pytest.fixture
def state_dir(tmp_path):
    with clean_state_dir(tmp_path / "agent") as path:
        yield path


@pytest.fixture
async def hub():
    async with running_hub() as hub:
        yield hub


@pytest.fixture
async def peer(state_dir, hub):
    async with running_agent(state_dir, hub):
        yield await hub.accept()


def sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def has_begun(peer, command_id: str) -> bool:
    return any(isinstance(item, Started | Finished) for item in peer.heard_of(command_id))


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


# ── serial keys ──────────────────────────────────────────────────────────────────────────────


async def test_equal_keys_run_one_after_another_in_order_and_others_overtake(peer, tmp_path):
    go, log = tmp_path / "go", tmp_path / "log"
    body = f"echo begin $N >> {log}; until [ -e {go} ]; do sleep 0.01; done; echo end $N >> {log}"
    keyed = [await peer.dispatch(*sh(body), env={"N": n}, serial_key="k") for n in "123"]
    for other in ({"serial_key": "l"}, {}):
        assert (await peer.finish(await peer.dispatch("true", **other))).exit_code == 0
    await eventually(log.exists, "the first has begun")
    assert log.read_text() == "begin 1\n"
    go.touch()
    for command in keyed:
        assert (await peer.finish(command)).exit_code == 0
    assert log.read_text().split("\n")[:-1] == [f"{w} {n}" for n in "123" for w in ("begin", "end")]


async def test_a_command_that_waits_for_its_key_takes_no_place_of_another(state_dir, hub):
    policy = Policy(commands=CommandsPolicy(max_parallel=2))
    async with running_agent(state_dir, hub, policy=policy):
        peer = await hub.accept()
        first, *waiting = [await peer.dispatch("sleep", "60", serial_key="k") for _ in range(3)]
        assert (await peer.finish(await peer.dispatch("true"))).exit_code == 0
        await cancel_all(peer, [*waiting, first])


async def test_what_leaves_the_line_of_a_key_never_starts_and_holds_up_nobody(peer, tmp_path):
    marker = sh(f"touch {tmp_path}/marker")
    first = await peer.dispatch("sleep", "60", serial_key="k", ttl_ms=1000)  # it starts in time
    await peer.expect(Started, first)
    cancelled = await peer.dispatch(*marker, serial_key="k")
    expired = await peer.dispatch(*marker, serial_key="k", ttl_ms=1000)
    last = await peer.dispatch("true", serial_key="k")
    assert (await peer.expect(Finished, expired)).end == "expired"
    await peer.send(Cancel(id=cancelled))
    assert (await peer.expect(Finished, cancelled)).end == "cancelled"
    await peer.send(Cancel(id=(probe := new_id("cmd"))))
    await peer.finish(probe)
    assert not has_begun(peer, last)  # the first runs still
    await peer.send(Cancel(id=first))
    await peer.finish(first)
    assert (await peer.finish(last)).exit_code == 0
    assert not (tmp_path / "marker").exists()


async def test_what_waits_for_its_key_is_counted_as_queued_until_it_leaves(peer, monkeypatch):
    monkeypatch.setattr("cmdop_appliance.agent.commands.QUEUE_BYTES", 100_000)
    first = await peer.dispatch("sleep", "60", serial_key="k")
    await peer.expect(Started, first)
    for _ in range(3):
        waiting = await peer.dispatch("echo", "x" * 60_000, serial_key="k")
        refused = await peer.dispatch("echo", "x" * 60_000)
        assert (await peer.expect(Rejected, refused)).reason == "queue_full"
        await peer.send(Cancel(id=waiting))
        await peer.finish(waiting)
    assert (await peer.finish(await peer.dispatch("echo", "x" * 60_000))).exit_code == 0
    await cancel_all(peer, [first])


async def test_a_key_is_held_by_a_command_that_an_earlier_agent_started(state_dir, hub, tmp_path):
    body = f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; touch {tmp_path}/first"
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        ended = await peer.dispatch("true", serial_key="k")  # the hub does not acknowledge it
        await peer.expect(Finished, ended)
        first = await peer.dispatch(*sh(body), serial_key="k")
        await peer.expect(Started, first)
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        await peer.resume(first)
        second = await peer.dispatch("test", "-e", f"{tmp_path}/first", serial_key="k")
        await peer.finish(await peer.dispatch("true"))
        assert not has_begun(peer, second)
        (tmp_path / "go").touch()
        assert (await peer.finish(first)).exit_code == 0
        assert (await peer.finish(second)).exit_code == 0


async def test_a_key_is_free_again_when_its_command_is_lost(peer, state_dir):
    first = await peer.dispatch("sleep", "60", serial_key="k")
    await peer.expect(Started, first)
    second = await peer.dispatch("true", serial_key="k")
    (keeper,) = keepers_of(state_dir)
    os.kill(keeper, signal.SIGKILL)
    assert (await peer.finish(first)).reason == "keeper_killed"
    assert (await peer.finish(second)).exit_code == 0


async def test_a_key_is_free_again_when_its_command_cannot_start(peer):
    commands = [await peer.dispatch("/no/such/program", serial_key="k") for _ in range(3)]
    for command in commands:
        assert (await peer.finish(command)).end == "failed"


# ── what agent.toml denies ───────────────────────────────────────────────────────────────────

NO_EXEC = Policy(commands=CommandsPolicy(exec=False))


@pytest.mark.parametrize(
    ("policy", "spec", "reason", "key"),
    [
        (NO_EXEC, {}, "policy_denied", "commands.exec"),
        (Policy(commands=CommandsPolicy(users=())), {"user": "x"}, "user_denied", "commands.users"),
        (Policy(files=FilesPolicy(roots=("/a",))), {"cwd": "/"}, "policy_denied", "files.roots"),
    ],
)
async def test_a_denied_command_has_failed_for_good_and_left_no_trace_of_a_start(
    state_dir, hub, tmp_path, policy, spec, reason, key
):
    async with running_agent(state_dir, hub, policy=policy):
        peer = await hub.accept()
        command = await peer.dispatch(*sh(f"touch {tmp_path}/marker"), **spec)
        first = await peer.expect(Finished, command)
        assert (first.end, first.reason, first.exit_code) == ("failed", reason, None)
        assert key in first.message
    assert not [line for line in _journal_of(state_dir, command) if "end" not in line]
    assert f'"command_id": "{command}"' in (state_dir / "audit.log").read_text()
    async with running_agent(state_dir, hub):  # with a policy that would allow it
        peer = await hub.accept()
        assert peer.inventory == {command: "ended"}
        await peer.resume(command)
        assert await peer.finish(command) == first
        await peer.finish(await peer.dispatch("true"))
    assert not (tmp_path / "marker").exists()


async def test_a_window_counts_when_a_command_starts_and_not_when_it_was_dispatched(
    state_dir, hub, tmp_path
):
    policy = Policy(commands=CommandsPolicy(exec=False, max_parallel=1))
    async with running_agent(state_dir, hub, policy=policy):
        peer = await hub.accept()
        open_window(state_dir, 60_000)
        begun = await peer.dispatch(*sh(f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; exit 3"))
        await peer.expect(Started, begun)
        queued = await peer.dispatch("true")
        close_window(state_dir)
        (tmp_path / "go").touch()
        assert (await peer.finish(begun)).exit_code == 3
        assert (await peer.finish(queued)).reason == "policy_denied"
        open_window(state_dir, 60_000)
        assert (await peer.finish(await peer.dispatch("true"))).exit_code == 0


async def test_a_denied_command_frees_its_place_and_its_key(state_dir, hub):
    policy = Policy(commands=CommandsPolicy(max_parallel=1), files=FilesPolicy(roots=("/tmp",)))
    async with running_agent(state_dir, hub, policy=policy):
        peer = await hub.accept()
        denied = [await peer.dispatch("true", cwd="/", serial_key="k") for _ in range(3)]
        allowed = await peer.dispatch("true", cwd="/tmp", serial_key="k")
        for command in denied:
            assert (await peer.finish(command)).reason == "policy_denied"
        assert (await peer.finish(allowed)).exit_code == 0


async def test_a_command_starts_where_its_working_directory_led_when_it_was_judged(
    state_dir, hub, tmp_path, monkeypatch
):
    link, sync = tmp_path / "link", os.fdatasync
    (tmp_path / "real").mkdir()
    link.symlink_to("real")

    def sync_and_change_the_link(fd):
        sync(fd)
        link.unlink()
        link.symlink_to("/")

    monkeypatch.setattr(os, "fdatasync", sync_and_change_the_link)
    policy = Policy(files=FilesPolicy(roots=(str(tmp_path),)))
    async with running_agent(state_dir, hub, policy=policy):
        peer = await hub.accept()
        command = await peer.dispatch("pwd", "-P", cwd=f"{tmp_path}/link")
        await peer.finish(command)
        assert peer.stdout(command) == f"{tmp_path}/real\n".encode()


async def test_the_hub_is_told_of_a_window_when_it_opens_and_when_it_ends(state_dir, hub):
    async with running_agent(state_dir, hub, policy=NO_EXEC):
        peer = await hub.accept()
        open_window(state_dir, 100)
        assert (await peer.expect(Notice)).event == "grant.opened"
        assert (await peer.expect(Notice)).event == "grant.expired"


# ── output ───────────────────────────────────────────────────────────────────────────────────


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


# ── the agent or the keeper dies ─────────────────────────────────────────────────────────────


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


async def cancel_all(peer, commands):
    for command in commands:
        await peer.send(Cancel(id=command))
        await peer.finish(command)


def _journal_of(state_dir, command_id):
    """What the journal says of one command, line by line."""
    lines = (state_dir / "journal.log").read_bytes().splitlines()
    facts = [json.loads(line.partition(b" ")[2]) for line in lines]
    return [fact for fact in facts if fact["id"] == command_id]


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
