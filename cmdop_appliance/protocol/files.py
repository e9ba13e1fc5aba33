"""What a hub asks of a machine's files, and what that answers.

Names of files are bytes, as the machine has them; JSON carries them as base64. A path without a
leading `/` counts from the home of the agent's user, and an empty one is that home.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from cmdop_appliance.protocol.limits import (
    ENTRIES_ITEMS,
    LABEL_CHARS,
    NAME_CHARS,
    PATH_BYTES,
    PATHS_ITEMS,
)

Label = Annotated[str, Meta(max_length=LABEL_CHARS)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
FilePath = Annotated[bytes, Meta(max_length=PATH_BYTES)]
Mode = Annotated[int, Meta(ge=0, le=0o7777)]
# Names one upload through all its attempts; its caller has chosen it.
UploadId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Kind = Literal["file", "directory", "symlink", "other"]


class Call(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="call", tag=str.lower):
    """One thing to do with files; its `call` is the class name in lower case."""


class List(Call, frozen=True):
    """A page of a directory, by name: `limit` entries after the first `offset`. → `Entries`"""

    path: FilePath
    limit: Annotated[int, Meta(ge=0, le=ENTRIES_ITEMS)]
    offset: Count = 0
    hidden: bool = False  # also those whose name begins with a dot


class Stat(Call, frozen=True):
    """What stands at a path, a link at its end not followed. → `Found`"""

    path: FilePath
    checksum: bool = False  # also the sha256 of a file (a link to it is followed); reads all of it


class Exist(Call, frozen=True):
    """Which of these exist, whatever they are; what may not be seen does not. → `Existing`

    `~`, and what begins with `~/`, counts from the home of the agent's user.
    """

    paths: Annotated[list[FilePath], Meta(max_length=PATHS_ITEMS)]


class Read(Call, frozen=True):
    """The bytes of a regular file. → `Opened`, then data, then `FileEnd`.

    With `offset` and `length` a part, which ends with the file; a negative `offset` counts from
    its end. If `if_version` is another than the file's, the whole file instead of the part.
    """

    path: FilePath
    offset: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] = 0
    length: Count | None = None
    if_version: Label | None = None


class Write(Call, frozen=True):
    """Put a file in place, whole. → `Placed`, then the hub's data and its `FileEnd` → `Written`.

    Data begins at `offset`. With `upload` what has arrived is kept, also beyond this connection,
    and a `FileEnd` without a sha256 ends only this part of it → `Kept`.
    """

    path: FilePath
    upload: UploadId | None = None
    offset: Count = 0
    mode: Mode | None = None  # default: that of the file before, or what the umask leaves of 0666
    owner: Annotated[str, Meta(min_length=1, max_length=NAME_CHARS)] | None = None  # name or number
    group: Annotated[str, Meta(min_length=1, max_length=NAME_CHARS)] | None = None  # the same
    create_parents: bool = False
    overwrite: bool = True
    if_match: Bytes32 | None = None  # only if the file has this sha256 now


class Uploaded(Call, frozen=True):
    """How much of an upload to this path has arrived. → `Kept`; 0 of one that nobody knows."""

    path: FilePath
    upload: UploadId


class Delete(Call, frozen=True):
    """Take away a file, a link (never what it leads to) or a directory. → `Done`"""

    path: FilePath
    recursive: bool = False


class Move(Call, frozen=True):
    """Give a file or directory another path. → `Found`, of the new place"""

    source: FilePath
    destination: FilePath
    overwrite: bool = False


class Copy(Call, frozen=True):
    """Make another of a file, or of a directory with all that is in it. → `Found`, of the copy"""

    source: FilePath
    destination: FilePath
    overwrite: bool = False


class Mkdir(Call, frozen=True):
    """Make a directory. With `parents` those above it, too, and it may exist. → `Found`"""

    path: FilePath
    parents: bool = False
    mode: Mode | None = None  # default: what the umask leaves of 0777


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One name in a directory. Owner and group are names, or numbers that have none."""

    name: Annotated[bytes, Meta(max_length=NAME_CHARS)]
    type: Kind
    size: Count
    mode: Mode
    owner: Label
    group: Label
    modified_ms: int  # since 1970, also before
    target: FilePath | None = None  # what a symlink says


class Answer(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="answer", tag=str.lower
):
    """What came of a call; `path` is always absolute."""


class Entries(Answer, frozen=True):
    """A page of a directory that has `total` entries of the kind that was asked for."""

    path: FilePath
    entries: Annotated[list[Entry], Meta(max_length=ENTRIES_ITEMS)]
    total: Count


class Found(Answer, frozen=True):
    """What stands at `path`; the name of its entry is the last part of that, "" for the root."""

    path: FilePath
    entry: Entry
    version: Label  # other after every change
    sha256: Bytes32 | None = None


class Existing(Answer, frozen=True):
    """In the order of the question."""

    exist: Annotated[list[bool], Meta(max_length=PATHS_ITEMS)]


class Opened(Answer, frozen=True):
    """A file of `size` bytes, of which those from `first` up to, not including, `end` follow."""

    path: FilePath
    size: Count
    first: Count
    end: Count
    version: Label
    modified_ms: int
    sha256: Bytes32 | None = None  # of the whole file, if the machine knows it already


class Placed(Answer, frozen=True):
    """The machine takes bytes from `offset` on, which is what was asked for."""

    path: FilePath
    offset: Count


class Written(Answer, frozen=True):
    """The file is in place, on the disk, with all its bytes."""

    path: FilePath
    size: Count
    sha256: Bytes32
    created: bool  # False: there was one before


class Kept(Answer, frozen=True):
    """So many bytes of an upload have arrived."""

    offset: Count


class Done(Answer, frozen=True):
    """It is done, and there is nothing to tell."""


AnyCall = List | Stat | Exist | Read | Write | Uploaded | Delete | Move | Copy | Mkdir
AnyAnswer = Entries | Found | Existing | Opened | Placed | Written | Kept | Done


def is_transfer(call: Call) -> bool:
    """True: it takes as long as there are bytes or files; a Move may be to another file system."""
    match call:
        case Read() | Write() | Copy() | Move() | Delete(recursive=True) | Stat(checksum=True):
            return True
    return False
