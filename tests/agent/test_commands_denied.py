"""What agent.toml denies has failed for good, never started, and holds up nobody."""

import json
import os

import pytest

from cmdop_appliance.agent.grants import close_window, open_window
from cmdop_appliance.agent.policy import CommandsPolicy, FilesPolicy, Policy
from cmdop_appliance.protocol.messages import Finished, Notice, Started
from tests.agent.dispatched import sh
from tests.support.agents import running_agent

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


def _journal_of(state_dir, command_id):
    """What the journal says of one command, line by line."""
    lines = (state_dir / "journal.log").read_bytes().splitlines()
    facts = [json.loads(line.partition(b" ")[2]) for line in lines]
    return [fact for fact in facts if fact["id"] == command_id]
