"""/files/upload: files of any size, straight through to the machine."""

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import trio
from msgspec import Struct

from cmdop_appliance.api.cmdop.file_routes import (
    BYTES,
    WRITE_ERRORS,
    FileWritten,
    PathQuery,
    file_route,
    query_path,
    write_call,
    written_view,
)
from cmdop_appliance.api.exchange import Call, first_of
from cmdop_appliance.api.fields import Mode, Offset, Owner, Sha256, bad_parameter
from cmdop_appliance.api.multipart import MEDIA, file_form
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import IdempotencyConflict, InvalidRequest, OffsetMismatch
from cmdop_appliance.hub.files import shown
from cmdop_appliance.protocol.files import Kept, Placed, Uploaded, UploadId, Write, Written

R = TypeVar("R")


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
    asked = write_call(query, query_path(query), query.upload_id, query.offset or 0)

    async def send(watch: trio.CancelScope) -> tuple[Placed, Written | Kept]:
        return await _send(call, asked, call.request.pieces(), watch)

    placed, end = await _while_good(call, send)
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

    async def take(watch: trio.CancelScope) -> FileUploaded:
        return await _take_form(call, watch)

    return await _while_good(call, take)


async def _take_form(call: Call[None, FormUpload], watch: trio.CancelScope) -> FileUploaded:
    content_type = call.request.headers.get("content-type", "")
    known = PathQuery.__struct_fields__
    async with file_form(content_type, call.request.pieces(), known) as (fields, file):
        given = {name: text.decode("latin-1") for name, text in fields.items()}
        asked = write_call(call.query, _form_path(call.query, given))
        once = call.once
        if once is not None:
            request_hash = hashlib.sha256(once.request_hash + asked.path).digest()
            once = replace(once, request_hash=request_hash)
            first = await call.hub.files.first_upload(call.caller, call.path["id"], once)
            if first is not None:
                await _require_same(file, first)
                return _uploaded(first, None)
        _, written = await _send(call, asked, file, watch)
        assert isinstance(written, Written)
        await call.hub.files.uploaded(call.caller, call.path["id"], written, once)
        return _uploaded(written, None)


@file_route("GET", "/upload", scope=Scope.FILES_WRITE, query=UploadStatus, answer=FilePart)
async def get_upload(call: Call[None, UploadStatus]) -> FilePart:
    """How much of an upload has arrived: where it goes on. 0, if nobody knows it (any more)."""
    asked = Uploaded(path=query_path(call.query), upload=call.query.upload_id)
    kept = await call.hub.files.ask(call.caller, call.path["id"], asked, Kept)
    return _part(asked.path, call.query.upload_id, kept)


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
    call: "Call[None, Any]",
    asked: Write,
    pieces: AsyncGenerator[bytes, None],
    watch: trio.CancelScope,
) -> tuple[Placed, Written | Kept]:
    """Hand a body on to the machine as it comes; nothing of it is in place before its end.

    There it ends the `watch`: what is being put in place is not broken off.
    """
    query: FormUpload = call.query
    sha256 = None if query.sha256 is None else bytes.fromhex(query.sha256)
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
        await first_of(hand_on, transfer.answer)
        watch.cancel()
        end = await transfer.finish(sha256 if computed is None else computed.digest())
    assert isinstance(placed, Placed)
    assert isinstance(end, Written | Kept)
    return placed, end


async def _while_good(
    call: "Call[None, Any]", work: Callable[[trio.CancelScope], Awaitable[R]]
) -> R:
    """Do this work, watching whether the caller's key is good for as long as `work` lets it.

    Raises:
        Unauthorized: it is not, and the work is broken off.
    """
    watch = trio.CancelScope()
    done: list[R] = []

    async def run() -> None:
        done.append(await work(watch))

    async def look() -> None:
        with watch:
            await call.request.until_revoked()
        await trio.sleep_forever()

    await first_of(run, look)
    return done[0]


def _uploaded(written: Written, upload_id: str | None) -> FileUploaded:
    return FileUploaded(**written_view(written), upload_id=upload_id)


def _part(path: bytes, upload_id: str | None, kept: Kept) -> FilePart:
    assert upload_id is not None  # nothing else is kept
    text, path_base64 = shown(path)
    return FilePart(path=text, path_base64=path_base64, upload_id=upload_id, offset=kept.offset)
