"""Paths on machines: any bytes there, `os.fsdecode`d text here, JSON and query fields between."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final, TypeVar, cast

from cmdop_appliance.sdk.errors import CmdopError, UnexpectedAnswer

T = TypeVar("T")

_BYTES: Final = "_base64"  # ends the name of the field that has the bytes


def path_field(path: str, name: str = "path") -> dict[str, str]:
    """`path` as the hub takes it, under this name or, if it is not UTF-8, as bytes.

    Raises:
        CmdopError: it has characters that no path can have.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return {name + _BYTES: b64encode(path_bytes(path)).decode()}
    return {name: path}


def path_bytes(path: str) -> bytes:
    """The bytes that `path` stands for on a machine.

    Raises:
        CmdopError: it has characters that no path can have.
    """
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise CmdopError(f"a path has a character that none can have: {path!r}") from None


def is_bytes(name: str) -> bool:
    """True: the field has the bytes of the text in another one."""
    return name.endswith(_BYTES)


def with_exact_names(record: Mapping[str, Any], kind: type[T]) -> T:
    """The hub's record, each text that has its bytes beside it made of these.

    Raises:
        UnexpectedAnswer: they cannot be read.
    """
    exact = {**record}
    for name, value in record.items():
        if is_bytes(name) and isinstance(value, str):
            try:
                raw = b64decode(value, validate=True)
            except ValueError:
                raise UnexpectedAnswer(f"the hub sent a {name} that is none") from None
            exact[name.removesuffix(_BYTES)] = raw.decode("utf-8", "surrogateescape")
    return cast("T", exact)
