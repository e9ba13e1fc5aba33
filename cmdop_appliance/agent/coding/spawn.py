"""Making a coding session ready to start, and undoing that if it does not."""

import logging
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from weakref import WeakValueDictionary

import trio
from msgspec.structs import replace

from cmdop_appliance.agent.coding.flavours import Places, command_line, flavour_of, named
from cmdop_appliance.agent.coding.git import GIT_S, Git
from cmdop_appliance.agent.coding.notes import Note, Notes
from cmdop_appliance.agent.coding.refusal import Refusal
from cmdop_appliance.agent.coding.worktrees import Repository, Taken, Worktrees, plan, slug_of
from cmdop_appliance.agent.files.failures import FileFailure, failure_of, shown, swapped
from cmdop_appliance.agent.files.roots import Roots
from cmdop_appliance.agent.policy import Denied, Policy, home_of, judge, policy_file
from cmdop_appliance.protocol.messages import Spec
from cmdop_appliance.protocol.terminals import Coding, Worktree

log = logging.getLogger("cmdop.agent.coding")

T = TypeVar("T")
R = TypeVar("R")

# What a failure with files is called here: as of commands, whose directory is not open.
_CODES: Final = {"file_not_found": "directory_missing", "path_not_allowed": "policy_denied"}
_TRIES: Final = 5  # names for a worktree, the first without a suffix (contract.md §9)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the keeper is to start: as the agent's own user, `env` on top of its environment."""

    id: str
    argv: list[str]
    cwd: str  # absolute, no links in it
    env: dict[str, str]
    worktree: Worktree | None


class CodingSessions:
    """Prepares coding sessions, within what agent.toml allows.

    Of each session that was prepared either `started` or `undo` is called; whatever was not when
    the agent ended is for `settle`, which runs once at its start, and for which `prepare` waits.
    """

    def __init__(
        self,
        state_dir: Path,
        policy: Policy,
        environment: Mapping[str, str],
        keep_out: Sequence[Path] = (),
        config: Path | None = None,
    ) -> None:
        """`environment` is what programs get; the others are as of `Files`."""
        self._state_dir = state_dir
        self._policy = policy
        home = home_of(None)
        self._home = os.fsdecode(home)
        self._environment = {"HOME": self._home, **environment}
        config = policy_file(config, state_dir)
        self._roots = Roots(policy.files, (state_dir, *keep_out), home, config)
        self._places = Places(self._environment, policy.coding.path, self._home)
        self._notes = Notes(state_dir)
        self._open: dict[str, Note] = {}  # neither started nor undone
        self._ground = trio.CapacityLimiter(1)  # directories are made and removed one by one
        self._locks = WeakValueDictionary[str, trio.Lock]()  # of each repository that one works in
        self._is_settled = trio.Event()

    async def prepare(self, session_id: str, coding: Coding) -> Prepared:
        """Find the program, and make the directory, or the worktree, that it starts in.

        Raises:
            Refusal: the session cannot be started, and nothing of it is left.
        """
        await self._is_settled.wait()
        try:
            with self._refusing():
                return await self._prepare(session_id, coding)
        except BaseException:
            await self._undo(session_id, has_idled=False)
            raise

    async def undo(self, prepared: Prepared) -> None:
        """The keeper did not start it: take away what was made for it.

        What somebody else has put there, or uses, stays. Cancelling this takes effect afterwards.
        """
        await self._undo(prepared.id, has_idled=False)

    def started(self, session_id: str) -> None:
        """The keeper has it: what was made stays."""
        self._open.pop(session_id, None)
        with suppress(OSError):  # `settle` will hear of it
            self._notes.remove(session_id)

    async def settle(self, known_ids: Collection[str]) -> None:
        """Undo what an agent before this one has left, but for sessions that the keeper knows.

        Waits for git that still works for them. What cannot be undone now is tried the next time.
        """
        try:
            for session_id, note in self._notes.read().items():
                if session_id in known_ids:
                    self._notes.remove(session_id)
                elif note is None:
                    log.warning("a note is damaged", extra={"session": session_id})
                    self._notes.remove(session_id)
                elif await self._is_quiet(session_id):
                    self._open[session_id] = note
                    await self._undo(session_id, has_idled=True)
        except OSError as exc:
            log.warning("sessions not settled", extra={"error": str(exc)})
        finally:
            self._is_settled.set()

    async def _prepare(self, session_id: str, coding: Coding) -> Prepared:
        if not self._policy.coding.enabled:
            raise Refusal(
                "policy_denied",
                "agent.toml of this machine allows no coding sessions (coding.enabled)",
            )
        flavour = flavour_of(coding, self._policy.coding.flavours)
        name = named(coding.flavour, flavour)
        program = await trio.to_thread.run_sync(self._places.find, flavour.programs, name)
        argv = command_line(program, flavour, coding)
        (verdict,) = await trio.to_thread.run_sync(
            judge, self._policy, self._state_dir, [Spec(argv=argv)]
        )
        if isinstance(verdict, Denied):
            raise Refusal(verdict.code, verdict.message)
        path = self._meant(coding.directory)
        worktree = None
        if coding.worktree is None:
            cwd = await self._directory(session_id, path)
        else:
            worktree = await self._worktree(session_id, path, slug_of(coding.worktree))
            cwd = worktree.path
        return Prepared(session_id, argv, cwd, {"PATH": self._places.path}, worktree)

    def _meant(self, directory: str) -> bytes:
        """Where a directory stands that a person named."""
        path = self._roots.from_home(directory.encode())
        if not path.startswith(b"/") or b"\0" in path:
            raise Refusal(
                "invalid_directory",
                f"directory {shown(directory.encode())!r} must begin with '/' or '~/', and have no"
                " NUL in it",
            )
        return path

    async def _directory(self, session_id: str, path: bytes) -> str:
        """The directory, made with those above it if it was missing."""
        try:
            return await self._existing(session_id, path)
        except FileFailure as exc:  # outside the roots not even this is told
            if exc.code != "file_not_found":
                raise
        if not self._policy.files.write:
            raise Refusal(
                "directory_missing",
                f"{shown(path)} does not exist, and agent.toml of this machine lets nothing be made"
                " (files.write)",
            )
        missing = await self._on_ground(_missing_of, path)
        await self._remember(session_id, Note(directories=missing))
        await self._on_ground(self._make, path)
        return await self._existing(session_id, path)

    async def _existing(self, session_id: str, path: bytes) -> str:
        """Where a directory is, links followed."""
        cwd = await self._on_ground(self._look, path)
        # Whoever made it, or what it is in, would pull it from under this session's feet.
        for other_id, note in list(self._open.items()):
            kept = tuple(made for made in note.directories if not f"{cwd}/".startswith(f"{made}/"))
            if other_id != session_id and kept != note.directories:
                await self._remember(other_id, replace(note, directories=kept))
        return cwd

    async def _worktree(self, session_id: str, path: bytes, slug: str) -> Worktree:
        """A new worktree of the repository that has the directory `path`."""
        if not self._policy.files.write:
            raise Refusal(
                "policy_denied",
                "agent.toml of this machine lets no worktree be made (files.write)",
            )
        directory = await self._existing(session_id, path)
        worktrees = await self._worktrees()
        repository = await worktrees.find(directory)
        await self._on_ground(self._look, os.fsencode(repository.main))
        async with self._working_in(repository.main):
            return await self._add(session_id, worktrees, repository, slug)

    async def _add(
        self, session_id: str, worktrees: Worktrees, repository: Repository, slug: str
    ) -> Worktree:
        for attempt in range(_TRIES):
            name = f"{slug}-{secrets.token_hex(2)}" if attempt else slug
            tree = plan(repository, name)
            if not await worktrees.is_free(repository, tree):
                continue
            missing = await self._on_ground(_missing_of, os.fsencode(tree.path))
            note = Note(
                directories=(*missing, *self._made_above(tree.path, missing)),
                worktree=tree,
                base=repository.head,
            )
            await self._remember(session_id, note)
            if not await self._on_ground(self._claim, os.fsencode(tree.path)):
                continue
            await self._remember(session_id, replace(note, is_ours=True))
            try:
                with self._notes.locked(session_id) as lock:
                    await worktrees.add(repository, tree, lock)
            except Taken:
                await self._remember(session_id, note)
                await self._undo(session_id, has_idled=False)
            else:
                return tree
        raise Refusal(
            "worktree_taken",
            f"the worktree's name {slug!r} is taken in {shown(os.fsencode(repository.main))}, and"
            f" so were {_TRIES - 1} like it; choose another",
        )

    def _working_in(self, repository: str) -> trio.Lock:
        """Held by whoever changes a repository: git does not bear two of its worktree commands."""
        return self._locks.setdefault(repository, trio.Lock())

    def _made_above(self, path: str, missing: Collection[str]) -> list[str]:
        """What others have made around a path: whoever is undone last takes it away."""
        made = {one for note in self._open.values() for one in note.directories}
        above = {one for one in made.difference(missing) if path.startswith(f"{one}/")}
        return sorted(above, key=len, reverse=True)

    async def _worktrees(self) -> Worktrees:
        program = await trio.to_thread.run_sync(self._places.find, ("git",), "git")
        return Worktrees(Git(program, self._environment | {"PATH": self._places.path}))

    async def _remember(self, session_id: str, note: Note) -> None:
        self._open[session_id] = note
        await trio.to_thread.run_sync(self._notes.write, session_id, note)

    async def _undo(self, session_id: str, *, has_idled: bool) -> None:
        note = self._open.get(session_id)
        if note is None:
            return
        with trio.CancelScope(shield=True):
            try:
                tree = note.worktree
                if tree is not None and note.is_ours:
                    worktrees = await self._worktrees()
                    async with self._working_in(tree.repository):
                        is_gone = await worktrees.remove(tree, note.base, has_idled=has_idled)
                    if not is_gone:
                        log.warning("somebody works in a worktree", extra=_fields(session_id, note))
                await self._on_ground(_remove_empty, note.directories)
                await trio.to_thread.run_sync(self._notes.remove, session_id)
            except (Refusal, OSError) as exc:
                log.warning("not undone", extra=_fields(session_id, note) | {"error": str(exc)})
            self._open.pop(session_id)

    async def _is_quiet(self, session_id: str) -> bool:
        """True: no git of an agent before this one works for the session any more."""
        with trio.move_on_after(GIT_S):
            await trio.to_thread.run_sync(
                self._notes.wait_unlocked, session_id, abandon_on_cancel=True
            )
            return True
        log.warning("git of an earlier agent still runs", extra={"session": session_id})
        return False

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """What the file system does not allow is a Refusal."""
        try:
            yield
        except FileFailure as exc:
            raise Refusal(_CODES.get(exc.code, exc.code), exc.message) from exc
        except UnicodeError as exc:  # of a path that links have led to
            raise Refusal("invalid_directory", "the directory's path is not UTF-8") from exc
        except OSError as exc:  # of a note
            failure = failure_of(exc, os.fsencode(self._state_dir))
            raise Refusal(failure.code, failure.message) from exc

    # ── on the ground: in threads, one at a time ─────────────────────────────────────────────

    async def _on_ground(self, act: Callable[[T], R], what: T) -> R:
        return await trio.to_thread.run_sync(act, what, limiter=self._ground)

    def _look(self, path: bytes) -> str:
        """A directory that is there, links followed."""
        with self._roots.place(path, follow=True) as place:
            if not stat.S_ISDIR(place.found().st_mode):
                raise Refusal(
                    "not_a_directory",
                    f"{shown(path)} is not a directory, and a session needs one to start in",
                )
            return place.real.decode()

    def _make(self, path: bytes) -> None:
        """Have a directory and all above it; what is there already will be looked at."""
        with self._roots.place(path, follow=True, make_parents=True) as place:
            if place.status is None:
                os.mkdir(place.name, dir_fd=place.parent)

    def _claim(self, path: bytes) -> bool:
        """Make a directory that was not there. False: it is."""
        with self._roots.place(path, follow=False, make_parents=True) as place:
            if place.real != path:
                raise swapped(path)
            try:
                os.mkdir(place.name, dir_fd=place.parent)
            except FileExistsError:
                return False
            return True


def _missing_of(path: bytes) -> tuple[str, ...]:
    """What of a path is not there, the deepest first, links followed."""
    real = Path(os.path.realpath(os.fsdecode(path)))
    return tuple(str(above) for above in (real, *real.parents) if not os.path.lexists(above))


def _remove_empty(directories: Iterable[str]) -> None:
    for directory in directories:
        with suppress(OSError):  # it is gone, or somebody has put something there
            Path(directory).rmdir()


def _fields(session_id: str, note: Note) -> dict[str, object]:
    return {"session": session_id, "path": note.worktree and note.worktree.path}
