"""Files by the synchronous client: transfers that go on after a break, and names of any bytes."""

import fcntl
import hashlib
import io
import json
import os
import socket
import threading
from base64 import b64decode, b64encode
from contextlib import contextmanager
from urllib.parse import parse_qs

import pytest

from cmdop_appliance.sdk import (
    APIError,
    Client,
    CmdopError,
    Conflict,
    NotFound,
    ServerError,
    UnexpectedAnswer,
)
from tests.sdk.scripted_hub import Answer, answer, scripted_hub

KEY = "cmdop_apikey_0123456789"
BROKEN = Answer(b"", close=True)
STOPPING = answer({"code": "unavailable", "message": "the link is lost"}, status=503)
LARGE = os.urandom(3 * 1024 * 1024 + 7)
SMALL = b"small\x00\xff"


def _not_active(status):
    error = {"code": "session_not_active", "message": "-", "details": {"current_status": status}}
    return answer(error, status=409)


def _refusal(code, status, **details):
    return answer({"code": code, "message": code, "details": details}, status=status)


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


class Machine:
    """What the hub answers of one machine with one file; a fault stands for the next answer."""

    def __init__(self, content=b"", etag='"v1"'):
        self.content = content
        self.etag = etag
        self.mode = "0640"
        self.is_there = bool(content)
        self.uploads = {}
        self.faults = []  # of a transfer: (bytes of it that arrive, the answer then)

    def __call__(self, asked):
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        match asked.method, asked.path.rpartition("/files/")[2]:
            case "PUT", "upload":
                return self._put(query, asked.body)
            case "GET", "upload":
                return answer({"offset": len(self.uploads.get(query["upload_id"], b""))})
            case "GET", "download":
                return self._get(asked.headers)
            case "GET", "stat":
                return self._stat(query)
        raise AssertionError(asked)

    def _put(self, query, body):
        arrives, fault = self.faults.pop(0) if self.faults else (len(body), None)
        if "upload_id" not in query:
            kept = body[:arrives]
        else:
            offset = int(query["offset"])
            kept = self.uploads.get(query["upload_id"], b"")
            assert offset <= len(kept), "a gap"
            kept = self.uploads[query["upload_id"]] = kept[:offset] + body[:arrives]
        is_whole = query.get("sha256") == _sha256(kept)
        if is_whole:
            self.content, self.is_there = kept, True
            self.uploads.pop(query.get("upload_id"), None)
        if fault is not None:
            return fault
        if "sha256" not in query:
            return answer({"offset": len(kept), "complete": False})
        if not is_whole:
            return _refusal("checksum_mismatch", 400)
        record = {"path": "/f", "size": len(kept), "sha256": _sha256(kept), "created": True}
        return answer({**record, "complete": True})

    def _get(self, headers):
        arrives, fault = self.faults.pop(0) if self.faults else (len(self.content), None)
        if callable(fault):
            fault()
        elif fault is not None:
            return fault
        first, status = 0, 200
        if "range" in headers and headers["if-range"] == self.etag:
            first, status = int(headers["range"][len("bytes=") : -1]), 206
            if first >= len(self.content):
                return _refusal("range_not_satisfiable", 416)
        body = self.content[first:]
        lines = [f"HTTP/1.1 {status} X", f"ETag: {self.etag}", f"Content-Length: {len(body)}"]
        if status == 206:
            size = len(self.content)
            lines.append(f"Content-Range: bytes {first}-{size - 1}/{size}")
        head = "\r\n".join([*lines, "", ""]).encode()
        return Answer(head + body[:arrives], close=arrives < len(body))

    def _stat(self, query):
        if not self.is_there:
            return _refusal("file_not_found", 404)
        record = {"path": "/f", "type": "file", "size": len(self.content), "mode": self.mode}
        checksum = _sha256(self.content) if query.get("checksum") == "true" else None
        return answer({**record, "sha256": checksum})


@contextmanager
def _client(script, timeout_s=60.0):
    with scripted_hub(script) as hub, Client(hub.url, KEY, timeout_s=timeout_s) as client:
        yield client, hub


@pytest.fixture
def local(tmp_path):
    """A file here with the bytes LARGE."""
    path = tmp_path / "local"
    path.write_bytes(LARGE)
    return path


def _asked(hub):
    return [(asked.method, asked.path.rpartition("/")[2], len(asked.body)) for asked in hub.asked]


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
    with _client(lambda _: answer(record)) as (client, hub):
        found = client.files.stat("mach_1", os.fsdecode(raw))
        client.files.move("mach_1", os.fsdecode(raw), "/srv/ü &?")
    assert (os.fsencode(found["name"]), os.fsencode(found["path"])) == (b"\xff\xfe", raw)
    assert parse_qs(hub.asked[0].query) == {"path_base64": [b64encode(raw).decode()]}
    body = json.loads(hub.asked[1].body)
    assert b64decode(body.pop("source_base64")) == raw
    assert body == {"destination": "/srv/ü &?", "overwrite": False}


def test_a_character_that_no_path_has_is_refused_here():
    with _client(lambda _: answer({})) as (client, hub), pytest.raises(CmdopError, match="path"):
        client.files.stat("mach_1", "/\ud800")
    assert not hub.asked


def test_bytes_of_a_name_that_are_none_are_called_that():
    with (
        _client(lambda _: answer({"name": "x", "name_base64": "?"})) as (client, _),
        pytest.raises(UnexpectedAnswer),
    ):
        client.files.stat("mach_1", "/x")


# ── small calls ──────────────────────────────────────────────────────────────────────────────────


def test_a_directory_is_listed_over_all_pages():
    def script(asked):
        offset = int(parse_qs(asked.query)["offset"][0])
        files = [{"name": f"f{number}"} for number in range(offset, min(offset + 100, 250))]
        return answer({"path": "/d", "files": files}, meta={"has_more": offset + 100 < 250})

    with _client(script) as (client, hub):
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
    with _client(lambda _: answer(content)) as (client, hub):
        if expected is None:
            with pytest.raises(UnexpectedAnswer):
                client.files.read("mach_1", "f")
            return
        assert client.files.read("mach_1", "f", offset=3, length=4) == expected
    assert hub.asked[0].query == "path=f&offset=3&length=4"


def test_a_write_says_what_it_was_told_and_nothing_more():
    with _client(lambda _: answer({})) as (client, hub):
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
    gone = _refusal("file_not_found", 404)
    answers = iter([STOPPING, gone, gone])
    with _client(lambda _: next(answers)) as (client, _):
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

    with _client(script, timeout_s=0.05) as (client, hub):
        assert client.files.copy("mach_1", "a", "b")["name"] == "b"
    assert [asked.method for asked in hub.asked].count("POST") == 1


def test_after_a_break_the_machine_that_comes_back_is_waited_for():
    answers = iter([STOPPING, _not_active("GRACE_PERIOD"), answer({"sha256": "aa"})])
    with _client(lambda _: next(answers)) as (client, _):
        assert client.files.stat("mach_1", "f", checksum=True)["sha256"] == "aa"
    with _client(lambda _: _not_active("GRACE_PERIOD")) as (client, _), pytest.raises(Conflict):
        client.files.stat("mach_1", "f", checksum=True)


@pytest.mark.parametrize("before", [0, 1], ids=["before the data", "before the checksum"])
def test_an_upload_that_has_begun_waits_for_the_machine_to_come_back(local, before):
    machine = Machine()
    machine.faults = [(len(LARGE), None)] * before + [(0, _not_active("GRACE_PERIOD"))]
    with _client(machine) as (client, _):
        client.files.upload("mach_1", local, "/f")
    assert machine.content == LARGE


def test_a_download_that_has_arrived_waits_for_the_machine_to_come_back(tmp_path):
    machine, stats = Machine(LARGE), iter([_not_active("GRACE_PERIOD")])

    def script(asked):
        is_stat = asked.path.endswith("/stat")
        return (next(stats, None) if is_stat else None) or machine(asked)

    with _client(script) as (client, _):
        client.files.download("mach_1", "/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == LARGE


# ── up ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_small_file_is_one_request_with_its_checksum(tmp_path):
    (tmp_path / "f").write_bytes(SMALL)
    machine, told = Machine(), []
    with _client(machine) as (client, hub):
        written = client.files.upload(
            "mach_1",
            tmp_path / "f",
            "/f",
            mode=0o640,
            create_parents=True,
            overwrite=False,
            if_match="aa",
            progress=lambda done, total: told.append((done, total)),
        )
    assert machine.content == SMALL
    assert (written["size"], written["sha256"]) == (len(SMALL), _sha256(SMALL))
    assert _asked(hub) == [("PUT", "upload", len(SMALL))]
    assert told == [(len(SMALL), len(SMALL))]
    assert parse_qs(hub.asked[0].query) == {
        "path": ["/f"],
        "mode": ["0640"],
        "create_parents": ["true"],
        "overwrite": ["false"],
        "if_match": ["aa"],
        "sha256": [_sha256(SMALL)],
    }


def test_a_large_file_is_one_body_and_then_its_checksum(local):
    machine, told = Machine(), []
    with _client(machine) as (client, hub):
        client.files.upload("mach_1", local, "/f", progress=lambda *at: told.append(at))
    assert machine.content == LARGE
    assert _asked(hub) == [
        ("GET", "upload", 0),
        ("PUT", "upload", len(LARGE)),
        ("PUT", "upload", 0),
    ]
    assert told[-1] == (len(LARGE), len(LARGE))
    assert [at[0] for at in told] == sorted(at[0] for at in told)


@pytest.mark.parametrize("fault", [BROKEN, STOPPING])
@pytest.mark.parametrize("arrives", [0, 1, 1024 * 1024, len(LARGE)])
def test_an_upload_that_is_cut_sends_what_is_missing_and_nothing_else(local, fault, arrives):
    machine = Machine()
    machine.faults = [(arrives, fault), (5, fault)]
    with _client(machine) as (client, hub):
        assert client.files.upload("mach_1", local, "/f")["sha256"] == _sha256(LARGE)
    assert machine.content == LARGE
    sent = [size for method, _, size in _asked(hub) if method == "PUT"]
    rest = len(LARGE) - arrives
    assert sent == ([len(LARGE), rest, rest - 5, 0] if rest else [len(LARGE), 0])


def test_an_upload_goes_on_in_another_program(local):
    machine = Machine()
    machine.faults = [(1_000_000, _refusal("no_space", 507))]
    with _client(machine) as (client, hub):
        with pytest.raises(ServerError):
            client.files.upload("mach_1", local, "/f")
        client.files.upload("mach_1", str(local), "/f")
        assert machine.content == LARGE
        assert _asked(hub)[2:4] == [
            ("GET", "upload", 0),
            ("PUT", "upload", len(LARGE) - 1_000_000),
        ]


@pytest.mark.parametrize("another", ["machine", "path", "content"])
def test_an_upload_of_something_else_does_not_go_on(local, another):
    machine = Machine()
    with _client(machine) as (client, hub):
        client.files.upload("mach_1", local, "/f")
        if another == "content":
            local.write_bytes(LARGE[::-1])
        client.files.upload(
            "mach_2" if another == "machine" else "mach_1",
            local,
            "/g" if another == "path" else "/f",
        )
        client.files.upload("mach_1", local, "/f")
    ids = [parse_qs(asked.query)["upload_id"][0] for asked in hub.asked]
    assert ids[0] != ids[3]
    assert (ids[0] == ids[6]) == (another != "content")
    assert all(len(found) == 64 for found in ids)


@pytest.mark.parametrize("size", [len(SMALL), len(LARGE)])
def test_a_file_that_is_in_place_though_the_answer_was_lost_is_not_sent_again(tmp_path, size):
    local = tmp_path / "local"
    local.write_bytes(LARGE[:size])
    machine = Machine()
    machine.faults = [(size, None), (0, BROKEN)] if size > 10_000 else [(size, BROKEN)]
    with _client(machine) as (client, hub):
        written = client.files.upload("mach_1", local, "/f", if_match="aa", overwrite=False)
    assert written["sha256"] == _sha256(LARGE[:size])
    assert [sent for method, _, sent in _asked(hub) if method == "PUT" and sent] == [size]


def test_a_key_that_may_only_write_sends_again_what_may_be_in_place_already(tmp_path):
    (tmp_path / "f").write_bytes(SMALL)
    machine = Machine()
    machine.faults = [(len(SMALL), BROKEN)]

    def script(asked):
        is_look = asked.path.endswith("stat")
        return _refusal("forbidden", 403) if is_look else machine(asked)

    with _client(script) as (client, hub):
        client.files.upload("mach_1", tmp_path / "f", "/f")
    assert [method for method, _, _ in _asked(hub)] == ["PUT", "GET", "PUT"]


def test_a_file_that_changes_meanwhile_is_not_put_in_place(local):
    machine = Machine()
    with _client(machine) as (client, hub):

        def change(done, total):
            if done == total:
                os.truncate(local, total - 1)

        with pytest.raises(CmdopError, match="local changed while it was read"):
            client.files.upload("mach_1", local, "/f", progress=change)
        local.write_bytes(LARGE)
        with pytest.raises(CmdopError, match="changed while it was read"):
            client.files.upload("mach_1", local, "/f", progress=lambda *_: os.truncate(local, 9))
    assert not machine.is_there
    assert not any("sha256" in asked.query for asked in hub.asked)


def test_what_another_attempt_left_damaged_is_sent_anew_once(local):
    machine = Machine()
    machine.faults = [(1_000_000, _refusal("file_io_error", 500))]
    with _client(machine) as (client, _):
        with pytest.raises(ServerError):
            client.files.upload("mach_1", local, "/f")
        ((upload_id, kept),) = machine.uploads.items()
        machine.uploads[upload_id] = kept[::-1]
        client.files.upload("mach_1", local, "/f")
        assert machine.content == LARGE
        machine.faults = [(len(LARGE), None), (0, _refusal("checksum_mismatch", 400))]
        with pytest.raises(APIError, match="checksum_mismatch"):
            client.files.upload("mach_1", local, "/g")


def test_what_arrives_damaged_again_is_given_up(local):
    machine = Machine()
    mismatch = (0, _refusal("checksum_mismatch", 400))
    machine.faults = [
        (1_000_000, BROKEN),
        (len(LARGE), None),
        mismatch,
        (len(LARGE), None),
        mismatch,
    ]
    with _client(machine) as (client, _), pytest.raises(APIError, match="checksum_mismatch"):
        client.files.upload("mach_1", local, "/f")
    assert not machine.faults


@pytest.mark.parametrize("way", ["up", "down"])
def test_patience_counts_from_the_last_byte_that_arrived(local, here, way):
    machine = Machine(LARGE)
    machine.faults = [(100_000, BROKEN if way == "up" else None)] * 15
    with _client(machine, timeout_s=2) as (client, _):  # in which there are some 6 attempts
        if way == "up":
            client.files.upload("mach_1", local, "/f")
        else:
            client.files.download("mach_1", "/f", here)
    assert not machine.faults


def test_an_upload_asks_where_it_stands_when_it_was_wrong_of_that(local):
    machine = Machine()
    machine.faults = [(0, _refusal("offset_mismatch", 409, offset=0))]
    with _client(machine) as (client, _):
        client.files.upload("mach_1", local, "/f")
    assert machine.content == LARGE


@pytest.mark.parametrize("size", [0, 5, 1024 * 1024, 1024 * 1024 + 1, 8 << 20, (8 << 20) + 1])
def test_a_stream_arrives_whole_whatever_its_length(size):
    data = os.urandom(1024) * (size // 1024 + 1)
    machine = Machine()
    machine.faults = [(3, BROKEN)]
    with _client(machine) as (client, hub):
        written = client.files.upload("mach_1", io.BytesIO(data[:size]), "/f")
    assert (machine.content, written["size"]) == (data[:size], size)
    ids = {parse_qs(asked.query).get("upload_id", [""])[0] for asked in hub.asked}
    assert len(ids - {""}) == (size > 1024 * 1024)


def test_a_stream_of_which_the_machine_lost_a_part_cannot_go_on():
    machine, data = Machine(), bytes(9 << 20)

    def lose(asked):
        if asked.method == "PUT" and machine.uploads:
            machine.uploads.clear()
            return BROKEN
        return machine(asked)

    with _client(lose) as (client, _), pytest.raises(CmdopError, match="cannot be read again"):
        client.files.upload("mach_1", io.BytesIO(data), "/f")


def test_a_file_that_the_system_makes_up_is_read_to_its_end():
    machine = Machine()
    with _client(machine) as (client, _):
        client.files.upload("mach_1", "/proc/version", "/f")
    assert machine.content.startswith(b"Linux version")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with _client(Machine()) as (client, hub):
        with pytest.raises(CmdopError, match="not a regular file"):
            client.files.upload("mach_1", tmp_path / "fifo", "/f")
        with pytest.raises(IsADirectoryError):
            client.files.upload("mach_1", tmp_path, "/f")
        with pytest.raises(FileNotFoundError):
            client.files.upload("mach_1", tmp_path / "none", "/f")
    assert not hub.asked


@pytest.mark.parametrize("closes", [True, False])
def test_a_refusal_in_the_midst_of_a_body_is_told_and_ends_it(local, closes):
    """The hub answers what it does not want before it has all of it, and reads no more."""
    local.write_bytes(bytes(64 << 20))  # more than fits in buffers
    refusal = _refusal("no_space", 507).raw
    received, told = [], threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            asking, _ = server.accept()
            with asking:
                asking.recv(65536)
                asking.sendall(answer({"offset": 0}).raw)
            sending, _ = server.accept()
            with sending:
                received.append(len(sending.recv(65536)))
                sending.sendall(refusal)
                if not closes:
                    told.wait(30)

        hub = threading.Thread(target=serve)
        hub.start()
        url = "http://{}:{}".format(*server.getsockname())
        try:
            with (
                Client(url, KEY, timeout_s=5) as client,
                pytest.raises(ServerError, match="no_space"),
            ):
                client.files.upload("mach_1", local, "/f")
        finally:
            told.set()
            hub.join()
    assert received


# ── down ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def here(tmp_path):
    """Where a file is to arrive."""
    return tmp_path / "here" / "f"


@pytest.fixture(autouse=True)
def _directory(here):
    here.parent.mkdir()


def _is_alone(here):
    return [path.name for path in here.parent.iterdir()] == [here.name]


@pytest.mark.parametrize("content", [b"", SMALL, LARGE])
def test_a_file_arrives_whole_with_the_mode_it_has_there(here, content):
    machine, told = Machine(content), []
    machine.is_there = True
    with _client(machine) as (client, _):
        read = client.files.download("mach_1", "/f", here, progress=lambda *at: told.append(at))
    assert here.read_bytes() == content
    assert read == {"path": str(here), "size": len(content), "sha256": _sha256(content)}
    assert here.stat().st_mode & 0o777 == 0o640 & ~0o022
    assert told[-1:] == ([(len(content), len(content))] if content else [])
    assert _is_alone(here)


@pytest.mark.parametrize("arrives", [0, 1, 1_000_000, len(LARGE) - 1])
def test_a_download_that_is_cut_goes_on_at_the_same_byte(here, arrives):
    machine = Machine(LARGE)
    machine.faults = [(arrives, None), (7, None), (0, STOPPING), (0, BROKEN)]
    with _client(machine) as (client, hub):
        client.files.download("mach_1", "/f", here)
    assert here.read_bytes() == LARGE
    ranges = [a.headers.get("range") for a in hub.asked if a.path.endswith("download")]
    assert ranges[0] is None
    assert ranges[1] == (f"bytes={arrives}-" if arrives else None)
    assert ranges[-1] == f"bytes={min(arrives + 7, len(LARGE))}-" or arrives == len(LARGE) - 1


def test_a_download_goes_on_in_another_program(here):
    machine = Machine(LARGE)
    machine.faults = [(1_000_000, None), (0, _refusal("file_io_error", 500))]
    with _client(machine) as (client, hub):
        with pytest.raises(ServerError):
            client.files.download("mach_1", "/f", here)
        left = sorted(path.name for path in here.parent.iterdir())
        assert left == [".f.cmdop-from", ".f.cmdop-part"]
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in here.parent.iterdir())
        client.files.download("mach_1", "/f", here)
        assert hub.asked[-2].headers["range"] == "bytes=1000000-"
    assert here.read_bytes() == LARGE
    assert _is_alone(here)


def test_what_has_all_arrived_is_only_put_in_place(here):
    machine = Machine(LARGE)

    def script(asked):
        if asked.path.endswith("stat") and not failed:
            failed.append(asked)
            return _refusal("file_io_error", 500)
        return machine(asked)

    failed = []
    with _client(script) as (client, hub):
        with pytest.raises(ServerError):
            client.files.download("mach_1", "/f", here)
        client.files.download("mach_1", "/f", here)
    assert here.read_bytes() == LARGE
    assert [asked.path.endswith("download") for asked in hub.asked].count(True) == 1


@pytest.mark.parametrize("another", ["machine", "path"])
def test_what_has_arrived_of_something_else_is_of_no_use(here, another):
    machine = Machine(LARGE)
    machine.faults = [(1_000_000, None), (0, _refusal("file_io_error", 500))]
    with _client(machine) as (client, hub):
        with pytest.raises(ServerError):
            client.files.download("mach_1", "/f", here)
        machine.content = LARGE[:500_000:-1][:400_000]  # less than had arrived
        client.files.download(
            "mach_2" if another == "machine" else "mach_1",
            "/g" if another == "path" else "/f",
            here,
        )
    assert here.read_bytes() == machine.content
    assert "range" not in hub.asked[2].headers


def test_where_a_tag_does_not_vouch_for_the_bytes_they_are_fetched_anew(here):
    machine = Machine(LARGE, etag='W/"v1"')
    machine.faults = [(1_000_000, None)]
    with _client(machine) as (client, hub):
        client.files.download("mach_1", "/f", here)
    assert here.read_bytes() == LARGE
    assert not any("range" in asked.headers for asked in hub.asked)


def test_a_file_that_changes_meanwhile_is_begun_again(here):
    machine = Machine(LARGE)

    def change():
        machine.content, machine.etag = LARGE[::-1], '"v2"'

    machine.faults = [(1_000_000, None), (2_000_000, change)]
    with _client(machine) as (client, _):
        client.files.download("mach_1", "/f", here)
    assert here.read_bytes() == LARGE[::-1]


@pytest.mark.parametrize("way", ["refused", "cut", "after", "shorter"])
def test_a_file_that_changes_again_and_again_is_given_up(here, way):
    machine = Machine(LARGE)

    def change():
        machine.etag = f'"{os.urandom(4).hex()}"'

    def script(asked):
        reply = machine(asked)
        if way == "after" and asked.path.endswith("download"):
            machine.content = os.urandom(10)
        return reply

    if way == "refused":
        machine.faults = [(0, _refusal("changed_during_read", 409))] * 20
    elif way == "cut":
        machine.faults = [(1_000_000, change)] * 20
    elif way == "shorter":
        machine.faults = [(1_000_000, None), (0, _refusal("range_not_satisfiable", 416))] * 20
    here.write_bytes(b"before")
    with (
        _client(script) as (client, _),
        pytest.raises(CmdopError, match="/f changed 4 times while it was read"),
    ):
        client.files.download("mach_1", "/f", here)
    assert here.read_bytes() == b"before"


def test_a_file_without_a_size_of_its_own_needs_no_checksum(here):
    made_up = Machine(b"12.5 10.1\n")

    def script(asked):
        if asked.path.endswith("stat"):
            record = {"path": "/proc/uptime", "type": "file", "size": 0, "mode": "0444"}
            return answer({**record, "sha256": _sha256(b"12.6 10.1\n")})
        return made_up(asked)

    with _client(script) as (client, _):
        client.files.download("mach_1", "/proc/uptime", here)
    assert here.read_bytes() == b"12.5 10.1\n"


def test_a_link_there_leads_to_the_mode_of_what_it_leads_to(here):
    machine = Machine(SMALL)
    targets = {"/d/link": "../e/key", "/d/../e/key": None}

    def script(asked):
        if not asked.path.endswith("stat"):
            return machine(asked)
        path = parse_qs(asked.query)["path"][0]
        link = {"type": "symlink", "mode": "0777", "target": targets[path], "size": 8}
        file = {"type": "file", "mode": "0600", "target": None, "size": len(SMALL)}
        return answer({**(link if targets[path] else file), "sha256": _sha256(SMALL)})

    with _client(script) as (client, _):
        client.files.download("mach_1", "/d/link", here)
    assert here.stat().st_mode & 0o777 == 0o600


def test_a_file_here_keeps_its_mode_and_a_link_to_it_leads_to_it(here):
    here.write_bytes(b"before")
    here.chmod(0o604)
    link = here.with_name("link")
    link.symlink_to("f")
    with _client(Machine(SMALL)) as (client, _):
        client.files.download("mach_1", "/f", link)
    assert link.is_symlink()
    assert (here.read_bytes(), here.stat().st_mode & 0o777) == (SMALL, 0o604)


def test_below_an_open_directory_a_link_is_replaced_and_not_followed(here, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"outside")
    here.symlink_to(outside)
    directory = os.open(here.parent, os.O_RDONLY)
    with _client(Machine(SMALL)) as (client, _):
        client.files.download("mach_1", "/f", "f", dir_fd=directory)
    os.close(directory)
    assert (here.is_symlink(), here.read_bytes()) == (False, SMALL)
    assert outside.read_bytes() == b"outside"


def test_what_is_no_file_is_not_replaced_by_one(here, tmp_path):
    os.mkfifo(here)
    with _client(Machine(SMALL)) as (client, hub):
        with pytest.raises(CmdopError, match="not a regular file"):
            client.files.download("mach_1", "/f", here)
        with pytest.raises(IsADirectoryError):
            client.files.download("mach_1", "/f", tmp_path)
    assert not hub.asked


@pytest.mark.parametrize("trap", ["link", "second name", "fifo"])
def test_a_part_that_somebody_else_can_have_put_there_is_not_written_to(here, tmp_path, trap):
    outside = tmp_path / "outside"
    outside.write_bytes(b"outside")
    part = here.with_name(".f.cmdop-part")
    if trap == "link":
        part.symlink_to(outside)
    elif trap == "second name":
        part.hardlink_to(outside)
    else:
        os.mkfifo(part)
    with _client(Machine(SMALL)) as (client, _), pytest.raises((CmdopError, OSError)):
        client.files.download("mach_1", "/f", here)
    assert outside.read_bytes() == b"outside"
    assert not here.exists()


def test_two_programs_do_not_fetch_to_one_place_at_once(here):
    machine = Machine(SMALL)
    refused = []

    def script(asked):
        if asked.path.endswith("download"):
            with Client(hub.url, KEY) as other, pytest.raises(CmdopError) as caught:
                other.files.download("mach_1", "/f", here)
            refused.append(str(caught.value))
        return machine(asked)

    with _client(script) as (client, hub):
        client.files.download("mach_1", "/f", here)
    assert refused == [f"another program is fetching {here}"]
    assert here.read_bytes() == SMALL


def test_what_another_program_puts_in_place_meanwhile_is_not_written_to(here, monkeypatch):
    """It does so between the moments when the part is opened and when it is locked."""
    machine, lock = Machine(LARGE), fcntl.flock

    def late(file, operation):
        monkeypatch.undo()
        with Client(hub.url, KEY) as other:
            other.files.download("mach_1", "/f", here)
        opened.append(here.open("rb"))
        lock(file, operation)

    opened = []
    monkeypatch.setattr(fcntl, "flock", late)
    with _client(machine) as (client, hub):
        client.files.download("mach_1", "/f", here)
    with opened[0] as other:
        assert other.read() == here.read_bytes() == LARGE
    assert _is_alone(here)


@pytest.mark.parametrize("before", [b"", b"before"])
def test_of_a_file_that_cannot_be_fetched_nothing_is_left_here(here, before):
    if before:
        here.write_bytes(before)
    with (
        _client(lambda _: _refusal("file_permission_denied", 403)) as (client, _),
        pytest.raises(APIError),
    ):
        client.files.download("mach_1", "/f", here)
    assert [path.read_bytes() for path in here.parent.iterdir()] == ([before] if before else [])


def test_a_name_as_long_as_names_can_be_has_a_part_as_well(here):
    here = here.with_name("n" * 255)
    machine = Machine(LARGE)
    machine.faults = [(9, None)]
    with _client(machine) as (client, _):
        client.files.download("mach_1", "/f", here)
    assert here.read_bytes() == LARGE
    assert _is_alone(here)


def test_a_stream_goes_on_at_the_same_byte_and_ends_when_the_file_changes():
    machine = Machine(LARGE)
    machine.faults = [(1_000_000, None), (7, None)]

    def change():
        machine.etag = '"v2"'

    with _client(machine) as (client, _):
        assert b"".join(client.files.stream("mach_1", "/f")) == LARGE
        machine.faults = [(1_000_000, None), (7, change)]
        with pytest.raises(CmdopError, match="/f changed while it was read"):
            b"".join(client.files.stream("mach_1", "/f"))


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 206 X\r\nContent-Length: 1\r\n\r\nx",
        "HTTP/1.1 206 X\r\nContent-Length: 1\r\nContent-Range: bytes 5-5/6\r\n\r\nx",
    ],
)
def test_an_answer_that_is_no_download_is_called_that(here, head):
    with (
        _client(lambda _: Answer(head.encode(), close=True)) as (client, hub),
        pytest.raises(UnexpectedAnswer),
    ):
        client.files.download("mach_1", "/f", here)
    assert not here.exists()
    assert len(hub.asked) == 1
