"""Files in JSON, on a real machine: what is read, and what is written."""

import base64
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.api.contract_table import error_of
from tests.api.file_calls import post, put, read, sha256

CONTENT_BYTES = 10 * 1024 * 1024  # contract.md §5


# ── contents ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"", "utf-8"),
        ("Gr\u00fc\u00dfe \U0001f600\n\0\x1b".encode(), "utf-8"),
        (b"\xff\xfe", "base64"),
        (b"\xed\xa0\x80", "base64"),
        (bytes(range(256)) * 400, "base64"),
        (b"line\n" * 20_000, "utf-8"),
    ],
)
def test_a_content_comes_back_as_it_is(files, folder, data, encoding):
    (folder / "f").write_bytes(data)
    told = read(files, folder / "f").data
    assert (told["encoding"], told["size"], told["sha256"]) == (encoding, len(data), sha256(data))
    content = told["content"]
    assert (content.encode() if encoding == "utf-8" else base64.b64decode(content)) == data


def test_a_part_is_what_was_asked_for(files, folder):
    data = "\u00fcber".encode() * 50_000
    (folder / "f").write_bytes(data)
    for offset, length, encoding in (
        (0, 5, "utf-8"),
        (0, 1, "base64"),  # cut in a character
        (len(data) - 3, 100, "utf-8"),
        (len(data), 5, "utf-8"),
        (len(data) + 5, 5, "utf-8"),
        (5, 100_000, "utf-8"),
    ):
        told = read(files, folder / "f", offset=offset, length=length).data
        content = told["content"]
        got = content.encode() if encoding == "utf-8" else base64.b64decode(content)
        assert (told["encoding"], got) == (encoding, data[offset : offset + length])
        assert (told["size"], told["sha256"]) == (len(data), None)
    rest = read(files, folder / "f", offset=5).data
    assert (rest["content"], rest["sha256"]) == (data[5:].decode(), None)


def test_more_than_an_answer_holds_names_the_download(files, folder):
    file = folder / "large"
    with file.open("wb") as opened:
        opened.truncate(CONTENT_BYTES + 1)
    error = error_of(read(files, file), 413, "file_too_large")
    assert str(CONTENT_BYTES) in error["message"]
    assert "files/download" in error["hint"]
    assert "download" not in error["message"]  # people are shown both
    assert len(read(files, file, offset=1).data["content"]) == CONTENT_BYTES
    told = read(files, file, length=CONTENT_BYTES).data
    assert (len(told["content"]), told["size"]) == (CONTENT_BYTES, CONTENT_BYTES + 1)
    error = error_of(read(files, file, length=CONTENT_BYTES + 1), 400, "invalid_request")
    assert str(CONTENT_BYTES) in error["details"]["length"]


def test_many_large_reads_at_once_all_come_to_their_end(files, folder):
    data = os.urandom(300_000)
    (folder / "f").write_bytes(data)
    with ThreadPoolExecutor(12) as readers:
        answers = list(readers.map(lambda _: read(files, folder / "f").data, range(12)))
    assert {each["sha256"] for each in answers} == {sha256(data)}


def test_what_has_no_size_of_its_own_is_read(files):
    told = read(files, "/proc/version").data
    assert told["content"] == Path("/proc/version").read_text()


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_written_and_replaced(files, folder):
    file = folder / "f"
    first = put(files, file, "one\n", mode="0640").data
    assert first == {
        "path": str(file),
        "path_base64": None,
        "size": 4,
        "created": True,
        "sha256": sha256(b"one\n"),
    }
    assert file.stat().st_mode & 0o7777 == 0o640
    second = put(files, file, base64.b64encode(b"\xff\0").decode(), encoding="base64").data
    assert (second["created"], second["size"]) == (False, 2)
    assert file.read_bytes() == b"\xff\0"
    assert file.stat().st_mode & 0o7777 == 0o640
    put(files, file, "", mode="755")
    assert (file.read_bytes(), file.stat().st_mode & 0o7777) == (b"", 0o755)


def test_only_the_file_that_is_meant_is_replaced(files, folder):
    file = folder / "f"
    file.write_text("one")
    error_of(put(files, file, "x", if_match=sha256(b"other")), 412, "changed")
    error_of(put(files, file, "x", overwrite=False), 409, "file_exists")
    assert file.read_text() == "one"
    assert put(files, file, "two", if_match=sha256(b"one").upper()).status == 200
    assert file.read_text() == "two"


def test_directories_above_are_made_when_asked_to(files, folder):
    file = folder / "a" / "b" / "f"
    error_of(put(files, file, "x"), 404, "file_not_found")
    assert put(files, file, "x", create_parents=True).data["created"] is True
    assert file.read_text() == "x"


@pytest.mark.parametrize("content", ["*", "YQ", "YQ==\n", "\u00fc"])
def test_what_should_be_base64_and_is_not_is_refused(files, folder, content):
    answer = put(files, folder / "f", content, encoding="base64")
    error = error_of(answer, 422, "validation_failed")
    assert error["details"] == {"content": "must be base64"}


def test_ten_mebibytes_fit_as_base64_and_one_byte_more_does_not(files, folder):
    data = os.urandom(CONTENT_BYTES)
    text = base64.b64encode(data).decode()
    answer = put(files, folder / "f", text, encoding="base64")
    assert answer.data["sha256"] == sha256(data)
    more = base64.b64encode(data + b"x").decode()
    error = error_of(put(files, folder / "f", more, encoding="base64"), 413, "payload_too_large")
    assert "upload" in error["hint"]
    error = error_of(put(files, folder / "f", "x" * 15_000_000), 413, "payload_too_large")
    assert "upload" in error["hint"]
    assert sha256((folder / "f").read_bytes()) == sha256(data)


def test_other_bodies_are_bounded_as_before(files, folder):
    answer = post(files, "/mkdir", path=str(folder / "d"), more="x" * 2_000_000)
    error_of(answer, 413, "payload_too_large")


def test_a_written_file_is_told_of_and_all_of_it_is_in_the_audit_log(hub, agent, files, folder):
    file = folder / "told"
    put(files, file, "text")
    for event in hub.api.follow("/events?types=file.uploaded", "0"):
        if event.data["data"]["path"] == str(file):
            break
    assert event.data["data"] == {
        "machine_id": agent.machine_id,
        "path": str(file),
        "path_base64": None,
        "size": 4,
        "sha256": sha256(b"text"),
        "created": True,
        "user_email": hub.api.get("/auth/me")["email"],
    }
    read(files, file)
    post(files, "/copy", source=str(file), destination=f"{file}-2")
    post(files, "/move", source=f"{file}-2", destination=f"{file}-3")
    post(files, "/mkdir", path=f"{file}-4")
    files.call("DELETE", "", f"{file}-4")
    entries = hub.api.get(f"/audit?target={agent.machine_id}&limit=100")
    done = [each for each in entries if str(file) in str(each["details"])][::-1]
    assert [(each["action"], each["details"]) for each in done] == [
        ("file.write", {"path": str(file)}),
        ("file.read", {"path": str(file)}),
        ("file.copy", {"source": str(file), "destination": f"{file}-2"}),
        ("file.move", {"source": f"{file}-2", "destination": f"{file}-3"}),
        ("file.mkdir", {"path": f"{file}-4"}),
        ("file.delete", {"path": f"{file}-4"}),
    ]
