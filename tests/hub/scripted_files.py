"""A scripted machine that is asked of its files, and what the audit log then tells."""

import hashlib
from contextlib import asynccontextmanager

import trio

from cmdop_appliance.model import AuditEntry
from cmdop_appliance.protocol.files import (
    AnyAnswer,
    AnyCall,
    Copy,
    Entries,
    Entry,
    Found,
    List,
    Mkdir,
    Move,
    Read,
    Written,
)
from cmdop_appliance.protocol.messages import FileAnswer, FileCall, FileFailed
from cmdop_appliance.store import audit
from cmdop_appliance.store.listing import Paging
from tests.support.live_hub import Link, LiveHub
from tests.support.records import WORKSPACE

DIGEST = hashlib.sha256(b"content").digest()
LIST, READ = List(path=b"", limit=20), Read(path=b"/f")
FOUND = Found(
    path=b"/new",
    entry=Entry(
        name=b"new", type="file", size=1, mode=0o644, owner="root", group="root", modified_ms=0
    ),
    version="v",
)
ENTRIES = Entries(path=b"/", entries=[], total=0)
WRITTEN = Written(path=b"/f\xff", size=7, sha256=DIGEST, created=True)
MKDIR = Mkdir(path=b"/new")
MAKING = [Move(source=b"/f", destination=b"/new"), Copy(source=b"/f", destination=b"/new"), MKDIR]


@asynccontextmanager
async def answering(link: Link, *answers: AnyAnswer | str):
    """The machine gives these answers, a text being a failure; what it was asked is in the list."""
    heard: list[AnyCall] = []

    async def play() -> None:
        for answer in answers:
            call = await link.expect(FileCall)
            heard.append(call.call)
            if isinstance(answer, str):
                await link.say(FileFailed(id=call.id, code=answer, message="no"))
            else:
                await link.say(FileAnswer(id=call.id, answer=answer))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(play)
        yield heard


async def recorded(live: LiveHub) -> list[tuple[str, str, dict[str, object]]]:
    """(action, target, details) of what was asked of files, oldest first."""
    return [(each.action, each.target, each.details) for each in await entries(live, outcome="ok")]


async def entries(live: LiveHub, outcome: str) -> list[AuditEntry]:
    """What the audit log tells of files, oldest first."""
    paging = Paging(limit=100, sort="created_at")
    page = await live.hub.store.run(audit.page, WORKSPACE, paging, outcome=outcome)
    return [each for each in page.items if each.action.startswith("file.")]
