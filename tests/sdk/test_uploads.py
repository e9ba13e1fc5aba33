"""Uploads by the synchronous client, which go on after every break."""

import io
import os
import socket
import threading
from urllib.parse import parse_qs

import pytest

from cmdop_appliance.sdk import APIError, CmdopError, ServerError
from tests.sdk.kinds import Client
from tests.sdk.scripted_hub import answer
from tests.sdk.scripted_machine import (
    BROKEN,
    KEY,
    LARGE,
    SMALL,
    STOPPING,
    Machine,
    client_of,
    not_active,
    refusal_of,
    requests_to,
    sha256_of,
)

pytestmark = pytest.mark.usefixtures("kind")


def test_a_small_file_is_one_request_with_its_checksum(tmp_path):
    (tmp_path / "f").write_bytes(SMALL)
    machine, told = Machine(), []
    with client_of(machine) as (client, hub):
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
    assert (written["size"], written["sha256"]) == (len(SMALL), sha256_of(SMALL))
    assert requests_to(hub) == [("PUT", "upload", len(SMALL))]
    assert told == [(len(SMALL), len(SMALL))]
    assert parse_qs(hub.asked[0].query) == {
        "path": ["/f"],
        "mode": ["0640"],
        "create_parents": ["true"],
        "overwrite": ["false"],
        "if_match": ["aa"],
        "sha256": [sha256_of(SMALL)],
    }


def test_a_large_file_is_one_body_and_then_its_checksum(local):
    machine, told = Machine(), []
    with client_of(machine) as (client, hub):
        client.files.upload("mach_1", local, "/f", progress=lambda *at: told.append(at))
    assert machine.content == LARGE
    assert requests_to(hub) == [
        ("GET", "upload", 0),
        ("PUT", "upload", len(LARGE)),
        ("PUT", "upload", 0),
    ]
    assert told[-1] == (len(LARGE), len(LARGE))
    assert [at[0] for at in told] == sorted(at[0] for at in told)


@pytest.mark.parametrize("fault", [BROKEN, STOPPING])
@pytest.mark.parametrize("arrives", [0, 1, 64 * 1024, len(LARGE)])
def test_an_upload_that_is_cut_sends_what_is_missing_and_nothing_else(local, fault, arrives):
    machine = Machine()
    machine.faults = [(arrives, fault), (5, fault)]
    with client_of(machine) as (client, hub):
        assert client.files.upload("mach_1", local, "/f")["sha256"] == sha256_of(LARGE)
    assert machine.content == LARGE
    sent = [size for method, _, size in requests_to(hub) if method == "PUT"]
    rest = len(LARGE) - arrives
    assert sent == ([len(LARGE), rest, rest - 5, 0] if rest else [len(LARGE), 0])


def test_an_upload_goes_on_in_another_program(local):
    machine = Machine()
    machine.faults = [(62_500, refusal_of("no_space", 507))]
    with client_of(machine) as (client, hub):
        with pytest.raises(ServerError):
            client.files.upload("mach_1", local, "/f")
        client.files.upload("mach_1", str(local), "/f")
        assert machine.content == LARGE
        assert requests_to(hub)[2:4] == [
            ("GET", "upload", 0),
            ("PUT", "upload", len(LARGE) - 62_500),
        ]


@pytest.mark.parametrize("another", ["machine", "path", "content"])
def test_an_upload_of_something_else_does_not_go_on(local, another):
    machine = Machine()
    with client_of(machine) as (client, hub):
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
    with client_of(machine) as (client, hub):
        written = client.files.upload("mach_1", local, "/f", if_match="aa", overwrite=False)
    assert written["sha256"] == sha256_of(LARGE[:size])
    assert [sent for method, _, sent in requests_to(hub) if method == "PUT" and sent] == [size]


def test_a_key_that_may_only_write_sends_again_what_may_be_in_place_already(tmp_path):
    (tmp_path / "f").write_bytes(SMALL)
    machine = Machine()
    machine.faults = [(len(SMALL), BROKEN)]

    def script(asked):
        is_look = asked.path.endswith("stat")
        return refusal_of("forbidden", 403) if is_look else machine(asked)

    with client_of(script) as (client, hub):
        client.files.upload("mach_1", tmp_path / "f", "/f")
    assert [method for method, _, _ in requests_to(hub)] == ["PUT", "GET", "PUT"]


def test_a_file_that_changes_meanwhile_is_not_put_in_place(local):
    machine = Machine()
    with client_of(machine) as (client, hub):

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
    machine.faults = [(62_500, refusal_of("file_io_error", 500))]
    with client_of(machine) as (client, _):
        with pytest.raises(ServerError):
            client.files.upload("mach_1", local, "/f")
        ((upload_id, kept),) = machine.uploads.items()
        machine.uploads[upload_id] = kept[::-1]
        client.files.upload("mach_1", local, "/f")
        assert machine.content == LARGE
        machine.faults = [(len(LARGE), None), (0, refusal_of("checksum_mismatch", 400))]
        with pytest.raises(APIError, match="checksum_mismatch"):
            client.files.upload("mach_1", local, "/g")


def test_what_arrives_damaged_again_is_given_up(local):
    machine = Machine()
    mismatch = (0, refusal_of("checksum_mismatch", 400))
    machine.faults = [
        (62_500, BROKEN),
        (len(LARGE), None),
        mismatch,
        (len(LARGE), None),
        mismatch,
    ]
    with client_of(machine) as (client, _), pytest.raises(APIError, match="checksum_mismatch"):
        client.files.upload("mach_1", local, "/f")
    assert not machine.faults


@pytest.mark.parametrize("before", [0, 1], ids=["before the data", "before the checksum"])
def test_an_upload_that_has_begun_waits_for_the_machine_to_come_back(local, before):
    machine = Machine()
    machine.faults = [(len(LARGE), None)] * before + [(0, not_active("GRACE_PERIOD"))]
    with client_of(machine) as (client, _):
        client.files.upload("mach_1", local, "/f")
    assert machine.content == LARGE


def test_an_upload_asks_where_it_stands_when_it_was_wrong_of_that(local):
    machine = Machine()
    machine.faults = [(0, refusal_of("offset_mismatch", 409, offset=0))]
    with client_of(machine) as (client, _):
        client.files.upload("mach_1", local, "/f")
    assert machine.content == LARGE


@pytest.mark.parametrize("size", [0, 5, 64 * 1024, 64 * 1024 + 1, 512 << 10, (512 << 10) + 1])
def test_a_stream_arrives_whole_whatever_its_length(size):
    data = os.urandom(1024) * (size // 1024 + 1)
    machine = Machine()
    machine.faults = [(3, BROKEN)]
    with client_of(machine) as (client, hub):
        written = client.files.upload("mach_1", io.BytesIO(data[:size]), "/f")
    assert (machine.content, written["size"]) == (data[:size], size)
    ids = {parse_qs(asked.query).get("upload_id", [""])[0] for asked in hub.asked}
    assert len(ids - {""}) == (size > 64 * 1024)


def test_a_stream_of_which_the_machine_lost_a_part_cannot_go_on():
    machine, data = Machine(), bytes(576 << 10)

    def lose(asked):
        if asked.method == "PUT" and machine.uploads:
            machine.uploads.clear()
            return BROKEN
        return machine(asked)

    with client_of(lose) as (client, _), pytest.raises(CmdopError, match="cannot be read again"):
        client.files.upload("mach_1", io.BytesIO(data), "/f")


def test_a_file_that_the_system_makes_up_is_read_to_its_end():
    machine = Machine()
    with client_of(machine) as (client, _):
        client.files.upload("mach_1", "/proc/version", "/f")
    assert machine.content.startswith(b"Linux version")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with client_of(Machine()) as (client, hub):
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
    os.truncate(local, 64 << 20)  # more than fits in buffers
    refusal = refusal_of("no_space", 507).raw
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
