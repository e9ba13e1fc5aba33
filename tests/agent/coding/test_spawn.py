"""The directory that a session starts in: made, found, refused, and taken away again."""

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from cmdop_appliance.agent.coding.refusal import Refusal
from cmdop_appliance.agent.coding.settings import CodingPolicy
from cmdop_appliance.agent.policy import CommandsPolicy, Policy
from cmdop_appliance.ids import new_id
from tests.agent.coding.ground import coding


async def opened(ground, policy=None):
    sessions = ground.sessions(policy)
    await sessions.settle(())
    return sessions


async def test_a_missing_directory_is_made_and_taken_away_with_a_start_that_fails(ground):
    sessions = await opened(ground)
    before = ground.everything()
    wanted = ground.path / "a" / "b" / "c"
    prepared = await sessions.prepare(new_id("session"), coding(wanted))
    assert prepared.cwd == str(wanted)
    assert wanted.is_dir()
    await sessions.undo(prepared)
    assert ground.everything() == before
    assert ground.notes() == []


async def test_what_was_started_stays(ground):
    sessions = await opened(ground)
    wanted = ground.path / "a" / "b"
    prepared = await sessions.prepare(new_id("session"), coding(wanted))
    sessions.started(prepared.id)
    await sessions.undo(prepared)
    await ground.sessions().settle(())
    assert wanted.is_dir()
    assert ground.notes() == []


async def test_a_directory_that_was_there_or_holds_something_is_never_taken_away(ground):
    sessions = await opened(ground)
    (ground.path / "a").mkdir()
    prepared = await sessions.prepare(new_id("session"), coding(ground.path / "a"))
    await sessions.undo(prepared)
    prepared = await sessions.prepare(new_id("session"), coding(ground.path / "a" / "b" / "c"))
    (ground.path / "a" / "b" / "mine").touch()
    await sessions.undo(prepared)
    assert (ground.path / "a" / "b" / "mine").exists()
    assert not (ground.path / "a" / "b" / "c").exists()


async def test_a_directory_that_another_session_starts_in_is_not_pulled_away(ground):
    sessions = await opened(ground)
    first = await sessions.prepare(new_id("session"), coding(ground.path / "a" / "b"))
    second = await sessions.prepare(new_id("session"), coding(ground.path / "a"))
    sessions.started(second.id)
    await sessions.undo(first)
    assert (ground.path / "a").is_dir()
    assert not (ground.path / "a" / "b").exists()


async def test_a_killed_agent_leaves_what_the_next_one_takes_away(ground):
    sessions = await opened(ground)
    before = ground.everything()
    ids = [new_id("session"), new_id("session")]
    await sessions.prepare(ids[0], coding(ground.path / "a" / "b"))
    await sessions.prepare(ids[1], coding(ground.path / "c"))
    await ground.sessions().settle({ids[1]})  # which the keeper knows
    assert ground.everything() - before == {str(ground.path / "c")}
    assert ground.notes() == []


async def test_nothing_is_prepared_before_all_is_settled(ground):
    sessions = ground.sessions()
    refusals = []

    async def prepare():
        try:
            await sessions.prepare(new_id("session"), coding(ground.path, flavour="unknown"))
        except Refusal as refusal:
            refusals.append(refusal)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(prepare)
        await trio.testing.wait_all_tasks_blocked()
        assert not refusals
        await sessions.settle(())
    assert refusals


async def test_a_damaged_note_is_no_reason_not_to_start(ground):
    (ground.state_dir / "coding").mkdir()
    (ground.state_dir / "coding" / f"{new_id('session')}.json").write_text("{")
    await ground.sessions().settle(())
    assert ground.notes() == []


async def test_a_state_directory_that_takes_no_note_refuses_and_makes_nothing(ground):
    (ground.state_dir / "coding").touch()
    sessions = ground.sessions()
    await sessions.settle(())
    with pytest.raises(Refusal):
        await sessions.prepare(new_id("session"), coding(ground.path / "a"))
    assert not (ground.path / "a").exists()


async def test_home_is_the_agents_user_s_and_links_are_followed(ground):
    assert (await ground.prepare("~")).cwd == str(ground.home)
    assert (await ground.prepare("~/new")).cwd == str(ground.home / "new")
    (ground.path / "link").symlink_to(ground.home)
    assert (await ground.prepare(ground.path / "link" / "new")).cwd == str(ground.home / "new")


@pytest.mark.parametrize("directory", ["a/b", ".", "~root", "", "/a\0b", "-x"])
async def test_a_directory_that_says_not_where_it_is_is_refused(ground, directory):
    assert (await ground.refusal(directory)).startswith("invalid_directory: ")


async def test_what_is_in_the_way_is_named(ground):
    (ground.path / "file").touch()
    refusal = await ground.refusal(ground.path / "file")
    assert refusal.startswith("not_a_directory: ")
    assert str(ground.path / "file") in refusal
    refusal = await ground.refusal(ground.path / "file" / "below")
    assert refusal.startswith("not_a_directory: ")
    refusal = await ground.refusal(f"/{'x' * 5000}")
    assert refusal.startswith("invalid_path: ")
    refusal = await ground.refusal("/proc/nothing")
    assert refusal.startswith(("directory_missing: ", "file_permission"))


async def test_a_path_that_is_not_utf8_is_refused(ground):
    odd = Path(os.fsdecode(os.fsencode(ground.path) + b"/odd\xff"))
    odd.mkdir()
    (ground.path / "link").symlink_to(odd)
    assert (await ground.refusal(ground.path / "link")).startswith("invalid_directory: ")
    assert (await ground.refusal(ground.path / "link" / "a")).startswith("invalid_directory: ")


# ── agent.toml ───────────────────────────────────────────────────────────────────────────────


async def test_nothing_starts_or_is_made_outside_the_roots(ground):
    inside, outside = ground.path / "in", ground.path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    policy = ground.policy(roots=(str(inside),))
    assert (await ground.prepare(inside / "new" / "er", policy)).cwd == str(inside / "new" / "er")
    for directory in (outside, outside / "new", inside / "link", inside / "link" / "new", "~/x"):
        refusal = await ground.refusal(directory, policy)
        assert refusal.startswith("policy_denied: ")
        assert "files.roots" in refusal


async def test_the_agents_own_directory_is_none_to_start_in(ground):
    assert (await ground.refusal(ground.state_dir)).startswith("policy_denied: ")


async def test_without_files_write_no_directory_is_made(ground):
    policy = ground.policy(write=False)
    assert (await ground.prepare(ground.path, policy)).cwd == str(ground.path)
    refusal = await ground.refusal(ground.path / "new", policy)
    assert refusal.startswith("directory_missing: ")
    assert "files.write" in refusal
    policy = ground.policy(write=False, roots=(str(ground.home),))  # which do not tell what is not
    assert (await ground.refusal(ground.path / "new", policy)).startswith("policy_denied: ")


@pytest.mark.parametrize(
    ("policy", "refusal"),
    [
        (Policy(coding=CodingPolicy(enabled=False)), "policy_denied: .*coding.enabled"),
        (Policy(commands=CommandsPolicy(exec=False)), "policy_denied: .*commands.exec"),
        (
            Policy(commands=CommandsPolicy(users=("somebody-else",))),
            "user_denied: .*commands.users",
        ),
    ],
)
async def test_a_session_is_denied_as_a_command_is(ground, policy, refusal):
    told = await ground.refusal(ground.path / "new", policy)
    code, key = refusal.split(" .*")
    assert told.startswith(code)
    assert f"({key})" in told
