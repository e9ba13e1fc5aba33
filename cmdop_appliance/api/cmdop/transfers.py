"""/files/upload and /files/download: of any size, straight through to the machine and back."""

import hashlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from email.utils import formatdate
from typing import Any, Final, cast
from urllib.parse import quote, quote_from_bytes, unquote

import trio
from msgspec import Struct

from cmdop_appliance.api.cmdop.files import FileWritten
from cmdop_appliance.api.exchange import Call, Response
from cmdop_appliance.api.fields import Mode, Offset, Owner, Sha256, bad_parameter
from cmdop_appliance.api.file_routes import WRITE_ERRORS, PathQuery, file_route, query_path
from cmdop_appliance.api.multipart import MEDIA, file_form
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import (
    ApplianceError,
    ChangedDuringRead,
    IdempotencyConflict,
    InvalidRequest,
    IsADirectory,
    NotARegularFile,
    OffsetMismatch,
    RangeNotSatisfiable,
)
from cmdop_appliance.hub.files import shown
from cmdop_appliance.protocol.files import (
    Kept,
    Opened,
    Placed,
    Read,
    Uploaded,
    UploadId,
    Write,
    Written,
)

BYTES: Final = "application/octet-stream"
# It is opened by browsers, too, which are to take it for nothing that runs, whatever is in it.
_HARMLESS: Final = {
    "Content-Type": BYTES,
    "Content-Security-Policy": "sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_ETAG: Final = re.compile(r'"([!#-~]*)"')
# The longest version of a file that goes into a header; ours are far shorter.
_VERSION_CHARS: Final = 200
# What stands in a file name of the old form: the other one says it all.
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9 ._()+,=@~-]")


class FormUpload(PathQuery, frozen=True, kw_only=True):
    """Where a file goes, and how it is to be; what is left out stays as it was."""

    sha256: Sha256 | None = None  # of the whole file: what arrives with another is not put in place
    mode: Mode | None = None
    owner: Owner | None = None  # a name or a number
    group: Owner | None = None
    create_parents: bool = False
    overwrite: bool = True
    if_match: Sha256 | None = None  # only if the file has this sha256 now


class FileUpload(FormUpload, frozen=True, kw_only=True):
    """An upload, or with an `upload_id` a part of one, which begins at `offset`."""

    upload_id: UploadId | None = None
    offset: Offset | None = None


class UploadStatus(PathQuery, frozen=True, kw_only=True):
    """Which upload to which path."""

    upload_id: UploadId


class FilePart(Struct, frozen=True, kw_only=True):
    """What has arrived of an upload that is not complete: `offset` bytes."""

    path: str
    path_base64: str | None
    upload_id: str
    offset: int
    complete: bool = False


class FileUploaded(FileWritten, frozen=True, kw_only=True):
    """A file that was uploaded, and is in place."""

    upload_id: str | None
    complete: bool = True


@file_route(
    "PUT",
    "/upload",
    scope=Scope.FILES_WRITE,
    query=FileUpload,
    answer=FileUploaded | FilePart,
    errors=(*WRITE_ERRORS, OffsetMismatch),
    is_bulk=True,
    takes=BYTES,
)
async def upload_file(call: Call[None, FileUpload]) -> FileUploaded | FilePart:
    """Put a file of any size in place: all of it or nothing. The body is the file.

    It is that whatever `Content-Type` says, which may be missing; only forms are refused.
    With an `upload_id` it is a part of the file, which is kept whatever happens, for 24 hours after
    its last byte; the part that has the `sha256` of the whole (its body may be empty) completes it.
    """
    _require_plain(call.request.headers)
    query = call.query
    if query.offset is not None and query.upload_id is None:
        raise bad_parameter("offset", "needs upload_id")
    asked = _write(query, query_path(query), query.upload_id, query.offset or 0)
    placed, end = await _send(call, asked, call.request.pieces())
    if isinstance(end, Written):
        await call.hub.files.uploaded(call.caller, call.path["id"], end)
        return _uploaded(end, query.upload_id)
    return _part(placed.path, query.upload_id, end)


@file_route(
    "POST",
    "/upload",
    scope=Scope.FILES_WRITE,
    query=FormUpload,
    answer=FileUploaded,
    errors=WRITE_ERRORS,
    is_bulk=True,
    takes=MEDIA,
)
async def upload_form(call: Call[None, FormUpload]) -> FileUploaded:
    """Put a file of any size in place, from a form: its part `file`.

    The path may be a field before the file. With an `Idempotency-Key` that was used before the file
    is read and compared, and not written.
    """
    if call.once is None:  # else it may have been answered while the machine was there
        await call.hub.files.require_session(call.caller, call.path["id"])
    content_type = call.request.headers.get("content-type", "")
    known = PathQuery.__struct_fields__
    async with file_form(content_type, call.request.pieces(), known) as (fields, file):
        given = {name: text.decode("latin-1") for name, text in fields.items()}
        asked = _write(call.query, _form_path(call.query, given))
        once = call.once
        if once is not None:
            request_hash = hashlib.sha256(once.request_hash + asked.path).digest()
            once = replace(once, request_hash=request_hash)
            first = await call.hub.files.first_upload(call.caller, call.path["id"], once)
            if first is not None:
                await _require_same(file, first)
                return _uploaded(first, None)
        _, written = await _send(call, asked, file)
        assert isinstance(written, Written)
        await call.hub.files.uploaded(call.caller, call.path["id"], written, once)
        return _uploaded(written, None)


@file_route("GET", "/upload", scope=Scope.FILES_WRITE, query=UploadStatus, answer=FilePart)
async def get_upload(call: Call[None, UploadStatus]) -> FilePart:
    """How much of an upload has arrived: where it goes on. 0, if nobody knows it (any more)."""
    asked = Uploaded(path=query_path(call.query), upload=call.query.upload_id)
    kept = await call.hub.files.ask(call.caller, call.path["id"], asked, Kept)
    return _part(asked.path, call.query.upload_id, kept)


@file_route(
    "GET",
    "/download",
    scope=Scope.FILES_READ,
    query=PathQuery,
    answer=bytes,
    media=BYTES,
    errors=(ChangedDuringRead, IsADirectory, NotARegularFile, RangeNotSatisfiable),
    has_etag=True,
    is_bulk=True,
)
async def download_file(call: Call[None, PathQuery]) -> Response:
    """The bytes of a file of any size; `Range` is honoured.

    A file that changes meanwhile ends the connection short of `Content-Length`: whoever has all
    bytes has one content, never a mixture.
    """
    asked = call.request.headers
    part = _range(asked.get("range", ""))
    if_range = asked.get("if-range")
    read = Read(path=query_path(call.query))
    if part is not None:
        version = None if if_range is None else _version(if_range)
        read = Read(path=read.path, offset=part[0], length=part[1], if_version=version)
    stream = _read(call, read)
    opened = await anext(stream)
    assert isinstance(opened, Opened)
    is_whole = opened.first == 0 and opened.end == opened.size
    is_part = part is not None and not (if_range is not None and is_whole)
    headers = {"ETag": _etag(opened)}
    if _is_known(asked.get("if-none-match", ""), opened):
        await stream.aclose()
        return Response(304, headers, b"")
    if is_part and opened.first == opened.end:
        await stream.aclose()
        raise RangeNotSatisfiable(f"the file has {opened.size} bytes", opened.size)
    headers |= _HARMLESS
    headers["Content-Disposition"] = _disposition(opened.path)
    headers["Content-Length"] = str(opened.end - opened.first)
    headers["Accept-Ranges"] = "bytes"
    modified_ms = min(max(opened.modified_ms, 0), call.hub.clock.now_ms())
    headers["Last-Modified"] = formatdate(modified_ms // 1000, usegmt=True)
    if is_part:
        headers["Content-Range"] = f"bytes {opened.first}-{opened.end - 1}/{opened.size}"
    status = 206 if is_part else 200
    if call.request.method == "HEAD":
        await stream.aclose()
        return Response(status, headers, b"")
    return Response(status, headers, cast("AsyncGenerator[bytes, None]", stream))


# ── up ───────────────────────────────────────────────────────────────────────────────────────────


def _write(query: FormUpload, path: bytes, upload: str | None = None, offset: int = 0) -> Write:
    return Write(
        path=path,
        upload=upload,
        offset=offset,
        mode=None if query.mode is None else int(query.mode, 8),
        owner=query.owner,
        group=query.group,
        create_parents=query.create_parents,
        overwrite=query.overwrite,
        if_match=_digest(query.if_match),
    )


def _digest(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _require_plain(headers: Mapping[str, str]) -> None:
    """Pass a body that is a whole file, or a part that is named as ours are."""
    if "content-range" in headers:  # to take it for the whole would be the worst (RFC 9110 §14.5)
        raise InvalidRequest(
            "Content-Range is not taken with an upload",
            hint="send a part with the query parameters `upload_id` and `offset`",
        )
    if "content-encoding" in headers:
        raise InvalidRequest(
            "Content-Encoding is not taken with an upload: the body is the file, byte by byte",
            hint="send it as it is to be on the machine, without this header",
        )
    if headers.get("content-type", "").lstrip().lower().startswith("multipart/"):
        raise InvalidRequest(
            "PUT takes the bytes of the file, and this is a form", hint="send forms with POST"
        )


def _form_path(query: PathQuery, fields: dict[str, str]) -> bytes:
    """The path of the query, or of the form; where both have one, that is an error as in one."""
    for name in fields:
        if getattr(query, name) is not None:
            raise bad_parameter(name, "must not stand in the form as well")
    path = fields.get("path", query.path)
    path_base64 = fields.get("path_base64", query.path_base64)
    if path is None and path_base64 is None:
        raise InvalidRequest(
            "the form has no `path` before its file", hint="move it there, or into the query"
        )
    return query_path(PathQuery(path=path, path_base64=path_base64))


async def _require_same(file: AsyncGenerator[bytes, None], first: Written) -> None:
    """Read a file, and pass if it is the one that was put in place `first`."""
    computed = hashlib.sha256()
    async for piece in file:
        computed.update(piece)
    if computed.digest() != first.sha256:
        raise IdempotencyConflict(
            "this Idempotency-Key was used for another file",
            hint="use a new key for each new request",
        )


async def _send(
    call: "Call[None, Any]", asked: Write, pieces: AsyncGenerator[bytes, None]
) -> tuple[Placed, Written | Kept]:
    """Hand a body on to the machine as it comes; nothing of it is in place before its end."""
    query: FormUpload = call.query
    sha256 = _digest(query.sha256)
    computed = hashlib.sha256() if asked.upload is None and sha256 is None else None
    async with (
        aclosing(pieces),
        call.hub.files.open(call.caller, call.path["id"], asked) as transfer,
    ):
        placed = await transfer.answer()

        async def hand_on() -> None:
            async for piece in pieces:
                if computed is not None:
                    computed.update(piece)
                await transfer.send(piece)

        # An answer that comes before the end of the file can only be a failure.
        await _first_of(hand_on, transfer.answer, call.request.until_revoked)
        end = await transfer.finish(sha256 if computed is None else computed.digest())
    assert isinstance(placed, Placed)
    assert isinstance(end, Written | Kept)
    return placed, end


async def _first_of(*parts: Callable[[], Awaitable[object]]) -> None:
    """Run these side by side until one of them ends, and raise what it raised."""
    failures: list[ApplianceError] = []

    async def run(part: Callable[[], Awaitable[object]]) -> None:
        try:
            await part()
        except ApplianceError as exc:
            failures.append(exc)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for part in parts:
            nursery.start_soon(run, part)
    if failures:
        raise failures[0]


def _uploaded(written: Written, upload_id: str | None) -> FileUploaded:
    path, path_base64 = shown(written.path)
    return FileUploaded(
        path=path,
        path_base64=path_base64,
        size=written.size,
        created=written.created,
        sha256=written.sha256.hex(),
        upload_id=upload_id,
    )


def _part(path: bytes, upload_id: str | None, kept: Kept) -> FilePart:
    assert upload_id is not None  # nothing else is kept
    text, path_base64 = shown(path)
    return FilePart(path=text, path_base64=path_base64, upload_id=upload_id, offset=kept.offset)


# ── down ─────────────────────────────────────────────────────────────────────────────────────────


async def _read(
    call: Call[None, PathQuery], asked: Read
) -> AsyncGenerator[Opened | bytearray, None]:
    """What the machine answers, then the bytes. Its `aclose` ends the call to the machine."""
    async with call.hub.files.open(call.caller, call.path["id"], asked) as transfer:
        opened = await transfer.answer()
        assert isinstance(opened, Opened)
        yield opened
        while piece := await transfer.receive():
            yield piece


def _range(header: str) -> tuple[int, int | None] | None:
    """(offset, length) of the one range that is asked for; None: all of it.

    All of it stands for several ranges, too, and for what is no range, as RFC 9110 §14.2 allows.
    """
    asked = _RANGE.fullmatch(header)
    if asked is None:
        return None
    first, last = asked.groups()
    if not first:
        count = int(last or -1)
        return (-count, None) if count > 0 else (0, 0) if count == 0 else None
    if not last:
        return int(first), None
    length = int(last) + 1 - int(first)
    return (int(first), length) if length > 0 else None


def _etag(opened: Opened) -> str:
    if opened.sha256 is not None:
        return f'"{opened.sha256.hex()}"'
    return f'"{quote(opened.version[:_VERSION_CHARS])}"'


def _version(if_range: str) -> str:
    """What a machine may know as a version or a sha256; a date is none, and fits no file."""
    tag = _ETAG.fullmatch(if_range)
    return unquote(tag[1])[:_VERSION_CHARS] if tag else ""


def _is_known(if_none_match: str, opened: Opened) -> bool:
    versions = {opened.version[:_VERSION_CHARS]}
    if opened.sha256 is not None:
        versions.add(opened.sha256.hex())
    known = {unquote(tag) for tag in _ETAG.findall(if_none_match)}
    return if_none_match.strip() == "*" or not versions.isdisjoint(known)


def _disposition(path: bytes) -> str:
    """A header that names the file, in both forms of RFC 6266, whatever its name is."""
    name = path.rpartition(b"/")[2]
    plain = _NOT_PLAIN.sub("_", name.decode("ascii", "replace"))
    header = f'attachment; filename="{plain}"'
    if plain.encode() != name:
        header += f"; filename*=UTF-8''{quote_from_bytes(shown(name)[0].encode(), safe='')}"
    return header
