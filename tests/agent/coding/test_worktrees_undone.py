"""A start that is cut short, by whatever: the worktree goes, and what somebody has done stays."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import trio

from cmdop_appliance.agent.coding import git as running
from cmdop_appliance.agent.coding.notes import Note, Notes
from cmdop_appliance.ids import new_id
from tests.agent.coding.ground import AGENT, coding, signal_at


@pytest.mark.parametrize("how", ["hook", "smudge", "deaf hook"])
async def test_cancelled_in_the_middle_nothing_is_left_and_nothing_runs(
    ground, repository, monkeypatch, how
):
    monkeypatch.setattr(running, "_END_S", 0.3 if how == "deaf hook" else 20)
    before, files = repository.look(), ground.everything()
    sessions = ground.sessions()
    await sessions.settle(())
    with signal_at(ground.state_dir / "begun") as begun:
        script = f"echo $$ > {begun.path}; exec sleep 1000"
        match how:
            case "hook":
                repository.hook(script)
            case "deaf hook":
                repository.hook(f"trap '' TERM; {script}")
            case _:
                repository.smudge(f"sh -c '{script}'")
        async with trio.open_nursery() as nursery:
            what = coding(repository.path, worktree="auth")
            nursery.start_soon(sessions.prepare, new_id("session"), what)
            pid = int(await begun.wait())
            nursery.cancel_scope.cancel()
    assert not is_alive(pid)
    assert repository.look() == before
    assert ground.everything() == files
    assert ground.notes() == []


def is_alive(pid: int) -> bool:
    """A zombie is not: whoever has inherited it has not looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def killed(ground, repository, begun):
    """An agent that was killed while git worked for it; git's pid."""
    argv = [sys.executable, "-c", AGENT, new_id("session")]
    process = await trio.lowlevel.open_process(
        [*argv, str(ground.state_dir), str(repository.path)],
        env=ground.environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    pid = int(await begun.wait())
    process.kill()
    await process.wait()
    return pid


@pytest.mark.parametrize("how", ["whole", "half", "by hand"])
async def test_killed_in_the_middle_the_next_agent_undoes_it_once_git_has_ended(
    ground, repository, monkeypatch, how
):
    """`whole`: git goes on and ends well; `half`: it is killed, too."""
    before, files = repository.look(), ground.everything()
    path = ground.path / "repo-worktrees" / "auth"
    with signal_at(ground.state_dir / "begun") as begun, signal_at(ground.state_dir / "go") as go:
        script = f"echo $$ > {begun.path}; read line < {go.path}"
        if how == "half":
            repository.smudge(f"sh -c '{script}'")
        else:
            repository.hook(script)
        pid = await killed(ground, repository, begun)
        with monkeypatch.context() as impatient:
            impatient.setattr("cmdop_appliance.agent.coding.spawn.GIT_S", 0.1)
            await ground.sessions().settle(())
        assert ground.notes()  # the git of then still works there
        assert path.exists()
        if how == "half":
            os.killpg(os.getpgid(pid), signal.SIGKILL)
        else:
            go.path.write_text("go\n")
        if how == "by hand":
            sessions = ground.sessions()
            await trio.to_thread.run_sync(sessions._notes.wait_unlocked, ids_of(ground)[0])
            (path / "mine").write_text("work")
        await ground.sessions().settle(())
    assert ground.notes() == []
    if how == "by hand":
        assert (path / "mine").read_text() == "work"
        assert "cmdop-auth" in repository.git("branch")
    else:
        assert repository.look() == before
        assert ground.everything() == files


def ids_of(ground):
    return [name.partition(".")[0] for name in ground.notes() if name.endswith(".json")]


@pytest.mark.parametrize("change", ["commit", "branch", "switch", "ignored", "edit"])
async def test_what_somebody_has_done_in_a_worktree_left_behind_stays(ground, repository, change):
    sessions = ground.sessions()
    await sessions.settle(())
    what = coding(repository.path, worktree="auth")
    prepared = await sessions.prepare(new_id("session"), what)
    path = ground.path / "repo-worktrees" / "auth"
    match change:
        case "commit":
            repository.git("commit", "-q", "--allow-empty", "-m", "work", at=path)
        case "branch":  # all that is left of the worktree
            repository.git("commit", "-q", "--allow-empty", "-m", "work", at=path)
            repository.git("worktree", "remove", str(path))
            path.parent.rmdir()
        case "switch":
            repository.git("switch", "-q", "-c", "mine", at=path)
        case "ignored":
            (repository.path / ".git" / "info" / "exclude").write_text("secret\n")
            (path / "secret").touch()
        case _:
            (path / "package" / "file").write_text("work")
    before, files = repository.look(), ground.everything()
    await ground.sessions().settle(())
    assert repository.look() == before
    assert ground.everything() == files
    assert ground.notes() == []
    assert prepared.cwd == str(path)


async def test_killed_before_git_wrote_anything_the_next_agent_undoes_it(ground, repository):
    before, files = repository.look(), ground.everything()
    sessions = ground.sessions()
    await sessions.settle(())
    prepared = await sessions.prepare(new_id("session"), coding(repository.path, worktree="auth"))
    shutil.rmtree(prepared.cwd)
    Path(prepared.cwd).mkdir()
    (repository.path / ".git" / "worktrees" / "auth" / "locked").write_text("initializing")
    await ground.sessions().settle(())
    assert repository.look() == before
    assert ground.everything() == files
    assert ground.notes() == []


async def test_killed_before_it_had_the_name_the_worktree_of_another_stays(ground, repository):
    other = await ground.prepare(repository.path, worktree="auth")
    head = repository.git("rev-parse", "HEAD").strip()
    before = repository.look()
    Notes(ground.state_dir).write(new_id("session"), Note(worktree=other.worktree, base=head))
    await ground.sessions().settle(())
    assert repository.look() == before
    assert ground.notes() == []


async def test_a_repository_that_is_gone_is_no_reason_not_to_start(ground, repository):
    sessions = ground.sessions()
    await sessions.settle(())
    await sessions.prepare(new_id("session"), coding(repository.path, worktree="auth"))
    shutil.rmtree(repository.path)
    await ground.sessions().settle(())
    assert ground.notes() == []


async def test_what_git_cannot_undo_now_is_tried_the_next_time(ground, repository):
    before = repository.look()
    sessions = ground.sessions()
    await sessions.settle(())
    prepared = await sessions.prepare(new_id("session"), coding(repository.path, worktree="auth"))
    lock = repository.path / ".git" / "packed-refs.lock"
    lock.touch()  # another git that works there
    await sessions.undo(prepared)
    assert ground.notes() != []
    lock.unlink()
    await ground.sessions().settle(())
    assert repository.look() == before
    assert ground.notes() == []
