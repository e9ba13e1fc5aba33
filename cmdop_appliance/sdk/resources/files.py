# Made from sdk/aio/resources/files.py by scripts/fix: change it there.
"""Files on machines: lists, contents, and transfers that go on after every break.

A path without a leading "/" counts from the home of the agent's user, and "." is that home.
"""

import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final

from cmdop_appliance.sdk.downloads import Download
from cmdop_appliance.sdk.errors import APIError, CmdopError, UnexpectedAnswer
from cmdop_appliance.sdk.file_paths import path_bytes, path_field, with_exact_names
from cmdop_appliance.sdk.part_files import PartFile, part_file
from cmdop_appliance.sdk.pieces import Progress, read_up_to
from cmdop_appliance.sdk.resources.resource import Resource, data_of, path_to
from cmdop_appliance.sdk.source_files import Source, open_source
from cmdop_appliance.sdk.types import FileEntry, FileStat, ReadFile, WrittenFile
from cmdop_appliance.sdk.uploads import WHOLE_BYTES, Upload
from cmdop_appliance.sdk.waiting import on_disk

_LINKS: Final = 40  # that lead to a file one after another: as many as Linux follows (MAXSYMLINKS)
_PRIVATE: Final = 0o600  # the mode of what nobody tells the mode of


class Files(Resource):
    """The files of machines.

    Everything here raises NotFound when there is no such machine, or nothing at the path, and
    Conflict when the machine is offline. Paths are `os.fsdecode`d text.
    """

    def list(
        self, machine_id: str, path: str | None = None, *, hidden: bool = False
    ) -> Iterator[FileEntry]:
        """What is in a directory, by name, page by page; None: the home of the agent's user.

        `hidden`: also names that begin with a dot.
        """
        where = {} if path is None else path_field(path)
        query = {**where, "hidden": _flag(hidden)}
        return self._pages(_route(machine_id), query, items_of=_entries)

    def stat(self, machine_id: str, path: str, *, checksum: bool = False) -> FileStat:
        """What stands at a path; a link at its end is not followed.

        `checksum`: with the sha256 of the file, also of one that a link leads to. If the machine
        does not know it, it reads all of the file.
        """
        if checksum:
            return self._summed(machine_id, path)
        query = path_field(path)
        answer = self._answer("GET", f"{_route(machine_id)}/stat", query=query)
        return with_exact_names(answer, FileStat)

    def _summed(self, machine_id: str, path: str, *, was_there: bool = False) -> FileStat:
        """As `stat`, with the checksum; `was_there`: see `is_passing`."""
        query = {**path_field(path), "checksum": "true"}
        route = f"{_route(machine_id)}/stat"
        answer = self._transport.long_request("GET", route, query=query, was_there=was_there)
        return with_exact_names(data_of(answer), FileStat)

    def read(
        self, machine_id: str, path: str, *, offset: int | None = None, length: int | None = None
    ) -> bytes:
        """The bytes of a file, or `length` of them from `offset` on; at most 10 MiB at once.

        Raises:
            APIError: `file_too_large`; `download` has no such bound.
        """
        query = {**path_field(path), "offset": offset, "length": length}
        content = self._answer("GET", f"{_route(machine_id)}/content", query=query)
        with suppress(ValueError):
            match content:
                case {"encoding": "utf-8", "content": str(text)}:
                    return text.encode()
                case {"encoding": "base64", "content": str(text)}:
                    return b64decode(text, validate=True)
        raise UnexpectedAnswer("the hub answered without the content of a file")

    def write(
        self,
        machine_id: str,
        path: str,
        data: bytes,
        *,
        mode: int | None = None,
        if_match: str | None = None,
        create_parents: bool = False,
    ) -> WrittenFile:
        """Put a file in place that has `data`, at most 10 MiB: the old content or the new, no mix.

        `mode`: without it a file keeps the one it had. `if_match`: only if its sha256 is this.

        Raises:
            APIError: `changed`, it is another one.
        """
        body = {
            **path_field(path),
            "content": b64encode(data).decode(),
            "encoding": "base64",
            "mode": _octal(mode),
            "if_match": if_match,
            "create_parents": create_parents or None,
        }
        answer = self._answer("PUT", f"{_route(machine_id)}/content", body=body)
        return with_exact_names(answer, WrittenFile)

    def delete(self, machine_id: str, path: str, *, recursive: bool = False) -> None:
        """Take away a file, a link (never what it leads to), or a directory.

        Raises:
            Conflict: the directory is not empty, and `recursive` is not set.
        """
        query = {**path_field(path), "recursive": _flag(recursive)}
        self._transport.long_request("DELETE", _route(machine_id), query=query)

    def move(
        self, machine_id: str, source: str, destination: str, *, overwrite: bool = False
    ) -> FileEntry:
        """Give a file or directory another path; what is there now.

        Raises:
            Conflict: something is there already, and `overwrite` is not set.
        """
        return self._two("move", machine_id, source, destination, overwrite=overwrite)

    def copy(
        self, machine_id: str, source: str, destination: str, *, overwrite: bool = False
    ) -> FileEntry:
        """Make another of a file, or of a directory with all that is in it; what is there now.

        Raises: as `move`.
        """
        return self._two("copy", machine_id, source, destination, overwrite=overwrite)

    def _two(
        self, action: str, machine_id: str, source: str, destination: str, *, overwrite: bool
    ) -> FileEntry:
        body = {
            **path_field(source, "source"),
            **path_field(destination, "destination"),
            "overwrite": overwrite,
        }
        answer = self._transport.long_request("POST", f"{_route(machine_id)}/{action}", body=body)
        return with_exact_names(data_of(answer), FileEntry)

    def mkdir(
        self, machine_id: str, path: str, *, parents: bool = False, mode: int | None = None
    ) -> FileEntry:
        """Make a directory; with `parents` those above it, too, and it may be there already.

        `mode`: its permissions; None: those that the agent's umask leaves.

        Raises:
            Conflict: something is there already.
        """
        body = {**path_field(path), "parents": parents, "mode": _octal(mode)}
        answer = self._answer("POST", f"{_route(machine_id)}/mkdir", body=body)
        return with_exact_names(answer, FileEntry)

    def upload(
        self,
        machine_id: str,
        source: str | os.PathLike[str] | BinaryIO,
        path: str,
        *,
        mode: int | None = None,
        create_parents: bool = False,
        overwrite: bool = True,
        if_match: str | None = None,
        progress: Progress | None = None,
    ) -> WrittenFile:
        """Put a file in place that has all bytes of a file here, or of an open stream.

        It goes on after a break, be it of the network, of hub or agent, or, when `source` is a
        path, of this program: called again with the same file it sends what is missing. Without
        `mode` a file keeps the one it had; with `if_match` it is replaced only if its sha256 is
        this. `progress` is called with the bytes sent and their total, None for that of a stream.

        Raises:
            CmdopError: the file here changed meanwhile; nothing was put in place.
            Conflict: something is there already, and `overwrite` is not set.
            APIError: `changed`, it has another sha256 than `if_match`.
            OSError: `source` cannot be read.
        """
        options = {
            "mode": _octal(mode),
            "create_parents": _flag(create_parents),
            "overwrite": None if overwrite else "false",
            "if_match": if_match,
        }
        upload = Upload(self._transport, _route(machine_id), path_field(path), options, progress)
        if not isinstance(source, str | os.PathLike):
            first = on_disk(read_up_to, source, WHOLE_BYTES + 1)
            if len(first) <= WHOLE_BYTES:
                return upload.send_whole(first)
            return upload.send_stream(first, source)
        with open_source(source) as opened:
            if opened.size <= WHOLE_BYTES:
                return upload.send_whole(on_disk(opened.whole))
            return upload.send_file(opened, _upload_id(machine_id, path, opened))

    def stream(self, machine_id: str, path: str) -> Generator[bytes]:
        """The bytes of a file of any size, as they come; a broken connection goes on where it was.

        Raises:
            CmdopError: the file changed meanwhile.
        """
        download = Download(self._transport, _route(machine_id), path_field(path), path)
        given = 0
        with closing(download.pieces()) as pieces:
            for piece in pieces:
                if download.offset != given:
                    raise CmdopError(f"{path} changed while it was read")
                yield piece
                given += len(piece)

    def download(
        self,
        machine_id: str,
        path: str,
        local_path: str | os.PathLike[str],
        *,
        dir_fd: int | None = None,
        progress: Progress | None = None,
    ) -> ReadFile:
        """Put the file of a machine in place here, whole and with the sha256 that it has there.

        It goes on after a break, also in another program that asks for the same file: what has
        arrived stands beside the file until then. A new file gets the mode that it has there, less
        the umask. A link at the end of `local_path` is followed, unless there is a `dir_fd`: the
        directory from which `local_path`, a name then, counts. For `progress` see `upload`.

        Raises:
            CmdopError: the file changes again and again, or something here is in its way.
            OSError: it cannot be written here.
        """
        local = os.fspath(local_path)
        if dir_fd is None:
            local = on_disk(os.path.realpath, local)
        download = Download(self._transport, _route(machine_id), path_field(path), path)
        with part_file(local, dir_fd) as part:
            origin = {"machine_id": machine_id, "path": path}
            on_disk(_take_up, download, part, origin)
            while True:
                _receive(download, part, origin, progress)
                there = self._summed(machine_id, path, was_there=True)
                if there["sha256"] == part.sha256() or _has_no_size(there, part):
                    break
                download.begin_again()
            on_disk(part.put_in_place, self._mode(machine_id, path, there))
            return {"path": local, "size": part.size, "sha256": part.sha256()}

    def _mode(self, machine_id: str, path: str, there: FileStat) -> int:
        """Of the file that a path leads to; that of a link says nothing.

        Where a link leads cannot always be told: then it is private.
        """
        for _ in range(_LINKS):
            if there["type"] != "symlink":
                return int(there["mode"], 8)
            path = str(PurePosixPath(path).parent / (there.get("target") or ""))
            try:
                there = self.stat(machine_id, path)
            except APIError:
                break
        return _PRIVATE


def _entries(answer: Mapping[str, Any]) -> object:
    files = data_of(answer).get("files")
    if not isinstance(files, list):
        return None
    return [with_exact_names(entry, FileEntry) for entry in files]


def _route(machine_id: str) -> str:
    return path_to("machines", machine_id) + "/files"


def _flag(is_set: bool) -> str | None:
    return "true" if is_set else None


def _octal(mode: int | None) -> str | None:
    return None if mode is None else f"{mode:04o}"


def _upload_id(machine_id: str, path: str, source: Source) -> str:
    """The same for the same file on its way to the same place, in any program."""
    parts = [machine_id.encode(), path_bytes(path), source.identity.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _take_up(download: Download, part: PartFile, origin: Mapping[str, str]) -> None:
    """Go on with what has arrived, if it is of the same file."""
    known = part.known()
    match known:
        case {"etag": str(etag), "size": int(size), **rest} if rest == origin:
            part.take_up()
            if part.size <= size:
                download.offset, download.size, download.etag = part.size, size, etag


def _receive(
    download: Download, part: PartFile, origin: Mapping[str, str], progress: Progress | None
) -> None:
    with closing(download.pieces()) as pieces:
        for piece in pieces:
            if download.offset == 0:
                about = {**origin, "etag": download.etag, "size": download.size}
                on_disk(part.begin, about)
            on_disk(part.append, piece)
            if progress is not None:
                progress(part.size, download.size)
    if download.size == 0:
        on_disk(part.begin, origin)


def _has_no_size(there: FileStat, part: PartFile) -> bool:
    """True: a file that the system makes up when it is read, such as those in /proc."""
    return there["type"] == "file" and there["size"] == 0 and part.size > 0
