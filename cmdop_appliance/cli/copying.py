"""What one run of `cmdop cp` does with one machine: files and trees, either way."""

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any, Final

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.failures import Failure, as_failure, report
from cmdop_appliance.cli.places import below, is_directory, is_directory_text, look, name_of
from cmdop_appliance.cli.progress import Progress
from cmdop_appliance.cli.text import unicode_text
from cmdop_appliance.sdk import Client, CmdopError, Conflict, Forbidden
from cmdop_appliance.sdk.types import FileEntry, Machine
from cmdop_appliance.sdk.umask import less_umask

# Directories in each other: each is open while those in it are copied, and a descriptor is dear.
_LEVELS: Final = 200
# What says that the next file will not fare better.
_FOR_ALL: Final = frozenset({failures.NOT_ALLOWED, failures.UNREACHABLE, failures.OFFLINE})
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TOO_DEEP: Final = f"it is more than {_LEVELS} directories deep"
_RECURSE: Final = "-r copies directories"


class Copying:
    """Copies to or from one machine, and keeps what came of each file.

    What fails is told and passed over, unless it stands in the way of all that is to follow: the
    hub or the machine is away, or the key is not good for it. Then that is all that comes of the
    rest.
    """

    def __init__(
        self, client: Client, machine: Machine, *, recursive: bool, quiet: bool, aloud: bool
    ) -> None:
        """`aloud`: failures go to stderr as they come."""
        self._files = client.files
        self._machine = machine
        self._recursive = recursive
        self._quiet = quiet
        self._aloud = aloud
        self.records: list[dict[str, Any]] = []  # a file each
        self.failures: list[Failure] = []
        self._done = 0  # sources of which there is no more to come
        self._end: Failure | None = None  # what stood in the way of the rest

    @property
    def exit_code(self) -> int:
        """Of the program, if this was all."""
        if self._end is not None:
            return self._end.exit_code
        if len(self.records) == 1 and self.failures:
            return self.failures[0].exit_code
        return failures.OTHER if self.failures else 0

    # ── to the machine ───────────────────────────────────────────────────────────────────────────

    def send_all(self, sources: tuple[str, ...], destination: str) -> None:
        """Each to `destination`, or into it if that is a directory."""
        shown = self._shown(destination)
        with self._rest(sources, shown):
            there, is_there = self._look(destination)
            if not there and (len(sources) > 1 or is_directory_text(destination)):
                raise _no_directory(shown, is_there=is_there)
            for source in sources:
                name = name_of(source)
                target = below(destination, name) if there and name else destination
                self._send(source, target, is_there=None if there else is_there)
                self._done += 1

    def send_stream(self, destination: str) -> None:
        """Standard input."""
        shown = self._shown(destination)
        with self._rest(["-"], shown):
            if sys.stdin is None:
                raise Failure("standard input is closed", exit_code=failures.USAGE)
            if self._look(destination)[0] or is_directory_text(destination):
                raise Failure(
                    f"{destination} is a directory, and standard input has no name",
                    exit_code=failures.USAGE,
                    hint="name the file",
                )
            with self._one("-", shown, there=destination) as (record, progress):
                written = self._files.upload(
                    self._machine["id"], sys.stdin.buffer, destination, progress=progress
                )
                record |= {"size": written["size"], "sha256": written["sha256"]}

    def _send(self, source: str, destination: str, *, is_there: bool | None) -> None:
        """`is_there`: something is at `destination`; None: nobody has looked."""
        shown = self._shown(destination)
        try:
            mode = Path(source).stat().st_mode
        except OSError as exc:
            self._refuse(source, shown, _reason(exc))
            return
        if stat.S_ISREG(mode):
            self._send_file(source, destination, mode, is_there=is_there)
        elif not stat.S_ISDIR(mode):
            self._refuse(source, shown, "it is not a regular file")
        elif not self._recursive:
            self._refuse(source, shown, "it is a directory", hint=_RECURSE)
        else:
            self._send_tree(source, destination, mode, level=1)

    def _send_tree(self, source: str, destination: str, mode: int, *, level: int) -> None:
        try:
            with os.scandir(source) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            is_new = self._make(destination, mode)
        except OSError as exc:
            self._refuse(source, self._shown(destination), _reason(exc))
            return
        except CmdopError as exc:
            self._pass_over(source, self._shown(destination), exc, there=destination)
            return
        for entry in found:
            target = below(destination, entry.name)
            shown = self._shown(target)
            try:
                mode = entry.stat().st_mode
            except OSError as exc:  # such as a link that leads nowhere
                self._refuse(entry.path, shown, _reason(exc))
                continue
            if stat.S_ISREG(mode):
                self._send_file(entry.path, target, mode, is_there=False if is_new else None)
            elif not stat.S_ISDIR(mode):
                self._refuse(entry.path, shown, "it is not a regular file")
            elif entry.is_symlink():
                self._refuse(entry.path, shown, "it is a link to a directory")
            elif level == _LEVELS:
                self._refuse(entry.path, shown, _TOO_DEEP)
            else:
                self._send_tree(entry.path, target, mode, level=level + 1)

    def _make(self, path: str, mode: int) -> bool:
        """Make a directory that is as private as the one here; False: there is one already."""
        try:
            self._files.mkdir(self._machine["id"], path, mode=less_umask(mode) | stat.S_IRWXU)
        except Conflict as exc:
            if exc.code != "file_exists" or not self._look(path)[0]:
                raise
            return False
        return True

    def _send_file(
        self, source: str, destination: str, mode: int, *, is_there: bool | None
    ) -> None:
        shown = self._shown(destination)
        with self._one(source, shown, there=destination) as (record, progress):
            if is_there is None:
                is_there = self._look(destination)[1]
            written = self._files.upload(
                self._machine["id"],
                source,
                destination,
                mode=None if is_there else less_umask(mode),  # one that is there keeps its own
                progress=progress,
            )
            record |= {"size": written["size"], "sha256": written["sha256"]}

    # ── from the machine ─────────────────────────────────────────────────────────────────────────

    def fetch_all(self, paths: list[str], destination: str) -> None:
        """Each to `destination` here, or into it if that is a directory."""
        with self._rest([*map(self._shown, paths)], destination):
            there = Path(destination).is_dir()
            if not there and (len(paths) > 1 or is_directory_text(destination)):
                raise _no_directory(destination, is_there=os.path.lexists(destination.rstrip("/")))
            for path in paths:
                name = name_of(path)
                target = str(Path(destination) / name) if there and name else destination
                self._fetch(path, target)
                self._done += 1

    def fetch_to_stdout(self, path: str) -> None:
        """The bytes of a file."""
        shown = self._shown(path)
        with self._rest([shown], "-"), self._one(shown, "-", here="standard output"):
            for piece in self._files.stream(self._machine["id"], path):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()

    def _fetch(self, path: str, target: str) -> None:
        try:
            entry = self._files.stat(self._machine["id"], path)
            is_tree = is_directory(self._files, self._machine["id"], entry)
        except CmdopError as exc:
            self._pass_over(self._shown(path), target, exc)
            return
        if not is_tree:
            self._fetch_file(path, target, target)
        elif not self._recursive:
            self._refuse(self._shown(path), target, "it is a directory", hint=_RECURSE)
        else:
            place = Path(target).absolute()
            try:
                directory = os.open(place.parent, _DIRECTORY)
            except OSError as exc:
                self._refuse(self._shown(path), target, _reason_at(target, exc))
                return
            try:
                # What this path leads to is the user's own choice: a link there is followed.
                self._fetch_tree(path, entry, place.name, directory, target, level=1)
            finally:
                os.close(directory)

    def _fetch_tree(
        self, path: str, entry: FileEntry, name: str, parent: int, target: str, *, level: int
    ) -> None:
        """Put what is in a directory of the machine into `name`, below the open `parent`.

        Names come from the machine. None of them leads out of `parent`: each is one component,
        and a link that stands there is not followed.
        """
        try:
            found = sorted(
                self._files.list(self._machine["id"], path, hidden=True), key=lambda e: e["name"]
            )
            directory = _enter(name, parent, entry["mode"], follow=level == 1)
        except OSError as exc:
            self._refuse(self._shown(path), target, _reason_at(target, exc))
            return
        except CmdopError as exc:
            self._pass_over(self._shown(path), target, exc)
            return
        try:
            for below_it in found:
                self._fetch_entry(path, below_it, directory, target, level=level)
        finally:
            os.close(directory)

    def _fetch_entry(
        self, path: str, entry: FileEntry, directory: int, target: str, *, level: int
    ) -> None:
        name = entry["name"]
        source, where = below(path, name), f"{target}/{name}"
        if not _is_component(name):
            self._refuse(self._shown(path), target, f"{name!r} in it is no name of a file")
        elif entry["type"] == "file":
            self._fetch_file(source, name, where, dir_fd=directory)
        elif entry["type"] != "directory":
            what = "a link" if entry["type"] == "symlink" else "not a regular file"
            self._refuse(self._shown(source), where, f"it is {what}")
        elif level == _LEVELS:
            self._refuse(self._shown(source), where, _TOO_DEEP)
        else:
            self._fetch_tree(source, entry, name, directory, where, level=level + 1)

    def _fetch_file(self, path: str, local: str, shown: str, *, dir_fd: int | None = None) -> None:
        with self._one(self._shown(path), shown, here=shown) as (record, progress):
            read = self._files.download(
                self._machine["id"], path, local, dir_fd=dir_fd, progress=progress
            )
            record |= {"size": read["size"], "sha256": read["sha256"]}

    # ── both ─────────────────────────────────────────────────────────────────────────────────────

    def _look(self, path: str) -> tuple[bool, bool]:
        """As `look`; a key that may only write is taken at its word."""
        try:
            return look(self._files, self._machine["id"], path)
        except Forbidden:
            return is_directory_text(path), False

    def _shown(self, path: str) -> str:
        return f"{self._machine['name']}:{path}"

    @contextmanager
    def _rest(self, sources: Sequence[str], destination: str) -> Iterator[None]:
        """All sources, of which those that are not done will not be after a failure in here."""
        try:
            yield
        except (CmdopError, Failure) as exc:
            self._end = as_failure(exc) if isinstance(exc, CmdopError) else exc
            for source in sources[self._done :]:
                self._note(source, destination, self._end)
            if self._aloud:
                report(self._end)

    @contextmanager
    def _one(
        self, source: str, destination: str, *, here: str = "", there: str = ""
    ) -> Iterator[tuple[dict[str, Any], Progress]]:
        """One file, whose failure is noted and passed over.

        `here`, `there`: where it shall be, if that is here, or on the machine.
        """
        record = self._record(source, destination)
        try:
            with Progress(source, quiet=self._quiet) as progress:
                yield record, progress
        except BrokenPipeError:
            raise
        except OSError as exc:
            reason = _reason_at(here, exc) if here else _reason(exc)
            self._refuse(source, destination, reason)
        except CmdopError as exc:
            self._pass_over(source, destination, exc, there=there)
        else:
            self.records.append(record)

    def _pass_over(
        self, source: str, destination: str, error: CmdopError, *, there: str = ""
    ) -> None:
        """`there`: see `_one`."""
        failure, code = as_failure(error), getattr(error, "code", "")
        if failure.exit_code in _FOR_ALL or code == "machine_not_found":
            raise error
        parent = str(PurePosixPath(there).parent)
        if there and code == "file_not_found" and not self._look(parent)[1]:
            failure.hint = f"cmdop files mkdir -p {quote(self._shown(parent))}"
        self._fail(source, destination, failure)

    def _refuse(self, source: str, destination: str, reason: str, *, hint: str = "") -> None:
        message = f"{source} is not copied: {reason}"
        self._fail(source, destination, Failure(message, exit_code=failures.OTHER, hint=hint))

    def _fail(self, source: str, destination: str, failure: Failure) -> None:
        self._note(source, destination, failure)
        if self._aloud:
            report(failure)

    def _note(self, source: str, destination: str, failure: Failure) -> None:
        self.failures.append(failure)
        self.records.append({**self._record(source, destination), "error": failure.message})

    def _record(self, source: str, destination: str) -> dict[str, Any]:
        return {
            "machine": self._machine["name"],
            "machine_id": self._machine["id"],
            "source": unicode_text(source),
            "destination": unicode_text(destination),
            "size": None,
            "sha256": None,
            "error": None,
        }


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def _reason_at(path: str, error: OSError) -> str:
    return f"{path}: {_reason(error)}"


def _no_directory(shown: str, *, is_there: bool) -> Failure:
    if is_there:
        return Failure(f"{shown} is not a directory", exit_code=failures.OTHER)
    return Failure(f"the directory {shown} does not exist", exit_code=failures.OTHER)


def _is_component(name: str) -> bool:
    """True: as a name in a directory it can only lead to that directory."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _enter(name: str, parent: int, mode: str, *, follow: bool) -> int:
    """The directory `name` in `parent`, made if it is not there, as private as on the machine."""
    if not name:  # the root
        return os.dup(parent)
    with suppress(FileExistsError):
        os.mkdir(name, int(mode, 8) & 0o777 | stat.S_IRWXU, dir_fd=parent)
    return os.open(name, _DIRECTORY | (0 if follow else os.O_NOFOLLOW), dir_fd=parent)
