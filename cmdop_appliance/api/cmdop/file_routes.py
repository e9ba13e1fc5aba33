"""What all routes about a machine's files have in common: two addresses, and how a path is said."""

import base64
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from cmdop_appliance.api.fields import RawText, bad_parameter
from cmdop_appliance.api.registry import Handler, Method, route
from cmdop_appliance.errors import (
    ApplianceError,
    ChecksumMismatch,
    FileChanged,
    FileExists,
    FileIoError,
    FileNotFound,
    FilePermissionDenied,
    FilesNotSupported,
    Forbidden,
    InvalidPath,
    InvalidRequest,
    IsADirectory,
    MachineNotFound,
    NoSpace,
    NotADirectory,
    NotARegularFile,
    PathNotAllowed,
    SessionNotActive,
    ValidationFailed,
)
from cmdop_appliance.hub.files import shown
from cmdop_appliance.protocol.files import Write, Written
from cmdop_appliance.protocol.limits import PATH_BYTES

BYTES: Final = "application/octet-stream"
# What can go wrong where a file is put in place, beyond what can with any.
WRITE_ERRORS: Final[tuple[type[ApplianceError], ...]] = (
    ChecksumMismatch,
    FileChanged,
    FileExists,
    Forbidden,
    IsADirectory,
    NoSpace,
    NotARegularFile,
)


class NamesPath(Protocol):
    """A query that has what `PathQuery` has."""

    @property
    def path(self) -> RawText | None: ...
    @property
    def path_base64(self) -> str | None: ...


class PathQuery(Struct, frozen=True, kw_only=True):
    """A path in a query: `path`, or any bytes as base64."""

    path: RawText | None = None
    path_base64: str | None = None


class PathBody(Struct, kw_only=True):
    """A path in a body: `path`, or any bytes as base64."""

    path: str | UnsetType = UNSET
    path_base64: str | UnsetType = UNSET


class AsWritten(Protocol):
    """What a query or a body says of how a file is to be; what it leaves out stays as it was."""

    @property
    def mode(self) -> str | None: ...
    @property
    def owner(self) -> str | None: ...
    @property
    def group(self) -> str | None: ...
    @property
    def create_parents(self) -> bool: ...
    @property
    def overwrite(self) -> bool: ...
    @property
    def if_match(self) -> str | None: ...


class FileWritten(Struct, frozen=True, kw_only=True):
    """A file that is in place."""

    path: str
    path_base64: str | None
    size: int
    created: bool  # false: there was one before
    sha256: str


def file_route(
    method: Method,
    path: str,
    *,
    query: type[Struct] | None = None,
    errors: tuple[type[ApplianceError], ...] = (),
    **options: Any,
) -> Callable[[Handler], Handler]:
    """Enter a handler under both addresses, with what can go wrong with any file (contract.md §5).

    They are `/files…?machine_id=` and `/machines/:id/files…`; `Call.path` has the `id` in both.
    """
    flat_query = msgspec.defstruct(
        f"Flat{query.__name__ if query else 'Query'}",
        [("machine_id", str)],
        bases=(query,) if query else None,
        frozen=True,
        kw_only=True,
    )
    errors = (
        MachineNotFound,
        SessionNotActive,
        FilesNotSupported,
        FileNotFound,
        FilePermissionDenied,
        PathNotAllowed,
        InvalidPath,
        NotADirectory,
        FileIoError,
        *errors,
    )

    def enter(handler: Handler) -> Handler:
        name = handler.__name__
        route(
            method,
            f"/machines/:id/files{path}",
            query=query,
            errors=errors,
            name=name.replace("_", "_machine_", 1),
            **options,
        )(handler)
        route(
            method,
            f"/files{path}",
            query=flat_query,
            errors=errors,
            id_from="machine_id",
            **options,
        )(handler)
        return handler

    return enter


def query_path(query: NamesPath, default: bytes | None = None) -> bytes:
    """The path that a query names; without one `default`, which may be the empty path.

    Raises:
        InvalidRequest: there is none, or it is said twice, or what should be base64 is not.
        InvalidPath: no machine has such a path.
    """
    text = None if query.path is None else query.path.encode("latin-1")
    encoded = query.path_base64
    if encoded is not None:
        encoded = encoded.replace(" ", "+")  # which is how a bare + arrives
    return _read("path", text, encoded, default, bad_parameter)


def body_path(body: Struct, name: str = "path") -> bytes:
    """The path that a body has in the field `name`, or as base64 in the one beside it.

    Raises:
        ValidationFailed: there is none, or it is said twice, or what should be base64 is not.
        InvalidPath: no machine has such a path.
    """
    text, encoded = getattr(body, name), getattr(body, f"{name}_base64")
    return _read(
        name,
        None if text is UNSET else text.encode(),
        None if encoded is UNSET else encoded,
        None,
        _not_valid,
    )


def write_call(given: AsWritten, path: bytes, upload: str | None = None, offset: int = 0) -> Write:
    """What the machine is asked, for a file that is to be put in place as it is `given`."""
    return Write(
        path=path,
        upload=upload,
        offset=offset,
        mode=mode_bits(given.mode),
        owner=given.owner,
        group=given.group,
        create_parents=given.create_parents,
        overwrite=given.overwrite,
        if_match=None if given.if_match is None else bytes.fromhex(given.if_match),
    )


def mode_bits(text: str | None) -> int | None:
    """The mode that octal digits say."""
    return None if text is None else int(text, 8)


def written_view(written: Written) -> dict[str, Any]:
    """The fields of a `FileWritten`."""
    path, path_base64 = shown(written.path)
    return {
        "path": path,
        "path_base64": path_base64,
        "size": written.size,
        "created": written.created,
        "sha256": written.sha256.hex(),
    }


def _read(
    name: str,
    text: bytes | None,
    encoded: str | None,
    default: bytes | None,
    refuse: Callable[[str, str], InvalidRequest | ValidationFailed],
) -> bytes:
    if text is not None and encoded is not None:
        raise refuse(f"{name}_base64", f"must not stand beside {name}")
    if encoded is not None:
        try:
            text = base64.b64decode(encoded, validate=True)
        except ValueError:
            raise refuse(f"{name}_base64", "must be base64") from None
    if text is None and default is None:
        raise refuse(name, "is required")
    path = text or default
    if path is None:
        raise refuse(name, "must not be empty")
    if b"\0" in path:
        raise InvalidPath("a path cannot have a NUL: it ends there for every system")
    if len(path) > PATH_BYTES:
        raise InvalidPath(f"a path of {len(path)} bytes; systems take {PATH_BYTES}")
    return path


def _not_valid(name: str, reason: str) -> ValidationFailed:
    return ValidationFailed("Validation failed", **{name: reason})
