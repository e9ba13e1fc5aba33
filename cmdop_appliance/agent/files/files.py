"""All that the hub may ask of this machine's files, behind what agent.toml allows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cmdop_appliance.agent.files.digests import Digests
from cmdop_appliance.agent.files.failures import FileFailure, IsStopped
from cmdop_appliance.agent.files.operations import Operations
from cmdop_appliance.agent.files.reading import Reading
from cmdop_appliance.agent.files.roots import Roots
from cmdop_appliance.agent.files.uploads import Uploads
from cmdop_appliance.agent.files.writing import Writing
from cmdop_appliance.agent.policy import FilesPolicy, home_of, policy_file
from cmdop_appliance.protocol.files import (
    AnyAnswer,
    Copy,
    Delete,
    Done,
    Exist,
    Kept,
    List,
    Mkdir,
    Move,
    Read,
    Stat,
    Uploaded,
    Write,
)

FOLDER: Final = "files"  # in the state directory: what uploads.py keeps

_READS: Final = (List, Stat, Exist, Read, Copy)
_WRITES: Final = (Write, Uploaded, Delete, Move, Copy, Mkdir)


class Files:
    """Blocking, and for use by several threads at a time. Only FileFailure is raised.

    The state directory and the directories `keep_out` are closed to the hub, whatever the policy,
    and agent.toml stays as it is, be it `config` or in the state directory.
    """

    def __init__(
        self,
        state_dir: Path,
        policy: FilesPolicy,
        keep_out: Sequence[Path] = (),
        config: Path | None = None,
    ) -> None:
        self._policy = policy
        config = policy_file(config, state_dir)
        self._roots = Roots(policy, (state_dir, *keep_out), home_of(None), config)
        self._digests = Digests()
        self._uploads = Uploads(state_dir / FOLDER, self._roots)
        self._operations = Operations(self._roots, self._uploads, self._digests)

    def carry_out(
        self,
        call: List | Stat | Exist | Uploaded | Delete | Move | Copy | Mkdir,
        is_stopped: IsStopped,
    ) -> AnyAnswer:
        """The answer, once all is done and on the disk. `is_stopped` is asked during long work.

        Raises:
            FileFailure: it could not be done, or was stopped.
        """
        self._check(call)
        match call:
            case List():
                return self._operations.list(call)
            case Stat():
                return self._operations.stat(call, is_stopped)
            case Exist():
                return self._operations.exist(call, is_stopped)
            case Uploaded():
                with self._roots.place(call.path, follow=True) as place:
                    return Kept(offset=self._uploads.arrived(place, call.upload))
            case Delete():
                self._operations.delete(call, is_stopped)
                return Done()
            case Move():
                return self._operations.move(call, is_stopped)
            case Copy():
                return self._operations.copy(call, is_stopped)
            case Mkdir():
                return self._operations.mkdir(call)

    def open(self, call: Read) -> Reading:
        """A file to read; the caller closes it.

        Raises:
            FileFailure: there is none that may be read.
        """
        self._check(call)
        with self._roots.place(call.path, follow=True) as place:
            return Reading(place, call, self._digests)

    def place(self, call: Write, is_stopped: IsStopped) -> Writing:
        """A file to write; the caller closes it. `is_stopped` is asked in its long work, too.

        Raises:
            FileFailure: it may not be put there, or was stopped.
        """
        self._check(call)
        return Writing(self._roots, self._uploads, self._digests, call, is_stopped)

    def sweep(self) -> None:
        """Take away what nobody goes on with: at the start, and once an hour."""
        self._uploads.sweep()

    def _check(self, call: object) -> None:
        if isinstance(call, _READS) and not self._policy.read:
            raise _denied("read", "files.read")
        if isinstance(call, _WRITES) and not self._policy.write:
            raise _denied("changed", "files.write")


def _denied(what: str, key: str) -> FileFailure:
    message = f"agent.toml of this machine lets no file be {what} by a hub ({key})"
    return FileFailure("path_not_allowed", message)
