"""What is done to names: looked at, deleted, moved, copied, made."""
# ruff: noqa: PTH118, PTH119 - pathlib knows no bytes

import errno
import os
import stat

from msgspec import structs

from cmdop_appliance.agent.files.copies import Copier
from cmdop_appliance.agent.files.digests import Digests, version_of
from cmdop_appliance.agent.files.entries import Describer, Listings
from cmdop_appliance.agent.files.failures import FileFailure, IsStopped, Stopped, shown
from cmdop_appliance.agent.files.reading import sha256_of
from cmdop_appliance.agent.files.roots import Place, Roots, means_directory
from cmdop_appliance.agent.files.trees import remove
from cmdop_appliance.agent.files.uploads import Uploads
from cmdop_appliance.protocol import files as asked
from cmdop_appliance.protocol.files import Entries, Existing, Found

_NO_PARENT = "; make it first"


class Operations:
    """Carries out one call after the other, in any thread; each raises FileFailure alone."""

    def __init__(self, roots: Roots, uploads: Uploads, digests: Digests) -> None:
        self._roots = roots
        self._digests = digests
        self._copier = Copier(roots, uploads, digests)
        self._listings = Listings()

    def list(self, call: asked.List) -> Entries:
        """A page of a directory; a link to one is followed."""
        with self._roots.place(call.path, follow=True) as place:
            directory = self._roots.enter(place.parent, place.name)
            try:
                names = self._listings.names(directory, hidden=call.hidden, anew=call.offset == 0)
                page = names[call.offset : call.offset + call.limit]
                entries = Describer().page(directory, page)
            finally:
                os.close(directory)
            return Entries(path=place.path, entries=entries, total=len(names))

    def stat(self, call: asked.Stat, is_stopped: IsStopped) -> Found:
        """What stands at a path; its sha256 if that is known, or asked for and there is one."""
        found = self._find(call.path, follow=means_directory(call.path))
        if not call.checksum or found.sha256 is not None:
            return found
        with self._roots.place(call.path, follow=True) as place:
            if place.status is None or not stat.S_ISREG(place.status.st_mode):
                return found
            sha256 = sha256_of(place, self._digests, is_stopped)
        return structs.replace(found, sha256=sha256)

    def exist(self, call: asked.Exist, is_stopped: IsStopped) -> Existing:
        """Which paths lead to something; one that may not be walked, or is none, does not.

        `~` is home here, as in the directory of a coding session.
        """
        return Existing(exist=[self._exists(path, is_stopped) for path in call.paths])

    def delete(self, call: asked.Delete, is_stopped: IsStopped) -> None:
        """Take away what stands at a path; with `recursive` all that is in it, else nothing."""
        _check_named(call.path)
        with self._roots.place(call.path, follow=False) as place:
            status = place.found()
            self._roots.check_expendable(place)
            if call.recursive:
                remove(self._roots, place, is_stopped)
            elif stat.S_ISDIR(status.st_mode):
                _remove_empty(place)
            else:
                os.unlink(place.name, dir_fd=place.parent)
            place.sync()

    def move(self, call: asked.Move, is_stopped: IsStopped) -> Found:
        """Rename; onto another file system copy, whole, and then delete."""
        _check_named(call.source)
        with (
            self._roots.place(call.source, follow=False) as source,
            self._roots.place(call.destination, follow=False, remedy=_NO_PARENT) as destination,
        ):
            source.found()
            self._roots.check_expendable(source)
            self._check_pair(source, destination, overwrite=call.overwrite)
            try:
                source.rename_to(destination, overwrite=call.overwrite)
            except OSError as exc:
                if exc.errno != errno.EXDEV:
                    raise
                self._copier.copy(
                    source, destination, overwrite=call.overwrite, is_stopped=is_stopped
                )
                # What was copied whole is moved whole, also for nobody.
                remove(self._roots, source, is_stopped=lambda: False)
            destination.sync()
            source.sync()
        return self._find(call.destination, follow=False)

    def copy(self, call: asked.Copy, is_stopped: IsStopped) -> Found:
        """Make another of what a path leads to, links at its end followed at either end."""
        with (
            self._roots.place(call.source, follow=True) as source,
            self._roots.place(call.destination, follow=True, remedy=_NO_PARENT) as destination,
        ):
            self._roots.check_whole(source)
            self._check_pair(source, destination, overwrite=call.overwrite)
            self._copier.copy(source, destination, overwrite=call.overwrite, is_stopped=is_stopped)
        return self._find(call.destination, follow=True)

    def mkdir(self, call: asked.Mkdir) -> Found:
        """Make a directory; with `parents` also those above it, and it may be there already."""
        with self._roots.place(
            call.path,
            follow=call.parents,
            make_parents=call.parents,
            remedy="; make it first, or ask for `parents`",
        ) as place:
            try:
                self._make(place, call.mode)
            except FileExistsError:
                if not call.parents or not stat.S_ISDIR(
                    os.lstat(place.name, dir_fd=place.parent).st_mode
                ):
                    raise
        return self._find(call.path, follow=call.parents)

    def _make(self, place: Place, mode: int | None) -> None:
        if mode is None:
            os.mkdir(place.name, dir_fd=place.parent)
        else:
            os.mkdir(place.name, 0o700, dir_fd=place.parent)
            directory = self._roots.enter(place.parent, place.name)
            try:
                # A directory hands the set-group-id bit down; who has set it there wants that.
                inherited = os.fstat(directory).st_mode & stat.S_ISGID
                os.fchmod(directory, mode | inherited)
                os.fsync(directory)
            finally:
                os.close(directory)
        place.sync()

    def _find(self, path: bytes, *, follow: bool) -> Found:
        with self._roots.place(path, follow=follow) as place:
            status = place.found()
            shown_name = os.path.basename(place.path)
            is_file = stat.S_ISREG(status.st_mode)
            return Found(
                path=place.path,
                entry=Describer().entry(place.parent, place.name, status, shown_name),
                version=version_of(status),
                sha256=self._digests.get(status) if is_file else None,
            )

    def _exists(self, path: bytes, is_stopped: IsStopped) -> bool:
        if is_stopped():
            raise Stopped
        path = self._roots.from_home(path)
        try:
            with self._roots.place(path, follow=means_directory(path)) as place:
                return place.status is not None
        except FileFailure:
            return False

    def _check_pair(self, source: Place, destination: Place, *, overwrite: bool) -> None:
        """What holds for a move and a copy alike, before anything is done."""
        status = source.found()
        if destination.status is not None:
            if not overwrite:
                raise FileFailure("file_exists", f"{shown(destination.path)} exists already")
            if os.path.samestat(status, destination.status):
                message = f"{shown(source.path)} and {shown(destination.path)} are the same"
                raise FileFailure("invalid_path", message)
        elif destination.is_for_directory and not stat.S_ISDIR(status.st_mode):
            message = f"{shown(destination.path)}/ can only be a directory, by the / at its end"
            raise FileFailure("not_a_directory", message)
        self._roots.check_expendable(destination)
        if destination.real.startswith(os.path.join(source.real, b"")):
            message = f"{shown(destination.path)} lies within {shown(source.path)}"
            raise FileFailure("invalid_path", message)


def _check_named(path: bytes) -> None:
    """What is deleted or moved has to be named, as for rm(1): a slip is to take nothing away.

    Raises:
        FileFailure: it is not.
    """
    if not path or os.path.basename(path.rstrip(b"/")) in (b".", b".."):
        message = "an empty path, `.` and `..` are no names of what to delete or move"
        raise FileFailure("invalid_path", message)


def _remove_empty(place: Place) -> None:
    try:
        os.rmdir(place.name, dir_fd=place.parent)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # rmdir(2) may say either
            raise
        message = f"{shown(place.path)} has something in it; recursive deletes that, too"
        raise FileFailure("directory_not_empty", message) from exc
