"""/files/download: files of any size, straight through from the machine."""

import re
from collections.abc import AsyncGenerator
from email.utils import formatdate
from typing import Final, cast
from urllib.parse import quote, quote_from_bytes, unquote

from cmdop_appliance.api.cmdop.file_routes import BYTES, PathQuery, file_route, query_path
from cmdop_appliance.api.exchange import Call, Response
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import (
    ChangedDuringRead,
    IsADirectory,
    NotARegularFile,
    RangeNotSatisfiable,
)
from cmdop_appliance.hub.files import shown
from cmdop_appliance.protocol.files import Opened, Read

_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_ETAG: Final = re.compile(r'"([!#-~]*)"')
# The longest version of a file that goes into a header; ours are far shorter.
_VERSION_CHARS: Final = 200
# What stands in a file name of the old form: the other one says it all.
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9 ._()+,=@~-]")


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
    headers["Content-Type"] = BYTES
    headers["Cache-Control"] = "no-cache"
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
