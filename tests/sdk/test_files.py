"""Files by the synchronous client: small calls, and names of any bytes."""

import json
import os
import threading
from base64 import b64decode, b64encode
from urllib.parse import parse_qs

import pytest

from cmdop_appliance.sdk import CmdopError, Conflict, NotFound, UnexpectedAnswer
from tests.sdk.scripted_hub import answer
from tests.sdk.scripted_machine import (
    BROKEN,
    LARGE,
    SMALL,
    STOPPING,
    Machine,
    client_of,
    not_active,
    refusal_of,
)

pytestmark = pytest.mark.usefixtures("kind")

# ── names ────────────────────────────────────────────────────────────────────────────────────────


def test_a_name_that_is_not_utf_8_goes_as_its_bytes_and_comes_back_as_them():
    raw = b"/srv/\xff\xfe"
    record = {
        "name": "\ufffd\ufffd",
        "name_base64": b64encode(b"\xff\xfe").decode(),
        "path": "/srv/\ufffd\ufffd",
        "path_base64": b64encode(raw).decode(),
        "target_base64": None,
    }
    with client_of(lambda _: answer(record)) as (client, hub):
        found = client.files.stat("mach_1", os.fsdecode(raw))
        client.files.move("mach_1", os.fsdecode(raw), "/srv/ü &?")
    assert (os.fsencode(found["name"]), os.fsencode(found["path"])) == (b"\xff\xfe", raw)
    assert parse_qs(hub.asked[0].query) == {"path_base64": [b64encode(raw).decode()]}
    body = json.loads(hub.asked[1].body)
    assert b64decode(body.pop("source_base64")) == raw
    assert body == {"destination": "/srv/ü &?", "overwrite": False}


def test_a_character_that_no_path_has_is_refused_here():
    with client_of(lambda _: answer({})) as (client, hub), pytest.raises(CmdopError, match="path"):
        client.files.stat("mach_1", "/\ud800")
    assert not hub.asked


def test_bytes_of_a_name_that_are_none_are_called_that():
    with (
        client_of(lambda _: answer({"name": "x", "name_base64": "?"})) as (client, _),
        pytest.raises(UnexpectedAnswer),
    ):
        client.files.stat("mach_1", "/x")


# ── small calls ──────────────────────────────────────────────────────────────────────────────────


def test_a_directory_is_listed_over_all_pages():
    def script(asked):
        offset = int(parse_qs(asked.query)["offset"][0])
        files = [{"name": f"f{number}"} for number in range(offset, min(offset + 100, 250))]
        return answer({"path": "/d", "files": files}, meta={"has_more": offset + 100 < 250})

    with client_of(script) as (client, hub):
        found = [entry["name"] for entry in client.files.list("mach_1", "/d", hidden=True)]
        next(client.files.list("mach_1"))
    assert found == [f"f{number}" for number in range(250)]
    assert hub.asked[0].query == "path=%2Fd&hidden=true&limit=100&offset=0"
    assert hub.asked[3].query == "limit=100&offset=0"  # the home of the agent's user
    assert {asked.path for asked in hub.asked} == {"/api/v1/machines/mach_1/files"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"content": "grün", "encoding": "utf-8"}, "grün".encode()),
        ({"content": "AP8=", "encoding": "base64"}, b"\x00\xff"),
        ({"content": "?", "encoding": "base64"}, None),
        ({"content": None, "encoding": "utf-8"}, None),
    ],
)
def test_a_read_gives_bytes_however_they_came(content, expected):
    with client_of(lambda _: answer(content)) as (client, hub):
        if expected is None:
            with pytest.raises(UnexpectedAnswer):
                client.files.read("mach_1", "f")
            return
        assert client.files.read("mach_1", "f", offset=3, length=4) == expected
    assert hub.asked[0].query == "path=f&offset=3&length=4"


def test_a_write_says_what_it_was_told_and_nothing_more():
    with client_of(lambda _: answer({})) as (client, hub):
        client.files.write("mach_1", "f", SMALL)
        client.files.write("mach_1", "f", b"", mode=0o600, if_match="aa", create_parents=True)
        client.files.mkdir("mach_1", "d", parents=True, mode=0o700)
        client.files.delete("mach_1", "d", recursive=True)
        client.files.copy("mach_1", "a", "b", overwrite=True)
    assert [(asked.method, asked.path.rpartition("/")[2]) for asked in hub.asked] == [
        ("PUT", "content"),
        ("PUT", "content"),
        ("POST", "mkdir"),
        ("DELETE", "files"),
        ("POST", "copy"),
    ]
    plain = {"path": "f", "content": b64encode(SMALL).decode(), "encoding": "base64"}
    assert json.loads(hub.asked[0].body) == plain
    assert json.loads(hub.asked[1].body) == {
        **plain,
        "content": "",
        "mode": "0600",
        "if_match": "aa",
        "create_parents": True,
    }
    assert json.loads(hub.asked[2].body) == {"path": "d", "parents": True, "mode": "0700"}
    assert hub.asked[3].query == "path=d&recursive=true"
    assert json.loads(hub.asked[4].body)["overwrite"] is True


def test_what_an_attempt_before_took_away_is_gone_and_not_missing():
    gone = refusal_of("file_not_found", 404)
    answers = iter([STOPPING, gone, gone])
    with client_of(lambda _: next(answers)) as (client, _):
        client.files.delete("mach_1", "f")
        with pytest.raises(NotFound):
            client.files.delete("mach_1", "f")


def test_a_copy_that_takes_longer_than_the_hub_is_waited_for_is_not_asked_for_twice():
    asked_for_life = threading.Event()

    def script(asked):
        if asked.path.endswith("/auth/me"):
            asked_for_life.set()
        else:
            assert asked_for_life.wait(10)
        return answer({"name": "b"})

    with client_of(script, timeout_s=0.5) as (client, hub):
        assert client.files.copy("mach_1", "a", "b")["name"] == "b"
    assert [asked.method for asked in hub.asked].count("POST") == 1


def test_after_a_break_the_machine_that_comes_back_is_waited_for():
    answers = iter([STOPPING, not_active("GRACE_PERIOD"), answer({"sha256": "aa"})])
    with client_of(lambda _: next(answers)) as (client, _):
        assert client.files.stat("mach_1", "f", checksum=True)["sha256"] == "aa"
    with client_of(lambda _: not_active("GRACE_PERIOD")) as (client, _), pytest.raises(Conflict):
        client.files.stat("mach_1", "f", checksum=True)


@pytest.mark.parametrize("way", ["up", "down"])
def test_patience_counts_from_the_last_byte_that_arrived(local, here, way):
    machine = Machine(LARGE)
    machine.faults = [(6_250, BROKEN if way == "up" else None)] * 15
    with client_of(machine, timeout_s=2) as (client, _):  # in which there are some 12 attempts
        if way == "up":
            client.files.upload("mach_1", local, "/f")
        else:
            client.files.download("mach_1", "/f", here)
    assert not machine.faults
