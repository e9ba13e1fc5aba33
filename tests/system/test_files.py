"""A machine's files from outside: whole, under their true names, and nobody waits for them."""

import base64
import hashlib
import os
import tempfile
from contextlib import closing
from pathlib import Path
from random import Random

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.appliance import wait_for
from tests.support.machine_files import MachineFiles, arrived, names_in

LARGE_BYTES = 30_000_000
HELD_BYTES = 300_000_000  # far more than all buffers between a disk and a reader hold
MANY = 100_000
NAME_BYTES = 255  # NAME_MAX


@pytest.fixture(scope="module")
def files(hub, agent):
    return MachineFiles(hub.api, agent.machine_id)


@pytest.fixture(scope="module")
def large():
    return Random(5).randbytes(LARGE_BYTES)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_open(agent, path: Path) -> bool:
    """True: the agent has this file open."""
    return str(path) in [file.path for file in psutil.Process(agent.pid).open_files()]


# ── every route ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("flat", [False, True], ids=["of a machine", "flat"])
def test_a_file_from_its_first_byte_to_its_end(hub, agent, tmp_path, flat):
    files = MachineFiles(hub.api, agent.machine_id, flat=flat)
    folder, path, copy = tmp_path / "a" / "b", tmp_path / "a" / "b" / "x.txt", tmp_path / "copy"

    made = files.call("POST", "/mkdir", body={"path": str(folder), "parents": True}).data
    assert (made["path"], made["type"]) == (str(folder), "directory")

    body = {"path": str(path), "content": "one\n", "mode": "0640"}
    written = files.call("PUT", "/content", body=body).data
    assert written["path"] == str(path)
    assert (written["size"], written["created"], written["sha256"]) == (4, True, sha256(b"one\n"))
    assert (path.read_bytes(), path.stat().st_mode & 0o7777) == (b"one\n", 0o640)

    told = files.call("GET", "/content", path).data
    assert (told["content"], told["encoding"], told["size"]) == ("one\n", "utf-8", 4)
    assert told["sha256"] == sha256(b"one\n")

    (entry,) = files.list(folder)["files"]
    assert entry["modified_at"].endswith("Z")
    expected = {
        "name": "x.txt", "path": str(path), "type": "file", "size": 4, "mode": "0640",
        "owner": path.owner(), "group": path.group(),
    }  # fmt: skip
    assert {name: entry[name] for name in expected} == expected
    found = files.stat(path, checksum="true")
    assert {name: found[name] for name in expected} == expected
    assert found["sha256"] == sha256(b"one\n")

    uploaded = files.upload(path, b"two", sha256=sha256(b"two"))
    assert (uploaded.status, uploaded.data["created"], path.read_bytes()) == (200, False, b"two")
    assert path.stat().st_mode & 0o7777 == 0o640
    assert files.download(path).body == b"two"

    copied = files.call("POST", "/copy", body={"source": str(path), "destination": str(copy)}).data
    assert (copied["path"], copied["type"], copy.read_bytes()) == (str(copy), "file", b"two")
    body = {"source": str(copy), "destination": str(path)}
    there = files.call("POST", "/move", body=body)
    assert (there.status, there.error["code"]) == (409, "file_exists")
    moved = files.call("POST", "/move", body={**body, "overwrite": True}).data
    assert (moved["path"], copy.exists()) == (str(path), False)

    full = files.call("DELETE", "", folder)
    assert (full.status, full.error["code"]) == (409, "directory_not_empty")
    assert files.call("DELETE", "", path).data == {"deleted": True}
    gone = files.download(path)
    assert (gone.status, gone.error["code"]) == (404, "file_not_found")
    assert files.call("DELETE", "", tmp_path / "a", recursive="true").data == {"deleted": True}
    assert names_in(tmp_path) == []


def test_30_mb_arrive_up_and_down_as_they_are(files, tmp_path, large):
    path = tmp_path / "large"
    answer = files.upload(path, large, sha256=sha256(large))
    assert (answer.status, answer.data["size"]) == (200, LARGE_BYTES), answer
    assert answer.data["sha256"] == sha256(large)
    assert path.read_bytes() == large
    assert names_in(tmp_path) == [b"large"]
    down = files.download(path)
    assert (down.status, down.headers["content-length"]) == (200, str(LARGE_BYTES))
    assert down.body == large


def test_a_form_of_a_browser_brings_a_file(files, tmp_path, large):
    path, edge, sent = tmp_path / "form", "----edge", large[:3_000_000]
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + sent + f"\r\n--{edge}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    answer = files.call("POST", "/upload", path, body, headers)
    assert (answer.status, answer.data["sha256"]) == (200, sha256(sent)), answer
    assert path.read_bytes() == sent


def test_an_upload_goes_on_where_it_was_broken_off(files, tmp_path, large):
    path, half = tmp_path / "x", LARGE_BYTES // 2
    path.write_bytes(b"old")
    part = files.upload(path, large[:half], upload_id="u1", offset=0).data
    assert (part["offset"], part["complete"], part["upload_id"]) == (half, False, "u1")
    assert path.read_bytes() == b"old"
    assert files.offset(path, "u1") == half
    assert files.offset(path, "u2") == 0
    gap = files.upload(path, b"x", upload_id="u1", offset=half + 1)
    assert (gap.status, gap.error["code"]) == (409, "offset_mismatch")
    assert gap.error["details"]["offset"] == half
    wrong = files.upload(path, large[half:], upload_id="u1", offset=half, sha256=sha256(b""))
    assert (wrong.status, wrong.error["code"]) == (400, "checksum_mismatch")
    assert path.read_bytes() == b"old"


def test_a_part_that_carries_the_checksum_puts_the_file_in_place(files, tmp_path, large):
    path, half = tmp_path / "x", LARGE_BYTES // 2
    files.upload(path, large[:half], upload_id="u1", offset=0)
    # what comes twice is taken twice
    whole = files.upload(
        path, large[half - 7 :], upload_id="u1", offset=half - 7, sha256=sha256(large)
    )
    assert (whole.data["complete"], whole.data["size"]) == (True, LARGE_BYTES)
    assert path.read_bytes() == large
    assert names_in(tmp_path) == [b"x"]


def test_a_part_of_a_file_is_read_by_range_while_it_is_the_same_file(files, tmp_path, large):
    path = tmp_path / "x"
    path.write_bytes(large)
    tag = files.download(path, Range="bytes=0-0").headers["etag"]
    part = files.download(path, Range="bytes=1000000-1999999", If_Range=tag)
    assert (part.status, part.body) == (206, large[1_000_000:2_000_000])
    assert part.headers["content-range"] == f"bytes 1000000-1999999/{LARGE_BYTES}"
    path.write_bytes(large[::-1])
    other = files.download(path, Range="bytes=1000000-1999999", If_Range=tag)
    assert (other.status, other.body) == (200, large[::-1])
    beyond = files.download(path, Range=f"bytes={LARGE_BYTES}-")
    assert beyond.status == 416


# ── names ────────────────────────────────────────────────────────────────────────────────────────

HOSTILE = {
    "newline": b"one\ntwo",
    "not UTF-8": b"\xff\xfe\xc3(",
    "overlong": b"\xc0\xaf\xe0\x80\xaf",
    "surrogate": b"\xed\xa0\x80",
    "as long as a name can be": b"n" * NAME_BYTES,
    "as long, not UTF-8": b"\x80" * NAME_BYTES,
    "leading dash": b"-rf",
    "begins with dots": b"..x",
    "three dots": b"...",
    "spaces": b"  ",
    "escape sequence": b"\x1b[2J\x1b]0;x\x07",
    "right to left": "\u202egpj.exe".encode(),
    "all that is special in a URL": b"a?b#c&d=e%2F%00;+f\\g",
    "quotes": b"\"'`$(touch pwned)",
    "replacement character": "\ufffd".encode(),
}


def _check_name(files: MachineFiles, folder: bytes, name: bytes) -> None:
    """A file of this name is written, found, read, moved and taken away as the one it is."""
    path = folder + b"/" + name
    answer = files.upload(path, name)
    assert answer.status == 200, answer
    assert names_in(folder) == [name]
    (entry,) = files.list(folder, hidden="true")["files"]
    _check_text(entry, "name", name)
    _check_text(entry, "path", path)
    _check_text(answer.data, "path", path)
    _check_text(files.stat(path), "name", name)
    assert files.download(path).body == name
    other = folder + b"/other"
    body = {**_field("source", entry, "path"), "destination": os.fsdecode(other)}
    assert files.call("POST", "/move", body=body).status == 200
    assert names_in(folder) == [b"other"]
    assert files.call("POST", "/move", body=_reversed(body)).status == 200
    assert names_in(folder) == [name]
    assert files.call("DELETE", "", path).data == {"deleted": True}
    assert names_in(folder) == []


def _check_text(told, field: str, name: bytes) -> None:
    """`field` is the name in text, and the bytes are beside it where that is not all of it."""
    assert told[field] == name.decode(errors="replace")
    encoded = told[f"{field}_base64"]
    if name.decode(errors="ignore").encode() == name:
        assert encoded is None
    else:
        assert base64.b64decode(encoded, validate=True) == name


def _field(name: str, entry, of: str) -> dict[str, str]:
    """The field of a request that names what `entry` does."""
    encoded = entry[f"{of}_base64"]
    return {name: entry[of]} if encoded is None else {f"{name}_base64": encoded}


def _reversed(body: dict[str, str]) -> dict[str, str]:
    swapped = {"source": "destination", "destination": "source"}
    return {
        key.replace(word, swapped[word]): value
        for key, value in body.items()
        for word in swapped
        if key.startswith(word)
    }


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_file_of_any_name_is_the_one_that_is_meant(files, tmp_path, name):
    _check_name(files, os.fsencode(tmp_path), name)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.binary(min_size=1, max_size=NAME_BYTES))
@example(name=b"\n")
@example(name=b"%")
@example(name=b"\xc3")
def test_every_name_that_a_disk_takes_goes_through(files, tmp_path, name):
    name = name.translate(None, b"\0/")
    if name not in (b"", b".", b"..", b"other"):
        _check_name(files, os.fsencode(tmp_path), name)


@pytest.mark.parametrize(
    "name", [b"nul\0inside", b"n" * (NAME_BYTES + 1), b"d/" * 2048], ids=["NUL", "name", "path"]
)
def test_a_name_that_no_disk_takes_is_refused_as_such(files, tmp_path, name):
    path = os.fsencode(tmp_path) + b"/" + name
    for answer in (files.upload(path, b"x"), files.download(path), files.call("DELETE", "", path)):
        assert (answer.status, answer.error["code"]) == (400, "invalid_path"), answer
    assert names_in(tmp_path) == []


def test_two_dots_lead_up_and_never_above_the_root(files, tmp_path):
    (tmp_path / "sub").mkdir()
    assert files.upload(tmp_path / "sub" / ".." / "x", b"here").data["path"] == f"{tmp_path}/x"
    assert (tmp_path / "x").read_bytes() == b"here"
    assert files.download(f"/../../..{tmp_path}/x").body == b"here"


# ── large directories ────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def crowd():
    """A directory of many files, in memory where the machine has such a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for number in range(MANY):
                os.mknod(f"f{number:06d}", dir_fd=parent)
        finally:
            os.close(parent)
        yield folder


@pytest.mark.parametrize("offset", [0, 100, 54_321, MANY - 100, MANY - 3, MANY, MANY + 1])
def test_a_directory_of_100_000_entries_is_listed_by_pages(files, crowd, offset):
    answer = files.call("GET", "", crowd, limit=100, offset=offset)
    names = [entry["name"] for entry in answer.data["files"]]
    assert names == [f"f{number:06d}" for number in range(offset, min(MANY, offset + 100))]
    meta = answer.json["meta"]
    assert (meta["total"], meta["limit"], meta["offset"]) == (MANY, 100, offset)
    assert meta["has_more"] == (offset + 100 < MANY)


# ── files that change while they are read ────────────────────────────────────────────────────────


def _append(path: Path, _data: bytes) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _overwrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


def _shorten(path: Path, data: bytes) -> None:
    os.truncate(path, len(data) // 2)


@pytest.mark.parametrize("change", [_append, _overwrite, _shorten])
def test_a_file_that_changes_during_a_download_ends_it_short(files, tmp_path, large, change):
    path = tmp_path / "x"
    path.write_bytes(large)
    with files.reading(path) as reading:
        assert int(reading.headers["content-length"]) == LARGE_BYTES
        begun = reading.read(100_000)
        change(path, large[::-1])
        got = begun + reading.read_rest()
    assert len(got) < LARGE_BYTES
    # what came before the end was read before the change was seen, and is no download
    assert files.download(path).body == path.read_bytes()


def test_a_file_that_is_replaced_during_a_download_is_the_old_one_to_its_end(
    files, tmp_path, large
):
    path, new = tmp_path / "x", tmp_path / "new"
    path.write_bytes(large)
    new.write_bytes(large[::-1])
    with files.reading(path) as reading:
        begun = reading.read(100_000)
        new.rename(path)
        got = begun + reading.read_rest()
    assert got == large[: len(got)]
    assert files.download(path).body == large[::-1]


# ── others ───────────────────────────────────────────────────────────────────────────────────────


def test_commands_run_while_transfers_stand_still(hub, agent, files, tmp_path, large):
    down, up = tmp_path / "down", tmp_path / "folder" / "up"
    up.parent.mkdir()
    with down.open("wb") as file:
        file.truncate(HELD_BYTES)
    half = LARGE_BYTES // 2
    with files.reading(down) as reading, files.sending(up, LARGE_BYTES) as sending:
        got = len(reading.read(1))
        sending.send(large[:half])
        wait_for(lambda: arrived(up) > 0, "the upload is under way")
        for number in range(20):
            record = hub.api.run(agent.machine_id, f"echo {number}")
            assert (record["status"], record["stdout"]) == ("completed", f"{number}\n")
        assert len(files.list(tmp_path)["files"]) >= 1  # nor are other calls for files
        assert is_open(agent, down)
        assert not up.exists()
        sending.send(large[half:])
        answer = sending.answer()
        while piece := reading.read(1_000_000):
            got += len(piece)
    assert (answer.status, answer.data["sha256"]) == (200, sha256(large))
    assert got == HELD_BYTES


def test_whoever_goes_away_in_a_download_leaves_nothing_open(agent, files, tmp_path):
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(HELD_BYTES)
    with files.reading(path) as reading:
        reading.read(1)
        assert is_open(agent, path)
    wait_for(lambda: not is_open(agent, path), "the agent has closed the file")


def test_whoever_goes_away_in_an_upload_changes_nothing(agent, files, tmp_path, large):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with files.sending(path, LARGE_BYTES) as sending:
        sending.send(large[: LARGE_BYTES // 2])
        wait_for(lambda: arrived(path) > 0, "the upload is under way")
    wait_for(lambda: names_in(tmp_path) == [b"x"], "its temporary is gone")
    assert path.read_bytes() == b"old"


def test_an_upload_is_an_event_and_every_change_is_in_the_audit_log(hub, agent, files, tmp_path):
    path, copy, moved = tmp_path / "x", tmp_path / "copy", tmp_path / "moved"
    files.call("POST", "/mkdir", body={"path": str(tmp_path / "folder")})
    files.upload(path, b"told")
    files.download(path)
    files.call("POST", "/copy", body={"source": str(path), "destination": str(copy)})
    files.call("POST", "/move", body={"source": str(copy), "destination": str(moved)})
    files.call("DELETE", "", path)

    with closing(hub.api.follow("/events", "0")) as events:
        told = next(
            event.data["data"]
            for event in events
            if event.name == "file.uploaded" and event.data["data"]["path"] == str(path)
        )
    assert (told["machine_id"], told["size"]) == (agent.machine_id, 4)
    assert told["sha256"] == sha256(b"told")

    entries = hub.api.get("/audit?limit=6")
    assert [entry["action"] for entry in reversed(entries)] == [
        "file.mkdir", "file.write", "file.read", "file.copy", "file.move", "file.delete",
    ]  # fmt: skip
    assert {entry["target"] for entry in entries} == {agent.machine_id}
    assert str(path) in str(entries[0]["details"])
