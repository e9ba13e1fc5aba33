"""/files: what stands on a machine's disks, and what is in it."""

import base64
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from cmdop_appliance.api.cmdop.file_routes import (
    WRITE_ERRORS,
    FileWritten,
    PathBody,
    PathQuery,
    body_path,
    file_route,
    mode_bits,
    query_path,
    write_call,
    written_view,
)
from cmdop_appliance.api.cmdop.machines import Deleted
from cmdop_appliance.api.exchange import LIMIT_MAX, Call, Listed, Window
from cmdop_appliance.api.fields import Mode, Offset, Owner, RawText, Sha256, Time, when
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import (
    ChangedDuringRead,
    DirectoryNotEmpty,
    FileExists,
    FileTooLarge,
    Forbidden,
    IsADirectory,
    NoSpace,
    NotARegularFile,
    PayloadTooLarge,
    ValidationFailed,
)
from cmdop_appliance.hub.files import CONTENT_BYTES, shown
from cmdop_appliance.protocol import files as machine
from cmdop_appliance.protocol.files import Entry, Found, Kind
from cmdop_appliance.store.listing import Page, Paging

# A body that carries as much content as can be read in one answer: as base64, and the rest.
BODY_BYTES: Final = CONTENT_BYTES // 3 * 4 + 64 * 1024

Encoding = Literal["utf-8", "base64"]


class FileList(Window, frozen=True, kw_only=True):
    """A page of a directory, by name. Default: the home of the agent's user."""

    path: RawText | None = None
    path_base64: str | None = None
    hidden: bool = False  # also names that begin with a dot


class FileStat(PathQuery, frozen=True, kw_only=True):
    """What stands at a path. Default: the home of the agent's user."""

    checksum: bool = False  # read the file for its sha256


class FileRead(PathQuery, frozen=True, kw_only=True):
    """A file, or `length` bytes of it from `offset` on."""

    offset: Offset = 0
    length: Annotated[int, Meta(ge=0, le=CONTENT_BYTES)] | None = None


class FileDelete(PathQuery, frozen=True, kw_only=True):
    """What is to go."""

    recursive: bool = False  # also a directory with something in it


class FileBody(PathBody, kw_only=True):
    """A file as it is to be; what is left out stays as it was."""

    content: str
    encoding: Encoding = "utf-8"
    mode: Mode | None = None
    owner: Owner | None = None  # a name or a number
    group: Owner | None = None
    create_parents: bool = False
    overwrite: bool = True
    if_match: Sha256 | None = None  # only if the file has this sha256 now


class MoveBody(Struct, kw_only=True):
    """From where to where; each path may be given as base64 instead."""

    source: str | UnsetType = UNSET
    source_base64: str | UnsetType = UNSET
    destination: str | UnsetType = UNSET
    destination_base64: str | UnsetType = UNSET
    overwrite: bool = False


class DirectoryBody(PathBody, kw_only=True):
    """A directory to make."""

    parents: bool = False  # those above it, too; and it may be there already
    mode: Mode | None = None


class FileEntry(Struct, frozen=True, kw_only=True):
    """One name in a directory.

    Names are bytes. Where they are no UTF-8, the text has U+FFFD in their place, and `…_base64` is
    what they are; else that is null.
    """

    name: str
    path: str
    type: Kind
    size: int
    mode: str
    owner: str
    group: str
    modified_at: Time | None  # null: beyond the years that RFC 3339 can write
    target: str | None  # what a symlink says
    name_base64: str | None
    path_base64: str | None
    target_base64: str | None


class FileStatus(FileEntry, frozen=True, kw_only=True):
    """What stands at a path; `version` is another one after every change."""

    version: str
    sha256: str | None  # null: not asked for, and not known


class Directory(Struct, frozen=True, kw_only=True):
    """A page of a directory."""

    path: str
    path_base64: str | None
    files: list[FileEntry]


class FileContent(Struct, frozen=True, kw_only=True):
    """A file, or a part of it; bytes that are no UTF-8 as base64."""

    path: str
    path_base64: str | None
    content: str
    size: int  # of the whole file
    encoding: Encoding
    sha256: str | None  # of the whole file; null: this is a part of it


@file_route("GET", "", scope=Scope.FILES_READ, query=FileList, answer=Directory)
async def list_files(call: Call[None, FileList]) -> Listed:
    """The entries of a directory, by name."""
    query = call.query
    paging = Paging(min(query.limit, LIMIT_MAX), query.offset, "name")
    asked = machine.List(
        path=query_path(query, default=b""),
        limit=paging.limit,
        offset=paging.offset,
        hidden=query.hidden,
    )
    found = await call.hub.files.ask(call.caller, call.path["id"], asked, machine.Entries)
    path, path_base64 = shown(found.path)
    below = found.path.rstrip(b"/") + b"/"
    views = [_entry(entry, below + entry.name) for entry in found.entries]
    page: Page[Any] = Page(found.entries, found.total, paging)
    return Listed(Directory(path=path, path_base64=path_base64, files=views), page)


@file_route("GET", "/stat", scope=Scope.FILES_READ, query=FileStat, answer=FileStatus)
async def stat_file(call: Call[None, FileStat]) -> FileStatus:
    """What stands at a path; a symlink itself, not what it leads to."""
    asked = machine.Stat(path=query_path(call.query, default=b""), checksum=call.query.checksum)
    found = await call.hub.files.ask(call.caller, call.path["id"], asked, Found)
    return FileStatus(
        **_fields(found.entry, found.path),
        version=found.version,
        sha256=None if found.sha256 is None else found.sha256.hex(),
    )


@file_route(
    "GET",
    "/content",
    scope=Scope.FILES_READ,
    query=FileRead,
    answer=FileContent,
    errors=(ChangedDuringRead, FileTooLarge, IsADirectory, NotARegularFile),
)
async def read_file(call: Call[None, FileRead]) -> FileContent:
    """The content of a file in JSON, of which at most 10 MiB fit; a download has no such bound."""
    query = call.query
    asked = machine.Read(path=query_path(query), offset=query.offset, length=query.length)
    content = await call.hub.files.read(call.caller, call.path["id"], asked)
    path, path_base64 = shown(content.path)
    encoding: Encoding = "utf-8"
    try:
        text = content.data.decode()
    except UnicodeDecodeError:
        encoding, text = "base64", base64.b64encode(content.data).decode()
    return FileContent(
        path=path,
        path_base64=path_base64,
        content=text,
        size=content.size,
        encoding=encoding,
        sha256=None if content.sha256 is None else content.sha256.hex(),
    )


@file_route(
    "PUT",
    "/content",
    scope=Scope.FILES_WRITE,
    body=FileBody,
    answer=FileWritten,
    errors=WRITE_ERRORS,
    body_bytes=BODY_BYTES,
)
async def write_file(call: Call[FileBody, None]) -> FileWritten:
    """Put a file in place: all of it or nothing, and on the disk when this is answered."""
    body = call.body
    content = _content(body)
    asked = write_call(body, body_path(body))
    written = await call.hub.files.write(call.caller, call.path["id"], asked, content)
    return FileWritten(**written_view(written))


@file_route(
    "DELETE",
    "",
    scope=Scope.FILES_WRITE,
    query=FileDelete,
    answer=Deleted,
    errors=(DirectoryNotEmpty, Forbidden),
)
async def delete_file(call: Call[None, FileDelete]) -> Deleted:
    """Take away a file, a symlink (never what it leads to) or a directory."""
    asked = machine.Delete(path=query_path(call.query), recursive=call.query.recursive)
    await call.hub.files.ask(call.caller, call.path["id"], asked, machine.Done)
    return Deleted()


@file_route(
    "POST",
    "/move",
    scope=Scope.FILES_WRITE,
    body=MoveBody,
    answer=FileEntry,
    errors=(DirectoryNotEmpty, FileExists, Forbidden, IsADirectory, NoSpace, NotARegularFile),
)
async def move_file(call: Call[MoveBody, None]) -> FileEntry:
    """Give a file or a directory another path, and answer what stands there now."""
    return await _make(call, machine.Move(**_ends(call.body)))


@file_route(
    "POST",
    "/copy",
    scope=Scope.FILES_WRITE,
    body=MoveBody,
    answer=FileEntry,
    errors=(
        ChangedDuringRead,
        DirectoryNotEmpty,
        FileExists,
        Forbidden,
        IsADirectory,
        NoSpace,
        NotARegularFile,
    ),
)
async def copy_file(call: Call[MoveBody, None]) -> FileEntry:
    """Copy a file, or a directory with all that is in it, and answer the copy."""
    return await _make(call, machine.Copy(**_ends(call.body)))


@file_route(
    "POST",
    "/mkdir",
    scope=Scope.FILES_WRITE,
    body=DirectoryBody,
    answer=FileEntry,
    errors=(FileExists, Forbidden, NoSpace),
)
async def make_directory(call: Call[DirectoryBody, None]) -> FileEntry:
    """Make a directory."""
    asked = machine.Mkdir(
        path=body_path(call.body), parents=call.body.parents, mode=mode_bits(call.body.mode)
    )
    return await _make(call, asked)


async def _make(
    call: Call[Any, None], asked: machine.Move | machine.Copy | machine.Mkdir
) -> FileEntry:
    found = await call.hub.files.ask(call.caller, call.path["id"], asked, Found, once=call.once)
    return _entry(found.entry, found.path)


def _ends(body: MoveBody) -> dict[str, Any]:
    return {
        "source": body_path(body, "source"),
        "destination": body_path(body, "destination"),
        "overwrite": body.overwrite,
    }


def _content(body: FileBody) -> bytes:
    content = body.content.encode()
    if body.encoding == "base64":
        try:
            content = base64.b64decode(content, validate=True)
        except ValueError:
            raise ValidationFailed("Validation failed", content="must be base64") from None
    if len(content) > CONTENT_BYTES:
        raise PayloadTooLarge(
            f"a content of {len(content)} bytes; {CONTENT_BYTES} fit a body",
            hint="a file of any size goes to PUT /machines/:id/files/upload",
        )
    return content


def _entry(entry: Entry, path: bytes) -> FileEntry:
    return FileEntry(**_fields(entry, path))


def _fields(entry: Entry, path: bytes) -> dict[str, Any]:
    name, name_base64 = shown(entry.name)
    text, path_base64 = shown(path)
    target, target_base64 = (None, None) if entry.target is None else shown(entry.target)
    return {
        "name": name,
        "path": text,
        "type": entry.type,
        "size": entry.size,
        "mode": f"{entry.mode:04o}",
        "owner": entry.owner,
        "group": entry.group,
        "modified_at": _modified(entry.modified_ms),
        "target": target,
        "name_base64": name_base64,
        "path_base64": path_base64,
        "target_base64": target_base64,
    }


def _modified(ms: int) -> str | None:
    try:
        return when(ms)
    except (ValueError, OverflowError, OSError):  # disks hold years that RFC 3339 does not
        return None
