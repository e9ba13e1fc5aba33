"""A release in one file: an uncompressed tar of its manifest, a signature, and the programs.

There is exactly one way to write a bundle, byte by byte, for a manifest: names, order, sizes and
every field of every header follow from it, and it is signed. So nothing here parses an archive: a
reader compares what comes with what must come, and refuses at the first byte that is another one.
Other members, paths, links, devices, padding with something in it and trailing data are all the
same to it.
"""

import hashlib
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from cmdop_appliance.errors import BundleRefused
from cmdop_appliance.identity import is_signed_by
from cmdop_appliance.release import numbers

SIGNATURE_BYTES: Final = 64  # Ed25519, RFC 8032
MANIFEST_BYTES: Final = 64 * 1024  # at the most

_MANIFEST: Final = "manifest.json"
_SIGNATURE: Final = "manifest.sig"
_BLOCK: Final = 512  # of a tar
_END: Final = bytes(2 * _BLOCK)
_SIZE_FIELD: Final = slice(124, 136)
_OCTAL: Final = re.compile(rb"[0-7]{11}\0")
_READ_BYTES: Final = 64 * 1024


class File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program of a release: `cmdop-` and what `uname -s` and `uname -m` say where it runs."""

    name: Annotated[str, Meta(pattern=r"^cmdop-[a-z0-9]{1,16}-[a-z0-9_]{1,16}\Z")]
    size: Annotated[int, Meta(ge=1, le=1024**3)]  # bytes
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a release is."""

    format: Literal[1] = 1
    version: Annotated[str, Meta(pattern=rf"^{numbers.PATTERN}\Z")]
    released_ms: Annotated[int, Meta(ge=0, le=2**52)]  # since 1970 UTC
    schema: Annotated[int, Meta(ge=1, le=9999)]  # of the store
    files: Annotated[tuple[File, ...], Meta(min_length=1, max_length=32)]

    def __post_init__(self) -> None:
        if len({file.name for file in self.files}) < len(self.files):
            raise ValueError("a program is named twice")

    def is_newer_than(self, version: str, released_ms: int) -> bool:
        """True: this release came after that one."""
        mine = (numbers.order_of(self.version), self.released_ms)
        return mine > (numbers.order_of(version), released_ms)

    def program_for(self, platform: str) -> File | None:
        """The one for `platform`, as `this_platform` says it; None: there is none."""
        return next((file for file in self.files if file.name == f"cmdop-{platform}"), None)


def this_platform() -> str:
    """Such as linux-x86_64."""
    system = os.uname()
    return f"{system.sysname.lower()}-{system.machine}"


def read_manifest(manifest: bytes, signature: bytes, keys: Iterable[bytes]) -> Manifest:
    """What one of `keys` has signed, byte by byte; nothing of it is looked at before that is sure.

    Raises:
        BundleRefused: nobody who is trusted has signed exactly this, or it is no manifest.
    """
    if not any(is_signed_by(key, signature, manifest) for key in keys):
        raise BundleRefused(
            "no key that is trusted here has signed this bundle",
            hint="name its maker's public key in [upgrade] keys, if you trust it",
        )
    try:
        return msgspec.json.decode(manifest, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise BundleRefused(
            f"the bundle's manifest cannot be read: {exc}",
            hint="it is signed, and of a later format, it seems: upgrade to a release in between",
        ) from exc


def read_known(manifest: bytes) -> Manifest:
    """The manifest in what was verified before, and kept since where nobody else writes."""
    return msgspec.json.decode(manifest, type=Manifest)


class BundleReader:
    """Takes a bundle in pieces of any size, and gives what its programs are made of."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """`keys`: Ed25519 public keys, one of which must have signed."""
        self._keys = keys
        self._unread = bytearray()
        self._steps = self._read()
        self._read_bytes = 0
        self.is_complete = False
        # Once they are read and verified; all the rest follows from them.
        self.manifest: Manifest | None = None
        self.manifest_bytes = b""
        self.signature = b""

    def feed(self, piece: bytes) -> Iterator[tuple[File, bytes]]:
        """Take the next piece. What follows in it of programs; of each in order, all its bytes.

        A program is good when the next one begins, or the bundle `is_complete`.

        Raises:
            BundleRefused: this is not what was signed.
        """
        self._unread += piece
        for step in self._steps:
            if step is None:
                return
            yield step
        if self._unread:
            raise self._refused("there is more behind its end")

    def close(self) -> None:
        """There are no more pieces.

        Raises:
            BundleRefused: there should be.
        """
        if not self.is_complete:
            raise self._refused("it ends too early")

    def _read(self) -> Generator[tuple[File, bytes] | None, None, None]:
        """The next piece of a program, or None when more is needed."""
        head = yield from self._take(_BLOCK)
        size = head[_SIZE_FIELD]
        if not _OCTAL.fullmatch(size) or not 0 < int(size[:-1], 8) <= MANIFEST_BYTES:
            raise self._refused("it does not begin with a manifest")
        manifest_size = int(size[:-1], 8)
        if head != _header(_MANIFEST, manifest_size):
            raise self._refused("it does not begin with a manifest")
        manifest = yield from self._take(manifest_size)
        yield from self._expect(_padding(manifest_size))
        yield from self._expect(_header(_SIGNATURE, SIGNATURE_BYTES))
        signature = yield from self._take(SIGNATURE_BYTES)
        self.manifest = read_manifest(manifest, signature, self._keys)
        self.manifest_bytes, self.signature = manifest, signature
        yield from self._expect(_padding(SIGNATURE_BYTES))
        for file in self.manifest.files:
            yield from self._expect(_header(file.name, file.size))
            digest = hashlib.sha256()
            left = file.size
            while left:
                while not self._unread:
                    yield None
                content = yield from self._take(min(left, len(self._unread)))
                digest.update(content)
                left -= len(content)
                yield file, content
            if digest.hexdigest() != file.sha256:
                raise self._refused(f"{file.name} is not the program that was signed")
            yield from self._expect(_padding(file.size))
        yield from self._expect(_END)
        self.is_complete = True

    def _take(self, size: int) -> Generator[None, None, bytes]:
        while len(self._unread) < size:
            yield None
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        self._read_bytes += size
        return taken

    def _expect(self, wanted: bytes) -> Generator[None, None, None]:
        if (yield from self._take(len(wanted))) != wanted:
            raise self._refused("it is not as its manifest says")

    def _refused(self, why: str) -> BundleRefused:
        return BundleRefused(
            f"this is no bundle of a release: {why} (at byte {self._read_bytes})",
            hint="fetch it again from where it came",
        )


def sha256_of(path: Path) -> str:
    """As a manifest has it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack(manifest: bytes, signature: bytes, programs: Mapping[str, Path]) -> Iterator[bytes]:
    """The bytes of a bundle. `programs`: by their names, in the order of the manifest."""
    yield from (_header(_MANIFEST, len(manifest)), manifest, _padding(len(manifest)))
    yield from (_header(_SIGNATURE, len(signature)), signature, _padding(len(signature)))
    for name, path in programs.items():
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            yield _header(name, size)
            while content := file.read(_READ_BYTES):
                yield content
            yield _padding(size)
    yield _END


def _header(name: str, size: int) -> bytes:
    """Of a regular file in a ustar archive, of nobody's and of no time (POSIX, pax(1))."""
    mode = b"0000755" if name.startswith("cmdop-") else b"0000644"
    nobody = b"0000000\0"
    head = b"".join(
        (
            name.encode().ljust(100, b"\0"),
            *(mode, b"\0", nobody, nobody),
            *(b"%011o\0" % size, b"00000000000\0"),
            *(b" " * 8, b"0", bytes(100), b"ustar\x0000", bytes(64), nobody, nobody),
        )
    ).ljust(_BLOCK, b"\0")
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)
