"""Serial keys: of the commands with one key, one runs at a time, in their order."""

import os
import signal

from cmdop_appliance.agent.policy import CommandsPolicy, Policy
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.messages import Cancel, Finished, Rejected, Started
from tests.agent.dispatched import cancel_all, has_begun, sh
from tests.support.agents import eventually, keepers_of, running_agent


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
