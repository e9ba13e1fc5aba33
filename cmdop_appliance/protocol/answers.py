"""Which answers belong to which calls for files: all that a hub believes of a machine's answer.

What a machine says of itself may be a lie, and is then one about itself. It must be an answer to
what was asked, though: no longer, of no other part, and of nothing that is no name or path.
"""

from cmdop_appliance.protocol.files import (
    AnyAnswer,
    AnyCall,
    Copy,
    Delete,
    Done,
    Entries,
    Exist,
    Existing,
    Found,
    Kept,
    List,
    Mkdir,
    Move,
    Opened,
    Placed,
    Read,
    Stat,
    Uploaded,
    Write,
    Written,
)
from cmdop_appliance.protocol.messages import FileEnd


def fits(asked: AnyCall | FileEnd, answer: AnyAnswer) -> bool:
    """True: this may be answered to a call, or to the hub's `FileEnd` of a Write."""
    match asked, answer:
        case List() as call, Entries() as page:
            return _is_page(call, page)
        case ((Stat() | Move() | Copy() | Mkdir()), Found() as found):
            return _is_path(found.path) and found.entry.name == found.path.rpartition(b"/")[2]
        case Exist() as call, Existing() as existing:
            return len(existing.exist) == len(call.paths)
        case Read() as call, Opened() as opened:
            return _is_path(opened.path) and _is_part(call, opened)
        case Write() as call, Placed() as placed:
            return _is_path(placed.path) and placed.offset == call.offset
        case FileEnd(sha256=None) as sent, Kept() as kept:
            return kept.offset == sent.end
        case FileEnd() as sent, Written() as written:
            is_sent = (written.size, written.sha256) == (sent.end, sent.sha256)
            return _is_path(written.path) and is_sent
        case (Uploaded(), Kept()) | (Delete(), Done()):
            return True
    return False


def part_of(call: Read, size: int) -> tuple[int, int]:
    """From where to where a file of `size` bytes is to be read, neither beyond its end."""
    first = min(call.offset if call.offset >= 0 else max(0, size + call.offset), size)
    return first, size if call.length is None else min(size, first + call.length)


def _is_page(call: List, page: Entries) -> bool:
    count = len(page.entries)
    # Of a directory that shrank there may be nothing beyond its end.
    is_within = count == 0 or call.offset + count <= page.total
    are_names = all(_is_name(entry.name) for entry in page.entries)
    return _is_path(page.path) and count <= call.limit and is_within and are_names


def _is_part(call: Read, opened: Opened) -> bool:
    told = (opened.first, opened.end)
    is_whole = call.if_version is not None and told == (0, opened.size)
    return is_whole or told == part_of(call, opened.size)


def _is_path(path: bytes) -> bool:
    return path.startswith(b"/") and b"\0" not in path


def _is_name(name: bytes) -> bool:
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
