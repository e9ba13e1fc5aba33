"""What callers ask of files is recorded: who changes or reads what, and what came to nothing.

The agent is scripted: it answers what a test wants it to.
"""

import pytest
import trio

from cmdop_appliance.errors import FileNotFound, NoSpace, PathNotAllowed, Unavailable
from cmdop_appliance.hub import audit as hub_audit
from cmdop_appliance.protocol.files import (
    Delete,
    Done,
    Exist,
    Existing,
    Found,
    Mkdir,
    Move,
    Read,
    Stat,
    Write,
)
from cmdop_appliance.protocol.messages import FileAnswer, FileCall
from tests.hub.scripted_files import (
    DIGEST,
    ENTRIES,
    FOUND,
    LIST,
    MAKING,
    MKDIR,
    answering,
    entries,
    recorded,
)
from tests.support.live_hub import CALLER, LiveHub


async def refused(live: LiveHub) -> list[dict[str, object]]:
    """The details of what came to nothing, oldest first."""
    found = await entries(live, outcome="refused")
    assert {each.action for each in found} <= {"file.refused"}
    return [each.details for each in found]


@pytest.mark.parametrize(
    ("call", "answer", "entry"),
    [
        (Delete(path=b"/f"), Done(), ("file.delete", {"path": "/f"})),
        (MAKING[0], FOUND, ("file.move", {"source": "/f", "destination": "/new"})),
        (MAKING[1], FOUND, ("file.copy", {"source": "/f", "destination": "/new"})),
        (MKDIR, FOUND, ("file.mkdir", {"path": "/new"})),
    ],
    ids=["delete", "move", "copy", "mkdir"],
)
async def test_what_changes_something_is_recorded_with_its_paths(
    live, link, machine_id, call, answer, entry
):
    async with answering(link, answer) as heard:
        got = await live.hub.files.ask(CALLER, machine_id, call, type(answer))
    assert (got, heard) == (answer, [call])
    assert await recorded(live) == [(entry[0], machine_id, entry[1])]


@pytest.mark.parametrize(
    ("call", "answer", "entry"),
    [
        (
            Delete(path=b"/f\xff", recursive=True),
            Done(),
            ("file.delete", {"path": "/f\ufffd", "path_base64": "L2b/", "recursive": True}),
        ),
        (
            Move(source=b"/f", destination=b"/\xff", overwrite=True),
            FOUND,
            (
                "file.move",
                {
                    "source": "/f",
                    "destination": "/\ufffd",
                    "destination_base64": "L/8=",
                    "overwrite": True,
                },
            ),
        ),
        (
            Mkdir(path=b"/new", parents=True, mode=0o1777),
            FOUND,
            ("file.mkdir", {"path": "/new", "parents": True, "mode": "1777"}),
        ),
        (
            Stat(path=b"/f", checksum=True),
            FOUND,
            ("file.read", {"path": "/f", "checksum": True}),
        ),
    ],
    ids=["delete", "move", "mkdir", "checksum"],
)
async def test_all_that_is_asked_is_recorded_and_what_is_so_by_default_is_not(
    live, link, machine_id, call, answer, entry
):
    async with answering(link, answer):
        await live.hub.files.ask(CALLER, machine_id, call, type(answer))
    assert await recorded(live) == [(entry[0], machine_id, entry[1])]
    assert await refused(live) == []


async def test_how_a_file_is_to_be_written_is_recorded(live, link, machine_id):
    call = Write(
        path=b"/f",
        upload="u-1",
        offset=7,
        mode=0o600,
        owner="root",
        group="0",
        create_parents=True,
        overwrite=False,
        if_match=DIGEST,
    )
    async with live.hub.files.open(CALLER, machine_id, call):
        pass
    asked = {
        "path": "/f",
        "upload_id": "u-1",
        "offset": 7,
        "mode": "0600",
        "owner": "root",
        "group": "0",
        "create_parents": True,
        "overwrite": False,
        "if_match": DIGEST.hex(),
    }
    assert await recorded(live) == [("file.write", machine_id, asked)]


async def test_which_part_is_read_is_recorded_without_the_version_that_a_caller_may_make_up(
    live, link, machine_id
):
    call = Read(path=b"/f", offset=-7, length=3, if_version="a key, pasted for a version")
    async with live.hub.files.open(CALLER, machine_id, call):
        pass
    asked = {"path": "/f", "offset": -7, "length": 3}
    assert await recorded(live) == [("file.read", machine_id, asked)]


@pytest.mark.parametrize(
    "call",
    [Delete(path=b"/f\xff"), *MAKING, Stat(path=b"/f", checksum=True)],
    ids=lambda call: type(call).__name__,
)
async def test_what_the_machine_refuses_is_recorded_with_its_reason(live, link, machine_id, call):
    async with answering(link, "path_not_allowed"):
        with pytest.raises(PathNotAllowed):
            await live.hub.files.ask(CALLER, machine_id, call, Found)
    ((action, _, asked),) = await recorded(live)
    assert await refused(live) == [{**asked, "asked": action, "why": "path_not_allowed"}]


async def test_a_content_that_the_machine_refuses_is_recorded_with_its_reason(
    live, link, machine_id
):
    files = live.hub.files
    async with answering(link, "file_not_found", "no_space"):
        with pytest.raises(FileNotFound):
            await files.read(CALLER, machine_id, Read(path=b"/f", length=10))
        with pytest.raises(NoSpace):
            await files.write(CALLER, machine_id, Write(path=b"/f"), b"x")
    assert await refused(live) == [
        {"path": "/f", "length": 10, "asked": "file.read", "why": "file_not_found"},
        {"path": "/f", "asked": "file.write", "why": "no_space"},
    ]


async def test_what_is_lost_with_the_link_is_recorded(live, link, machine_id):
    async def write() -> None:
        with pytest.raises(Unavailable):
            await live.hub.files.write(CALLER, machine_id, Write(path=b"/f"), b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await link.expect(FileCall)
        await link.cut()
    assert await refused(live) == [{"path": "/f", "asked": "file.write", "why": "unavailable"}]


async def test_whoever_looks_around_in_vain_is_not_recorded(live, link, machine_id):
    async with answering(link, "file_not_found"):
        with pytest.raises(FileNotFound):
            await live.hub.files.ask(CALLER, machine_id, Stat(path=b"/f"), Found)
    assert await refused(live) == []


async def test_refusals_of_machines_cannot_fill_the_log(live, link, machine_id, monkeypatch):
    monkeypatch.setattr(hub_audit, "_ENTRIES", 2)
    async with answering(link, *["file_not_found"] * 4):
        for _ in range(4):
            with pytest.raises(FileNotFound):
                await live.hub.files.ask(CALLER, machine_id, Delete(path=b"/f"), Done)
    assert len(await recorded(live)) == 4
    assert len(await refused(live)) == 2


async def test_it_is_recorded_before_the_machine_hears_of_it(live, link, machine_id):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.hub.files.ask, CALLER, machine_id, MKDIR, Found)
        call = await link.expect(FileCall)
        assert [action for action, _, _ in await recorded(live)] == ["file.mkdir"]
        await link.say(FileAnswer(id=call.id, answer=FOUND))


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (LIST, ENTRIES),
        (Stat(path=b"/f"), FOUND),
        (Exist(paths=[b"/f"]), Existing(exist=[True])),
    ],
    ids=["list", "stat", "exist"],
)
async def test_looking_around_is_not_recorded(live, link, machine_id, call, answer):
    async with answering(link, answer):
        assert await live.hub.files.ask(CALLER, machine_id, call, type(answer)) == answer
    assert await recorded(live) == []
