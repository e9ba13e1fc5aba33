"""Where cmdop is installed: a folder for each version, and a link to the one in use.

HOME/versions/VERSION-BUILD/   cmdop, its _internal/, and cmdop.onefile: the one file as it came
HOME/current                   the link, to versions/VERSION-BUILD
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cmdop_appliance.errors import UnusableProgram
from cmdop_appliance.packed import ONEFILE
from cmdop_appliance.private import sync_directory

# The one file puts its folder there and ends, if this names a place.
UNPACK_VARIABLE: Final = "CMDOP_UNPACK_TO"

_VERSIONS: Final = "versions"
_CURRENT: Final = "current"
_LOCK: Final = ".lock"
_FRESH: Final = ".new-"  # begins what is on its way; from a crash, if nobody holds the lock
_BUILD_DIGITS: Final = 12  # of the one file's SHA-256: enough to tell builds of a version apart
_NUMBER: Final = "[0-9][0-9A-Za-z.+-]{0,63}"
_NAME: Final = re.compile(f"{_NUMBER}-[0-9a-f]{{{_BUILD_DIGITS}}}")
_ANSWER: Final = re.compile(f"cmdop ({_NUMBER})\n")
# From a slow disk; whatever takes longer hangs.
_UNPACK_S: Final = 300
_ANSWER_S: Final = 60
# A file that was just written cannot run while another thread's fork still has it open.
_BUSY_TRIES: Final = 100
_BUSY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Version:
    """One folder with a whole program."""

    path: Path

    @property
    def name(self) -> str:
        """VERSION-BUILD."""
        return self.path.name

    @property
    def number(self) -> str:
        """What the program says its version is."""
        return self.name[: -_BUILD_DIGITS - 1]

    @property
    def program(self) -> Path:
        """What is run."""
        return self.path / "cmdop"

    @property
    def onefile(self) -> Path:
        """The one file that it came from, for other machines."""
        return self.path / "cmdop.onefile"


class Home:
    """A place where cmdop is installed. Everything in it blocks; nothing is ever half there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def current(self) -> Version | None:
        """The version that starts; None: there is none."""
        try:
            target = self.path / (self.path / _CURRENT).readlink()
        except OSError:
            return None
        is_one = target.parent == self.path / _VERSIONS and _NAME.fullmatch(target.name)
        return Version(target) if is_one and target.is_dir() else None

    def versions(self) -> list[Version]:
        """All that are there; what was added last comes first."""
        folders = [
            path
            for path in (self.path / _VERSIONS).glob("*-*")
            if _NAME.fullmatch(path.name) and path.is_dir()
        ]
        return [Version(path) for path in sorted(folders, key=_added_ns, reverse=True)]

    def is_writable(self) -> bool:
        """Whether this process may add a version and switch to it."""
        places = (self.path, self.path / _VERSIONS)
        return all(os.access(place, os.W_OK | os.X_OK, effective_ids=True) for place in places)

    def add(self, onefile: Path) -> Version:
        """Unpack a one-file cmdop and try it; once this returns, the disk holds it. Takes seconds.

        What is there already, and runs, stays as it is. It does not become the current one.

        Raises:
            UnusableProgram: it does not run here, or there is no place for it.
        """
        versions = self.path / _VERSIONS
        try:
            _make_folder(self.path)
            _make_folder(versions)
            with _locked(versions):
                _sweep(versions)
                return self._add(onefile, versions)
        except OSError as exc:
            raise UnusableProgram(
                f"cannot install into {self.path}: {exc.strerror}",
                hint="it must be writable, with 200 MB free, and not be mounted noexec",
            ) from exc

    def _add(self, onefile: Path, versions: Path) -> Version:
        fresh = Path(tempfile.mkdtemp(prefix=_FRESH, dir=versions))
        try:
            file, folder = fresh / "cmdop.onefile", fresh / "folder"
            build = _copy(onefile, file)
            for known in self.versions():
                if known.name.endswith(f"-{build}") and _runs(known):
                    os.utime(known.path)
                    return known
            folder.mkdir()
            _run([str(file)], _UNPACK_S, **{UNPACK_VARIABLE: str(folder)})
            number = _number_of(folder / "cmdop")
            file.rename(folder / file.name)
            _settle(folder)
            version = Version(versions / f"{number}-{build}")
            with contextlib.suppress(FileNotFoundError):  # one that is damaged
                version.path.rename(fresh / "damaged")
            folder.rename(version.path)
            sync_directory(versions)
            return version
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def switch(self, version: Version) -> None:
        """Make it the current one; once this returns, the disk holds that, and before, the old one.

        Raises:
            OSError: it cannot be written.
        """
        assert version.path.parent == self.path / _VERSIONS
        fresh = self.path / f".{_CURRENT}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(version.path.relative_to(self.path))
        fresh.rename(self.path / _CURRENT)
        sync_directory(self.path)

    def prune(self, keep: int = 3) -> list[Version]:
        """Delete all but the `keep` that were added last; those deleted.

        Never the current one, nor one that a process runs from.
        """
        return self._prune(keep, _running())

    def _prune(self, keep: int, running: list[str]) -> list[Version]:
        current, gone = self.current(), []
        with _locked(self.path / _VERSIONS):
            for version in self.versions()[keep:]:
                place = f"{version.path.resolve()}/"
                if version != current and not any(path.startswith(place) for path in running):
                    version.path.rename(version.path.with_name(f"{_FRESH}{version.name}"))
                    gone.append(version)
            _sweep(self.path / _VERSIONS)
        return gone

    def clear(self) -> list[Version]:
        """Delete all that is installed here; what is left, because another process runs from it."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / _CURRENT).unlink(missing_ok=True)
            self._prune(0, _running(but=os.getpid()))
            for folder in (self.path / _VERSIONS / _LOCK, self.path / _VERSIONS, self.path):
                with contextlib.suppress(OSError):  # it is not empty
                    folder.rmdir()
        return self.versions()


def home_of_this_program() -> Home | None:
    """Where the running program is installed; None: it is not, but runs from elsewhere."""
    version = version_of_this_program()
    return None if version is None else Home(version.path.parents[1])


def version_of_this_program() -> Version | None:
    """The folder that the running program came from; None: it is not installed."""
    return version_of(Path(sys.executable)) if getattr(sys, "frozen", False) else None


def version_of(program: Path) -> Version | None:
    """The version in some home whose `program` this is; None: it is in none."""
    path = program.resolve().parent
    is_one = path.parent.name == _VERSIONS and _NAME.fullmatch(path.name) is not None
    return Version(path) if is_one and (path.parents[1] / _CURRENT).is_symlink() else None


def onefile_of_this_program() -> Path | None:
    """The one file that the running program came from; None: it runs from source, or it is gone."""
    if not getattr(sys, "frozen", False):
        return None
    version = version_of(Path(sys.executable))
    found = version.onefile if version else Path(os.environ.get(ONEFILE, ""))
    return found if found.is_file() else None


def _added_ns(path: Path) -> int:
    return path.stat().st_mtime_ns


def _make_folder(path: Path) -> None:
    """One that everybody may look into, whatever the umask."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(parents=True)
        path.chmod(0o755)


@contextlib.contextmanager
def _locked(versions: Path) -> Iterator[None]:
    """Wait until nobody else adds or deletes there.

    Whoever may open a folder may lock it, and hold up all upgrades: this one is closed to others.
    """
    lock = versions / _LOCK
    with contextlib.suppress(FileExistsError):
        lock.mkdir(mode=0o700)
    handle = os.open(lock, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sweep(versions: Path) -> None:
    for left in versions.glob(f"{_FRESH}*"):
        shutil.rmtree(left, ignore_errors=True)


def _copy(source: Path, target: Path) -> str:
    """Copy a program; what tells its build from others."""
    with source.open("rb") as whole, target.open("wb") as copy:
        shutil.copyfileobj(whole, copy, 1024 * 1024)
    target.chmod(0o755)
    with target.open("rb") as copy:
        return hashlib.file_digest(copy, "sha256").hexdigest()[:_BUILD_DIGITS]


def _runs(version: Version) -> bool:
    try:
        return version.onefile.is_file() and _number_of(version.program) == version.number
    except UnusableProgram:
        return False


def _number_of(program: Path) -> str:
    said = _run([str(program), "version"], _ANSWER_S)
    answer = _ANSWER.fullmatch(said)
    if answer is None:
        raise UnusableProgram("the file is no cmdop: it does not say its version")
    return answer[1]


def _run(argv: list[str], timeout_s: float, **variables: str) -> str:
    """What a program says; it gets nothing of our own environment that could mislead it."""
    environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **variables}
    try:
        for _ in range(_BUSY_TRIES):
            try:
                done = subprocess.run(
                    argv,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    env=environ,
                    timeout=timeout_s,
                    check=False,
                )
                break
            except OSError as exc:
                if exc.errno != errno.ETXTBSY:
                    raise
                time.sleep(_BUSY_S)
        else:
            raise UnusableProgram("somebody is still writing to the program")
    except subprocess.TimeoutExpired:
        raise UnusableProgram(f"the program did not answer within {timeout_s:.0f} s") from None
    except OSError as exc:
        raise UnusableProgram(
            f"the program does not run on this machine: {exc.strerror}",
            hint="is it for this processor, and the disk not mounted noexec?",
        ) from exc
    if done.returncode:
        reason = done.stderr[-500:].decode(errors="replace").strip() or "it says nothing"
        raise UnusableProgram(
            f"the program does not run on this machine: exit code {done.returncode}: {reason!a}"
        )
    return done.stdout.decode(errors="replace")


def _settle(folder: Path) -> None:
    """Let everybody read and run it, and wait until the disk holds it."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            file = Path(place, name)
            if not file.is_symlink():
                is_program = file.stat().st_mode & 0o100
                file.chmod(0o755 if is_program else 0o644)
                with file.open("rb") as whole:
                    os.fsync(whole.fileno())
        Path(place).chmod(0o755)
        sync_directory(Path(place))


def _running(but: int | None = None) -> list[str]:
    """The program of every process that we may look at, `but` of this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(but):
            continue
        with contextlib.suppress(OSError):
            found.append(str((process / "exe").readlink()))
    return found
