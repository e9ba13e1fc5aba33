"""/dl: cmdop itself, for machines that are to join, and the script that joins them."""

import functools
import hashlib
import os
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import trio
from msgspec import Struct

from cmdop_appliance.api.exchange import Call, Response
from cmdop_appliance.api.registry import ROOT, route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import ChangedDuringRead, InvalidRequest, NotFound, RateLimited
from cmdop_appliance.joining import join_script
from cmdop_appliance.service.folders import onefile_of_this_program

FOLDER: Final = "dl"  # in the data directory: what its owner puts there is served, too
_CHECKOUT: Final = Path(__file__).parents[2]
_NAME: Final = re.compile(r"cmdop-([a-z0-9]+-[a-z0-9_]+)")
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_READ_BYTES: Final = 64 * 1024
# Anybody may fetch, and take as long as they like.
_AT_ONCE: Final = 32  # programs on their way
_AT_ONCE_BY_ADDRESS: Final = 4
_RETRY_S: Final = 5
_HEADERS: Final = {"Cache-Control": "no-cache"}


class Program(Struct, frozen=True):
    """One of the programs; `platform` is what `uname -s` and `uname -m` say there."""

    name: str
    platform: str
    size: int  # bytes
    sha256: str  # hexadecimal


class Programs(Struct, frozen=True):
    """What machines can fetch; nothing, when the hub runs from a checkout without a build."""

    files: list[Program]
    # Of the hub's certificate, if it has made that itself: `curl -k --pinnedpubkey PIN` knows it.
    key_pin: str | None = None
    public_url: str | None = None  # where machines reach the hub, if its owner has said so


@route("GET", "/dl", scope=Scope.PUBLIC, answer=Programs, plane=ROOT)
async def list_programs(call: Call[None, None]) -> Programs:
    """The programs that are here, by operating system and processor."""
    files = await trio.to_thread.run_sync(_list, call.hub.config.data_dir)
    return Programs(files, call.hub.key_pin or None, call.hub.config.server.public_url or None)


@route(
    "GET",
    "/dl/:file",
    scope=Scope.PUBLIC,
    answer=bytes,
    media="*/*",
    errors=(NotFound, ChangedDuringRead, RateLimited),
    is_bulk=True,
    plane=ROOT,
)
async def download_program(call: Call[None, None]) -> Response:
    """A program; with `.sha256` behind its name what `sha256sum -c` reads; or `join.sh`."""
    file = call.path["file"]
    if file == "join.sh":
        headers = _HEADERS | {"Content-Type": "text/x-shellscript; charset=utf-8"}
        files = await trio.to_thread.run_sync(_list, call.hub.config.data_dir)
        sums = {each.name: each.sha256 for each in files}
        return Response(200, headers, join_script(_url(call), sums, call.hub.key_pin).encode())
    name = file.removesuffix(".sha256")
    path = (await trio.to_thread.run_sync(find_programs, call.hub.config.data_dir)).get(name)
    if path is None:
        raise NotFound("Not found")
    if file != name:
        headers = _HEADERS | {"Content-Type": "text/plain; charset=utf-8"}
        digest = await trio.to_thread.run_sync(_sha256_of, path)
        return Response(200, headers, f"{digest}  {name}\n".encode())
    stream = _read(path, call.hub.downloads, call.request.peer)
    size = await anext(stream)
    headers = _HEADERS | {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Length": str(size),
    }
    if call.request.method == "HEAD":
        await stream.aclose()
        return Response(200, headers, b"")
    return Response(200, headers, cast("AsyncGenerator[bytes, None]", stream))


def find_programs(data_dir: Path) -> dict[str, Path]:
    """The programs by name: this one, or what its checkout has built, and those in FOLDER."""
    system = os.uname()
    own = onefile_of_this_program() or _CHECKOUT / "dist/cmdop"
    found = {f"cmdop-{system.sysname.lower()}-{system.machine}": own}
    found |= {path.name: path for path in sorted((data_dir / FOLDER).glob("cmdop-*"))}
    return {name: path for name, path in found.items() if _NAME.fullmatch(name) and path.is_file()}


def _list(data_dir: Path) -> list[Program]:
    return [
        Program(name, name.removeprefix("cmdop-"), path.stat().st_size, _sha256_of(path))
        for name, path in find_programs(data_dir).items()
    ]


def _sha256_of(path: Path) -> str:
    status = path.stat()
    return _digest(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=32)
def _digest(path: Path, *_version: int) -> str:
    """20 MB take 15 ms or more: once for each version of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _read(
    path: Path, downloads: Counter[str], address: str
) -> AsyncGenerator[int | bytes, None]:
    """How many bytes there are, then these. `downloads`: by address, those that go on.

    Raises:
        ChangedDuringRead: the file has become shorter.
        RateLimited: too many go on.
    """
    with _counted(downloads, address):
        async with await trio.open_file(path, "rb") as file:
            left = os.fstat(file.fileno()).st_size
            yield left
            while left:
                piece = await file.read(min(left, _READ_BYTES))
                if not piece:
                    raise ChangedDuringRead(
                        "the program has been replaced meanwhile; fetch it again"
                    )
                left -= len(piece)
                yield piece


@contextmanager
def _counted(downloads: Counter[str], address: str) -> Iterator[None]:
    if downloads.total() >= _AT_ONCE or downloads[address] >= _AT_ONCE_BY_ADDRESS:
        raise RateLimited(f"too many downloads at once: again in {_RETRY_S} s", _RETRY_S)
    downloads[address] += 1
    try:
        yield
    finally:
        downloads[address] -= 1
        if not downloads[address]:
            del downloads[address]


def _url(call: Call[None, None]) -> str:
    """Where the hub was asked for, as a machine that could ask there can reach it.

    Raises:
        InvalidRequest: the request does not say it in a way that is one.
    """
    headers = call.request.headers
    host = headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise InvalidRequest("the Host header must be HOST or HOST:PORT")
    server = call.hub.config.server
    if server.public_url and host.lower() == server.public_url.partition("//")[2].lower():
        return server.public_url
    # Whoever says so is told so: nobody else gets this answer.
    is_secure = call.request.is_secure or headers.get("x-forwarded-proto") == "https"
    scheme = "https" if is_secure else "http"
    return f"{scheme}://{host}"
