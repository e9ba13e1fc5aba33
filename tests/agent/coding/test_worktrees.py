"""Git worktrees: where they are made, what refuses them, and that a failed start leaves nothing."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cmdop_appliance.agent.coding import git as running
from cmdop_appliance.agent.coding.refusal import Refusal
from cmdop_appliance.agent.coding.worktrees import slug_of
from cmdop_appliance.agent.files.failures import FileFailure
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.limits import NAME_CHARS
from tests.agent.coding.ground import AGENT, Repository, coding


async def undone(ground, repository, **what):
    """Prepared, and not started: nothing is left."""
    sessions = ground.sessions()
    await sessions.settle(())
    before, files = repository.look(), ground.everything()
    prepared = await sessions.prepare(new_id("session"), coding(repository.path, **what))
    assert repository.look() != before
    await sessions.undo(prepared)
    assert repository.look() == before
    assert ground.everything() == files
    assert ground.notes() == []
    return prepared


async def refused(ground, repository, directory=None, name="auth"):
    """Why no worktree is made; git is as before."""
    before = repository.look()
    refusal = await ground.refusal(directory or repository.path, worktree=name)
    assert repository.look() == before
    return refusal


# ── where ────────────────────────────────────────────────────────────────────────────────────


async def test_a_worktree_stands_beside_the_repository_on_a_branch_of_its_own(ground, repository):
    prepared = await ground.prepare(repository.path, worktree="Feature: auth")
    path = ground.path / "repo-worktrees" / "feature-auth"
    assert prepared.cwd == str(path)
    assert (path / "package" / "file").read_text() == "content\n"
    assert prepared.worktree is not None
    assert prepared.worktree.repository == str(repository.path)
    assert prepared.worktree.path == str(path)
    assert prepared.worktree.branch == "cmdop-feature-auth"
    assert prepared.worktree.name == "feature-auth"
    assert repository.git("branch", "--show-current", at=path) == "cmdop-feature-auth\n"


async def test_a_start_that_fails_leaves_git_as_it_was(ground, repository):
    await undone(ground, repository, worktree="auth")
    (ground.path / "repo-worktrees").mkdir()
    await undone(ground, repository, worktree="auth")
    assert (ground.path / "repo-worktrees").is_dir()  # it was there


async def test_a_sub_directory_and_another_worktree_lead_to_the_same_place(ground, repository):
    repository.git("worktree", "add", "-q", "-b", "other", str(ground.path / "elsewhere"))
    (ground.path / "elsewhere" / "more").mkdir()
    repository.git("commit", "-q", "--allow-empty", "-m", "more", at=ground.path / "elsewhere")
    prepared = await ground.prepare(repository.path / "package", worktree="one")
    assert prepared.cwd == str(ground.path / "repo-worktrees" / "one")
    prepared = await ground.prepare(ground.path / "elsewhere" / "more", worktree="two")
    assert prepared.cwd == str(ground.path / "repo-worktrees" / "two")
    assert prepared.worktree is not None
    assert prepared.worktree.repository == str(repository.path)
    # It goes on from where the person stands.
    assert repository.git("rev-parse", "cmdop-two") == repository.git("rev-parse", "other")


async def test_a_link_to_the_repository_and_one_to_its_worktrees_are_followed(ground, repository):
    (ground.path / "link").symlink_to(repository.path)
    (ground.path / "big-disk").mkdir()
    (ground.path / "repo-worktrees").symlink_to(ground.path / "big-disk")
    prepared = await undone(ground, repository, worktree="auth")
    assert prepared.cwd == str(ground.path / "big-disk" / "auth")


async def test_a_bare_repository_and_a_submodule_have_worktrees_too(ground, repository):
    repository.git("clone", "-q", "--bare", str(repository.path), str(ground.path / "bare.git"))
    prepared = await ground.prepare(ground.path / "bare.git", worktree="auth")
    assert prepared.cwd == str(ground.path / "bare-worktrees" / "auth")
    outer = Repository(ground, ground.path / "outer")
    outer.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(repository.path))
    prepared = await ground.prepare(outer.path / "repo" / "package", worktree="auth")
    assert prepared.cwd == str(outer.path / "repo-worktrees" / "auth")


async def test_a_repository_outside_the_roots_gets_no_worktree(ground, repository):
    policy = ground.policy(roots=(str(repository.path),))
    refusal = await ground.refusal(repository.path, policy, worktree="auth")
    assert refusal.startswith("policy_denied: ")
    policy = ground.policy(
        roots=(str(repository.path / "package"), f"{ground.path}/repo-worktrees")
    )
    refusal = await ground.refusal(repository.path / "package", policy, worktree="auth")
    assert refusal.startswith("policy_denied: ")
    policy = ground.policy(write=False)
    refusal = await ground.refusal(repository.path, policy, worktree="auth")
    assert refusal.startswith("policy_denied: ")
    assert "files.write" in refusal


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_a_repository_of_another_user_runs_nothing_as_the_agent(ground, repository):
    repository.hook(f"touch {ground.path}/hooked")
    repository.git("worktree", "add", "-q", "--no-checkout", "../ours")  # git would take it
    os.chown(repository.path / ".git", 65534, 65534)
    refusal = await ground.refusal(ground.path / "ours", worktree="auth")
    assert refusal.startswith(f"repository_not_trusted: {repository.path}/.git belongs to ")
    assert "(uid 65534)" in refusal


async def test_an_agent_that_git_has_started_still_finds_the_right_repository(ground, repository):
    other = Repository(ground, ground.path / "other")
    ground.environment["GIT_DIR"] = str(other.path / ".git")
    prepared = await ground.prepare(repository.path, worktree="auth")
    del ground.environment["GIT_DIR"]
    assert prepared.cwd == str(ground.path / "repo-worktrees" / "auth")


# ── names ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("feature-auth", "feature-auth"),
        ("--force", "force"),
        ("-", None),
        ("../../etc/passwd", "etc-passwd"),
        ("..", None),
        ("a b\tc\nd\0e", "a-b-c-d-e"),
        ("v1.2.lock", "v1-2-lock"),
        ("Größe", "große".replace("ö", "o").replace("ß", "") or None),
        ("日本語", None),
        ("\u202eevil", "evil"),
        ("@{-1}", "1"),
        ("HEAD", "head"),
        ("x" * 300, "x" * 80),
        ("y" * 79 + "-zzz", "y" * 79),
        ("", None),
    ],
)
def test_of_a_name_only_what_is_safe_in_paths_and_branches_is_left(name, slug):
    if slug is None:
        with pytest.raises(Refusal, match="no letter") as caught:
            slug_of(name)
        assert caught.value.code == "invalid_worktree_name"
        assert caught.value.message.isprintable()
    else:
        assert slug_of(name) == slug


async def test_the_longest_name_is_made(ground, repository):
    await undone(ground, repository, worktree="w" * NAME_CHARS)


@pytest.mark.parametrize("taken", ["path", "branch", "branch below", "forgotten"])
async def test_a_taken_name_gets_a_suffix_and_nothing_of_the_other_is_touched(
    ground, repository, taken
):
    path = ground.path / "repo-worktrees" / "auth"
    match taken:
        case "path":
            path.mkdir(parents=True)
        case "branch":
            repository.git("branch", "cmdop-auth")
        case "branch below":
            repository.git("branch", "cmdop-auth/more")
        case _:
            repository.git("worktree", "add", "-q", "--detach", str(path))
            shutil.rmtree(path)
    prepared = await undone(ground, repository, worktree="auth")
    assert prepared.worktree is not None
    assert re.fullmatch("auth-[0-9a-f]{4}", prepared.worktree.name)
    assert prepared.worktree.path == f"{path}-{prepared.worktree.name[-4:]}"
    assert prepared.worktree.branch == f"cmdop-{prepared.worktree.name}"


async def test_a_branch_that_somebody_makes_at_the_same_moment_stays_theirs(ground, repository):
    found = shutil.which("git")
    ground.program(
        "git",
        f"""#!/bin/sh
case "$*" in *"worktree add"*)
    [ -e {ground.home}/once ] || {found} -C {repository.path} branch -q cmdop-auth
    touch {ground.home}/once ;;
esac
exec {found} "$@"
""",
    )
    prepared = await ground.prepare(repository.path, worktree="auth")
    assert prepared.worktree is not None
    assert prepared.worktree.name != "auth"
    assert repository.git("branch", "--list", "cmdop-auth") == "  cmdop-auth\n"
    assert not (ground.path / "repo-worktrees" / "auth").exists()


async def test_five_taken_names_are_enough(ground, repository, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda _: "beef")
    repository.git("branch", "cmdop-auth")
    repository.git("branch", "cmdop-auth-beef")
    refusal = await refused(ground, repository)
    assert refusal.startswith("worktree_taken: the worktree's name 'auth' is taken")


async def test_git_changes_a_repository_for_one_session_at_a_time(ground, repository):
    found = shutil.which("git")
    ground.program(
        "git",
        f"""#!/bin/sh
case "$*" in
*"worktree add"* | *"worktree remove"* | *"branch -D"*)
    mkdir {ground.home}/busy || {{ echo at once >&2; exit 7; }}
    {found} "$@"; code=$?
    rmdir {ground.home}/busy; exit $code ;;
esac
exec {found} "$@"
""",
    )
    sessions = ground.sessions()
    await sessions.settle(())
    before = repository.look()

    async def come_and_go(name):
        what = coding(repository.path, worktree=name)
        await sessions.undo(await sessions.prepare(new_id("session"), what))

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(come_and_go, name)
    assert repository.look() == before
    assert ground.notes() == []


async def test_sessions_of_one_name_at_once_each_have_their_own(ground, repository):
    sessions = ground.sessions()
    await sessions.settle(())
    before = repository.look()
    made = []

    async def prepare():
        what = coding(repository.path, worktree="auth")
        made.append(await sessions.prepare(new_id("session"), what))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(prepare)
    assert len({prepared.cwd for prepared in made}) == 3
    assert all(Path(prepared.cwd, "package", "file").exists() for prepared in made)
    async with trio.open_nursery() as nursery:
        for prepared in made:
            nursery.start_soon(sessions.undo, prepared)
    assert repository.look() == before
    assert not (ground.path / "repo-worktrees").exists()


async def test_of_two_that_fail_the_last_takes_their_common_folder_away(ground, repository):
    sessions = ground.sessions()
    await sessions.settle(())
    what = coding(repository.path, worktree="auth")
    first = await sessions.prepare(new_id("session"), what)
    second = await sessions.prepare(new_id("session"), what)
    await sessions.undo(first)
    assert Path(second.cwd, "package").exists()
    await sessions.undo(second)
    assert not (ground.path / "repo-worktrees").exists()


def test_a_folder_that_became_a_link_meanwhile_is_no_place_for_a_worktree(ground):
    (ground.path / "folder").symlink_to(ground.home)
    with pytest.raises(FileFailure, match="was changed meanwhile"):
        ground.sessions()._claim(os.fsencode(ground.path / "folder" / "auth"))
    assert not (ground.home / "auth").exists()


# ── what refuses ─────────────────────────────────────────────────────────────────────────────


async def test_no_repository_and_no_directory_are_said_so(ground, repository):
    refusal = await refused(ground, repository, ground.home)
    assert refusal.startswith(f"not_a_repository: {ground.home} is in no git repository")
    refusal = await refused(ground, repository, ground.path / "missing")
    assert refusal.startswith("directory_missing: ")
    refusal = await refused(ground, repository, repository.path / "package" / "file")
    assert refusal.startswith("not_a_directory: ")


async def test_a_repository_without_commits_has_nothing_to_begin_at(ground, repository):
    repository.git("init", "-q", str(ground.path / "empty"))
    refusal = await refused(ground, repository, ground.path / "empty")
    assert refusal.startswith("no_commits: ")


async def test_without_git_it_is_said_where_it_was_looked_for(ground, repository):
    found = shutil.which("git", path=f"{os.environ['PATH']}:/usr/local/bin:/usr/bin:/bin")
    assert found is not None
    ground.program("git", "#!/no/such/interpreter\n")
    refusal = await refused(ground, repository)
    assert refusal.startswith("git_failed: cannot start ")


async def test_what_stands_where_worktrees_go_is_named(ground, repository):
    (ground.path / "repo-worktrees").touch()
    refusal = await refused(ground, repository)
    assert refusal.startswith("not_a_directory: ")
    assert "repo-worktrees" in refusal


@pytest.mark.parametrize("closed", ["parent", "git"])
def test_a_parent_or_a_repository_that_cannot_be_written_is_named(ground, repository, closed):
    # Root may write anywhere, but for what it gives away for good.
    meek = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
    if os.geteuid() != 0:
        meek = []
    elif shutil.which("setpriv") is None:
        pytest.skip("no setpriv: root can write anywhere")
    work = ground.path / "work"
    other = Repository(ground, work / "repo") if work.mkdir() is None else repository
    folders = (
        [work] if closed == "parent" else [other.path / ".git", other.path / ".git/refs/heads"]
    )
    before, files = other.look(), ground.everything()
    for folder in folders:
        folder.chmod(0o555)
    try:
        argv = [*meek, sys.executable, "-c", AGENT, new_id("session")]
        told = subprocess.run(
            [*argv, str(ground.state_dir), str(other.path)],
            env=ground.environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert told.startswith("file_permission_denied" if closed == "parent" else "git_failed")
    assert "ermission denied" in told
    assert other.look() == before
    assert ground.everything() == files
    assert ground.notes() == []


async def test_a_hook_that_fails_is_quoted_and_leaves_nothing(ground, repository):
    repository.hook("touch left; printf 'no \\033[2Jlicence\\n' >&2; exit 3")
    refusal = await refused(ground, repository)
    assert refusal.startswith("git_failed: ")
    assert "licence" in refusal
    assert "\x1b" not in refusal


async def test_a_hook_that_floods_or_leaves_a_daemon_is_nothing_to_wait_for(ground, repository):
    repository.hook("yes | head -c 3000000 >&2; sleep 1000 & echo $! > pid")
    with trio.fail_after(20):
        prepared = await ground.prepare(repository.path, worktree="auth")
    os.kill(int(Path(prepared.cwd, "pid").read_text()), signal.SIGKILL)


async def test_git_that_takes_too_long_is_ended_and_undone(ground, repository, monkeypatch):
    monkeypatch.setattr(running, "GIT_S", 0.5)
    repository.hook("sleep 1000")
    assert "was ended after 0.5 s" in await refused(ground, repository)
