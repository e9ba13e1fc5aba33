"""Git worktrees for coding sessions: beside the repository, each on a branch of its own."""

import os
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from cmdop_appliance.agent.coding.git import Answer, Git
from cmdop_appliance.agent.coding.refusal import Refusal
from cmdop_appliance.agent.files.failures import shown
from cmdop_appliance.protocol.terminals import Worktree

_SLUG_CHARS: Final = 80  # a branch is a file name with something around it, of 255 bytes at most
# A branch that was made meanwhile, or that the other would be a directory of.
_TAKEN: Final = re.compile(rb"a branch named .* already exists|exists; cannot create")


@dataclass(frozen=True, slots=True)
class Repository:
    """A git repository, seen from one of its directories."""

    directory: str  # where the question came from
    main: str  # the main working tree; of a bare one the repository itself
    head: str  # the commit that stands checked out in `directory`


def slug_of(name: str) -> str:
    """The part of a name that may stand in paths and branches: a-z, 0-9, single dashes between.

    Raises:
        Refusal: there is none.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[: _SLUG_CHARS + 1].strip("-")[:_SLUG_CHARS]
    if not slug:
        raise Refusal(
            "invalid_worktree_name",
            f"the worktree's name {shown(name.encode())!r} has no letter from a to z and no digit",
        )
    return slug.rstrip("-")


def plan(repository: Repository, name: str) -> Worktree:
    """The worktree of this name, a slug, that may be made."""
    folder = os.path.realpath(f"{repository.main.removesuffix('.git')}-worktrees")
    return Worktree(
        repository=repository.main, path=f"{folder}/{name}", branch=f"cmdop-{name}", name=name
    )


class Taken(Exception):
    """The path or the branch belongs to somebody else; another name may do."""


class Worktrees:
    """What git does for a session."""

    def __init__(self, git: Git) -> None:
        self._git = git

    async def find(self, directory: str) -> Repository:
        """The repository that has `directory`, an absolute path without links.

        Raises:
            Refusal: there is none, git does not touch it, it is another user's, or it has no commit
                yet.
        """
        answer = await self._git.ask(directory, "rev-parse", "--git-common-dir")
        if answer.code:
            if b"not a git repository" in answer.errors:
                raise Refusal(
                    "not_a_repository",
                    f"{_shown(directory)} is in no git repository: make one there (git init), or"
                    " ask for a session without a worktree",
                )
            raise Refusal("git_failed", f"git cannot use {_shown(directory)}: {answer.words}")
        common = await _resolved(directory, answer)
        await _require_trusted(common)
        if common.name == ".git":
            main = str(common.parent)
        else:  # bare, or a submodule's, which is kept aside
            main = str(common)
            answer = await self._git.ask(directory, "rev-parse", "--git-dir")
            if await _resolved(directory, answer) == common:
                answer = await self._git.ask(directory, "rev-parse", "--show-toplevel")
                main = main if answer.code else _line(answer)
        head = await self._commit(directory, "HEAD")
        if not head:
            raise Refusal(
                "no_commits",
                f"{_shown(main)} has no commit yet, and a worktree begins at one: make it first",
            )
        return Repository(directory, main, head)

    async def is_free(self, repository: Repository, tree: Worktree) -> bool:
        """True: there is no such branch, nor does git remember a worktree at this path.

        Raises:
            Refusal: git cannot tell.
        """
        return (
            not await self._commit(repository.main, f"refs/heads/{tree.branch}")
            and await self._listed(tree) is None
        )

    async def add(self, repository: Repository, tree: Worktree, lock: int) -> None:
        """Make the worktree in its directory, which is empty and ours, and its branch.

        Raises:
            Taken: the branch is not ours to have; nothing was made.
            Refusal: git has refused; parts may be there.
        """
        answer = await self._git.ask(
            repository.directory,
            *("worktree", "add", "-b", tree.branch, "--", tree.path, repository.head),
            keep=(lock,),
        )
        if not answer.code:
            return
        if _TAKEN.search(answer.errors):
            raise Taken
        raise Refusal(
            "git_failed", f"git cannot make the worktree {_shown(tree.path)}: {answer.words}"
        )

    async def remove(self, tree: Worktree, base: str, *, has_idled: bool) -> bool:
        """Take a worktree away, and its branch. False: somebody works there, it stays.

        With `has_idled` it was made a while ago, so that whatever differs from `base`, the commit
        it was made of, is somebody's; else that comes of hooks.

        Raises:
            Refusal: git cannot do it.
        """
        if not await trio.Path(tree.repository).is_dir():
            return True
        branch = f"refs/heads/{tree.branch}"
        tip = await self._commit(tree.repository, branch)
        if tip not in ("", base):
            return False
        with suppress(OSError):  # git has put something there, or has not even seen it
            await trio.Path(tree.path).rmdir()
        listed = await self._listed(tree)
        if listed is not None:
            # It says so itself until all is checked out; before that nobody can have worked there.
            is_whole = listed.get("locked") != "initializing"
            if is_whole and (listed.get("HEAD"), listed.get("branch")) != (base, branch):
                return False
            if is_whole and has_idled and await self._is_changed(tree.path):
                return False
            # Twice: also while it is locked, as one is that was never made whole.
            await self._do(tree.repository, "worktree", "remove", "-f", "-f", "--", tree.path)
        if tip:
            await self._do(tree.repository, "branch", "-D", "--", tree.branch)
        return True

    async def _listed(self, tree: Worktree) -> dict[str, str] | None:
        """What git knows of a worktree; None: it has none at this path."""
        listing = await self._do(tree.repository, "worktree", "list", "--porcelain")
        for entry in listing.output.decode("utf-8", "surrogateescape").split("\n\n"):
            words = (line.partition(" ") for line in entry.splitlines())
            known = {key: value for key, _, value in words}
            if known.get("worktree") == tree.path:
                return known
        return None

    async def _is_changed(self, path: str) -> bool:
        if not await trio.Path(path).is_dir():
            return False
        answer = await self._git.ask(path, "status", "--porcelain", "--ignored")
        return answer.code != 0 or answer.output != b""

    async def _commit(self, directory: str, name: str) -> str:
        """The commit that a name stands for, "": for none."""
        answer = await self._git.ask(directory, "rev-parse", "--verify", "-q", f"{name}^{{commit}}")
        return "" if answer.code else _line(answer)

    async def _do(self, directory: str, *words: str) -> Answer:
        answer = await self._git.ask(directory, *words)
        if answer.code:
            raise Refusal("git_failed", f"git {words[0]} does not work: {answer.words}")
        return answer


def _line(answer: Answer) -> str:
    """The answer as a path or a word: a name may end in whitespace, so only its newline goes."""
    return os.fsdecode(answer.output).removesuffix("\n")


async def _resolved(directory: str, answer: Answer) -> trio.Path:
    return await trio.Path(directory, _line(answer)).resolve()


async def _require_trusted(common: trio.Path) -> None:
    """Pass if who owns a repository may have the agent run programs anyway.

    git itself does not look at whose the common directory of a worktree is.

    Raises:
        Refusal: it is another user's.
    """
    owner = (await common.stat()).st_uid
    if owner not in (0, os.geteuid()):
        raise Refusal(
            "repository_not_trusted",
            f"{_shown(str(common))} belongs to another user (uid {owner}), whose hooks git would"
            f" run as uid {os.geteuid()}: run an agent as that user, change the owner, or ask for a"
            " session without a worktree",
        )


def _shown(path: str) -> str:
    return shown(os.fsencode(path))
