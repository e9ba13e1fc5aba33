"""Files in JSON, on a real machine: what is asked for, what comes back, and what is refused."""

import base64
import os
from pathlib import Path

import pytest

from tests.api.contract_table import error_of
from tests.api.file_calls import names, post, put, read, sha256
from tests.api.shapes import fits
from tests.support.appliance import running_agent
from tests.support.machine_files import MachineFiles

ENTRY = {
    "name": "f",
    "path": "/f",
    "type": "file",
    "size": 1,
    "mode": "0644",
    "owner": "root",
    "group": "root",
    "modified_at": "2026-02-14T10:30:00Z",
}


# ── the two addresses ────────────────────────────────────────────────────────────────────────────


def test_both_addresses_are_one_route(hub, agent, files, folder):
    flat = MachineFiles(hub.api, agent.machine_id, flat=True)
    (folder / "f").write_text("text")
    for name in ("", "/stat", "/content"):
        path = folder / "f" if name else folder
        assert flat.call("GET", name, path).data == files.call("GET", name, path).data
    assert put(flat, folder / "g", "x").data["created"] is True
    assert post(flat, "/mkdir", path=str(folder / "d")).data["type"] == "directory"
    assert flat.call("DELETE", "", folder / "g").data == {"deleted": True}
    assert names(folder) == ["d", "f"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/files"),
        ("GET", "/files/stat"),
        ("GET", "/files/content?path=/"),
        ("PUT", "/files/content"),
        ("DELETE", "/files?path=/x"),
        ("POST", "/files/move"),
        ("POST", "/files/copy"),
        ("POST", "/files/mkdir"),
    ],
)
def test_a_flat_call_without_a_machine_is_refused(hub, method, path):
    error = error_of(hub.api.call(method, path, {}), 400, "invalid_request")
    assert error["details"] == {"machine_id": "is required"}


def test_a_key_that_is_sent_again_about_another_machine_is_a_conflict(hub, agent, place, folder):
    with running_agent(hub, place, "second") as second:
        body = {"path": str(folder / "new")}
        headers = {"Idempotency-Key": "two-machines"}
        path = "/files/mkdir?machine_id="
        first = hub.api.call("POST", f"{path}{agent.machine_id}", body, headers=headers)
        assert first.status == 200
        answer = hub.api.call("POST", f"{path}{second.machine_id}", body, headers=headers)
        error_of(answer, 409, "idempotency_conflict")


# ── lists ────────────────────────────────────────────────────────────────────────────────────────


def test_a_directory_is_listed_by_name_in_pages(files, folder):
    for number in range(25):
        (folder / f"f-{number:02}").touch()
    (folder / ".hidden").touch()
    names = [f"f-{number:02}" for number in range(25)]
    answer = files.call("GET", "", folder)
    assert answer.data["path"] == str(folder)
    assert answer.data["path_base64"] is None
    assert [each["name"] for each in answer.data["files"]] == names[:20]
    fits(answer.data["files"], [ENTRY])
    page = {name: answer.json["meta"][name] for name in ("total", "limit", "offset", "has_more")}
    assert page == {"total": 25, "limit": 20, "offset": 0, "has_more": True}
    rest = files.call("GET", "", folder, offset=20, limit=1000)
    assert [each["name"] for each in rest.data["files"]] == names[20:]
    page = {name: rest.json["meta"][name] for name in ("total", "limit", "offset", "has_more")}
    assert page == {"total": 25, "limit": 100, "offset": 20, "has_more": False}
    shown = files.call("GET", "", folder, hidden="true", limit=1)
    assert [each["name"] for each in shown.data["files"]] == [".hidden"]
    assert shown.json["meta"]["total"] == 26


def test_without_a_path_it_is_the_home_of_the_agents_user(files, agent):
    home = files.call("GET", "").data["path"]
    assert home == files.call("GET", "/stat").data["path"]
    assert Path(home).is_dir()


def test_what_stands_there_is_told_as_it_is(files, folder):
    file = folder / "f"
    file.write_text("content")
    file.chmod(0o4751)
    os.utime(file, (0, 86_400.5))
    (folder / "link").symlink_to("f")
    (folder / "d").mkdir(0o700)
    os.mkfifo(folder / "pipe", 0o600)
    by_name = {each["name"]: each for each in files.list(folder)["files"]}
    assert {name: each["type"] for name, each in by_name.items()} == {
        "f": "file",
        "link": "symlink",
        "d": "directory",
        "pipe": "other",
    }
    told = by_name["f"]
    assert (told["size"], told["mode"], told["path"]) == (7, "4751", str(file))
    assert told["modified_at"] == "1970-01-02T00:00:00.500Z"
    assert (by_name["d"]["mode"], by_name["pipe"]["mode"]) == ("0700", "0600")
    assert (by_name["link"]["target"], told["target"]) == ("f", None)


def test_a_time_before_1970_and_one_beyond_all_calendars_are_no_failure(files, folder):
    old, far = folder / "old", folder / "far"
    for path, seconds in ((old, -86_400), (far, 2**40)):
        path.touch()
        os.utime(path, (0, seconds))
    assert files.stat(old)["modified_at"] == "1969-12-31T00:00:00.000Z"
    told = files.stat(far)["modified_at"]
    assert told is None or far.stat().st_mtime < 2**40  # not every disk holds such a year


def test_stat_tells_the_version_and_the_sha256_when_asked_to(files, folder):
    file = folder / "f"
    file.write_text("one")
    before = files.stat(file)
    fits(before, ENTRY)
    assert files.stat(file, checksum="true")["sha256"] == sha256(b"one")
    file.write_text("other")
    assert files.stat(file)["version"] != before["version"]
    (folder / "link").symlink_to("f")
    assert files.stat(folder / "link")["type"] == "symlink"


# ── names that are no text ───────────────────────────────────────────────────────────────────────

ODD = b"a\xffb \n\xf0\x9f\x98\x80+%"


def test_a_name_that_is_no_text_is_listed_with_its_bytes(files, folder):
    path = os.fsencode(folder) + b"/" + ODD
    Path(os.fsdecode(path)).write_text("odd")
    (folder / "link").symlink_to(os.fsdecode(ODD))
    odd, link = files.list(folder)["files"]
    assert odd["name"] == ODD.decode(errors="replace")
    assert base64.b64decode(odd["name_base64"]) == ODD
    assert base64.b64decode(odd["path_base64"]) == path
    assert base64.b64decode(link["target_base64"]) == ODD
    assert (link["name_base64"], link["path_base64"]) == (None, None)


def test_a_name_that_is_no_text_is_asked_for_in_every_way(files, folder):
    path = os.fsencode(folder) + b"/" + ODD
    encoded = base64.b64encode(path).decode()
    name = {"path_base64": encoded}
    written = files.call("PUT", "/content", None, {**name, "content": "odd"})
    assert written.data["path_base64"] == encoded
    for answer in (
        read(files, path),
        files.call("GET", "/content", None, path_base64=encoded),
    ):
        assert (answer.data["content"], answer.data["path_base64"]) == ("odd", encoded)
    plus = f"{files.route('/stat')}path_base64={encoded}"  # a bare + arrives as a space
    assert files.api.call("GET", plus).data["path_base64"] == encoded
    there = base64.b64encode(path + b"2").decode()
    moved = post(files, "/move", source_base64=encoded, destination_base64=there)
    assert base64.b64decode(moved.data["name_base64"]) == ODD + b"2"
    assert files.call("DELETE", "", path + b"2").data == {"deleted": True}
    assert names(folder) == []


def test_other_parameters_are_text_whatever_their_bytes(hub, agent):
    hub.api.call("PATCH", f"/machines/{agent.machine_id}", {"name": "Gr\u00fc\u00dfe"})
    assert hub.api.get("/machines?search=r%C3%BC%C3%9F")[0]["id"] == agent.machine_id
    answer = hub.api.call("GET", "/machines?search=%FF%F0%9F%98%80")
    assert answer.data == []
    error_of(hub.api.call("GET", "/machines?status=%FF"), 400, "invalid_request")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", {"path": "is required"}),
        ("path=", {"path": "must not be empty"}),
        ("path_base64=", {"path": "must not be empty"}),
        ("path=/&path_base64=Lw==", {"path_base64": "must not stand beside path"}),
        ("path_base64=%FF", {"path_base64": "must be base64"}),
        ("path_base64=L", {"path_base64": "must be base64"}),
    ],
)
def test_a_path_of_a_query_is_said_once_and_well(files, query, reason):
    for method, name in (("GET", "/content"), ("DELETE", "")):
        answer = files.api.call(method, files.route(name) + query)
        assert error_of(answer, 400, "invalid_request")["details"] == reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, {"path": "is required"}),
        ({"path": ""}, {"path": "must not be empty"}),
        ({"path": "/", "path_base64": "Lw=="}, {"path_base64": "must not stand beside path"}),
        ({"path_base64": "L"}, {"path_base64": "must be base64"}),
        ({"path_base64": "\u00fc"}, {"path_base64": "must be base64"}),
    ],
)
def test_a_path_of_a_body_is_said_once_and_well(files, body, reason):
    for method, name in (("PUT", "/content"), ("POST", "/mkdir")):
        answer = files.call(method, name, None, {"content": "", **body})
        assert error_of(answer, 422, "validation_failed")["details"] == reason


@pytest.mark.parametrize("path", [b"/a\0b", b"\0", b"/" + b"x" * 4095])
def test_what_no_system_takes_as_a_path_is_refused(files, path):
    error_of(read(files, path), 400, "invalid_path")
    body = {"path": path.decode(), "content": ""}
    error_of(files.call("PUT", "/content", None, body), 400, "invalid_path")
    error_of(post(files, "/mkdir", path=path.decode()), 400, "invalid_path")
    error_of(files.call("DELETE", "", path), 400, "invalid_path")


def test_a_name_that_is_hostile_is_shown_in_an_error_without_its_controls(files, folder):
    error = error_of(read(files, folder / "\x1b[31mred\n"), 404, "file_not_found")
    assert "red" in error["message"]
    assert error["message"].isprintable()


# ── moved, copied, made, taken away ──────────────────────────────────────────────────────────────


def test_moved_copied_and_made_are_answered_with_the_new_entry(files, folder):
    source = folder / "f"
    source.write_text("content")
    copied = post(files, "/copy", source=str(source), destination=str(folder / "g")).data
    fits(copied, ENTRY)
    assert (copied["name"], copied["path"], copied["size"]) == ("g", str(folder / "g"), 7)
    moved = post(files, "/move", source=str(source), destination=str(folder / "h")).data
    assert (moved["name"], moved["type"]) == ("h", "file")
    made = post(files, "/mkdir", path=str(folder / "a/b"), parents=True, mode="0711").data
    assert (made["name"], made["type"], made["mode"]) == ("b", "directory", "0711")
    assert names(folder) == ["a", "g", "h"]


def test_nothing_is_replaced_unless_that_is_asked_for(files, folder):
    for name in "fg":
        (folder / name).write_text(name)
    paths = {"source": str(folder / "f"), "destination": str(folder / "g")}
    for name in ("/move", "/copy"):
        error_of(post(files, name, **paths), 409, "file_exists")
    error_of(post(files, "/mkdir", path=str(folder / "g")), 409, "file_exists")
    assert (folder / "g").read_text() == "g"
    assert post(files, "/copy", **paths, overwrite=True).status == 200
    assert (folder / "g").read_text() == "f"


def test_a_directory_goes_only_whole_when_that_is_asked_for(files, folder):
    (folder / "d" / "e").mkdir(parents=True)
    error_of(files.call("DELETE", "", folder / "d"), 409, "directory_not_empty")
    assert files.call("DELETE", "", folder / "d", recursive="true").data == {"deleted": True}
    error_of(files.call("DELETE", "", folder / "d"), 404, "file_not_found")
    error_of(
        post(files, "/move", source=str(folder / "d"), destination="/x"), 404, "file_not_found"
    )


def test_what_is_of_another_kind_is_told(files, folder):
    (folder / "f").touch()
    error_of(read(files, folder), 400, "is_a_directory")
    error_of(files.call("GET", "", folder / "f"), 400, "not_a_directory")
    error_of(read(files, folder / "f" / "g"), 400, "not_a_directory")
    os.mkfifo(folder / "pipe")
    error_of(read(files, folder / "pipe"), 400, "not_a_regular_file")


def test_a_key_needs_the_right_scope_for_each(hub, agent, folder):
    machine_id = agent.machine_id
    reader, writer = (
        MachineFiles(hub.new_key(scope), machine_id) for scope in ("files:read", "files:write")
    )
    assert put(writer, folder / "f", "x").status == 200
    assert read(reader, folder / "f").status == 200
    for answer in (read(writer, folder / "f"), put(reader, folder / "f", "y")):
        error_of(answer, 403, "forbidden")
