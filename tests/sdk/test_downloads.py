"""Downloads by the synchronous client, which go on after every break."""

import fcntl
import os
from urllib.parse import parse_qs

import pytest

from cmdop_appliance import sdk
from cmdop_appliance.sdk import APIError, CmdopError, ServerError, UnexpectedAnswer
from tests.sdk.kinds import Client
from tests.sdk.scripted_hub import Answer, answer
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
    sha256_of,
)

pytestmark = pytest.mark.usefixtures("kind")


def _is_alone(here):
    return [path.name for path in here.parent.iterdir()] == [here.name]


@pytest.mark.parametrize("content", [b"", SMALL, LARGE])
def test_a_file_arrives_whole_with_the_mode_it_has_there(here, content):
    machine, told = Machine(content), []
    machine.is_there = True
    with client_of(machine) as (client, _):
        read = client.files.download("mach_1", "/f", here, progress=lambda *at: told.append(at))
    assert here.read_bytes() == content
    assert read == {"path": str(here), "size": len(content), "sha256": sha256_of(content)}
    assert here.stat().st_mode & 0o777 == 0o640 & ~0o022
    assert told[-1:] == ([(len(content), len(content))] if content else [])
    assert _is_alone(here)


@pytest.mark.parametrize("arrives", [0, 1, 62_500, len(LARGE) - 1])
def test_a_download_that_is_cut_goes_on_at_the_same_byte(here, arrives):
    machine = Machine(LARGE)
    machine.faults = [(arrives, None), (7, None), (0, STOPPING), (0, BROKEN)]
    with client_of(machine) as (client, hub):
        client.files.download("mach_1", "/f", here)
    assert here.read_bytes() == LARGE
    ranges = [a.headers.get("range") for a in hub.asked if a.path.endswith("download")]
    assert ranges[0] is None
    assert ranges[1] == (f"bytes={arrives}-" if arrives else None)
    assert ranges[-1] == f"bytes={min(arrives + 7, len(LARGE))}-" or arrives == len(LARGE) - 1


def test_a_download_goes_on_in_another_program(here):
    machine = Machine(LARGE)
    machine.faults = [(62_500, None), (0, refusal_of("file_io_error", 500))]
    with client_of(machine) as (client, hub):
        with pytest.raises(ServerError):
            client.files.download("mach_1", "/f", here)
        left = sorted(path.name for path in here.parent.iterdir())
        assert left == [".f.cmdop-from", ".f.cmdop-part"]
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in here.parent.iterdir())
        client.files.download("mach_1", "/f", here)
        assert hub.asked[-2].headers["range"] == "bytes=62500-"
    assert here.read_bytes() == LARGE
    assert _is_alone(here)


def test_what_has_all_arrived_is_only_put_in_place(here):
    machine = Machine(LARGE)

    def script(asked):
        if asked.path.endswith("stat") and not failed:
            failed.append(asked)
            return refusal_of("file_io_error", 500)
        return machine(asked)

    failed = []
    with client_of(script) as (client, hub):
        with pytest.raises(ServerError):
            client.files.download("mach_1", "/f", here)
        client.files.download("mach_1", "/f", here)
    assert here.read_bytes() == LARGE
    assert [asked.path.endswith("download") for asked in hub.asked].count(True) == 1


@pytest.mark.parametrize("another", ["machine", "path"])
def test_what_has_arrived_of_something_else_is_of_no_use(here, another):
    machine = Machine(LARGE)
    machine.faults = [(62_500, None), (0, refusal_of("file_io_error", 500))]
    with client_of(machine) as (client, hub):
        with pytest.raises(ServerError):
            client.files.download("mach_1", "/f", here)
        machine.content = LARGE[:31_250:-1][:25_000]  # less than had arrived
        client.files.download(
            "mach_2" if another == "machine" else "mach_1",
            "/g" if another == "path" else "/f",
            here,
        )
    assert here.read_bytes() == machine.content
    assert "range" not in hub.asked[2].headers


def test_where_a_tag_does_not_vouch_for_the_bytes_they_are_fetched_anew(here):
    machine = Machine(LARGE, etag='W/"v1"')
    machine.faults = [(62_500, None)]
    with client_of(machine) as (client, hub):
        client.files.download("mach_1", "/f", here)
    assert here.read_bytes() == LARGE
    assert not any("range" in asked.headers for asked in hub.asked)


def test_a_file_that_changes_meanwhile_is_begun_again(here):
    machine = Machine(LARGE)

    def change():
        machine.content, machine.etag = LARGE[::-1], '"v2"'

    machine.faults = [(62_500, None), (125_000, change)]
    with client_of(machine) as (client, _):
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
        machine.faults = [(0, refusal_of("changed_during_read", 409))] * 20
    elif way == "cut":
        machine.faults = [(62_500, change)] * 20
    elif way == "shorter":
        machine.faults = [(62_500, None), (0, refusal_of("range_not_satisfiable", 416))] * 20
    here.write_bytes(b"before")
    with (
        client_of(script) as (client, _),
        pytest.raises(CmdopError, match="/f changed 4 times while it was read"),
    ):
        client.files.download("mach_1", "/f", here)
    assert here.read_bytes() == b"before"


def test_a_file_without_a_size_of_its_own_needs_no_checksum(here):
    made_up = Machine(b"12.5 10.1\n")

    def script(asked):
        if asked.path.endswith("stat"):
            record = {"path": "/proc/uptime", "type": "file", "size": 0, "mode": "0444"}
            return answer({**record, "sha256": sha256_of(b"12.6 10.1\n")})
        return made_up(asked)

    with client_of(script) as (client, _):
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
        return answer({**(link if targets[path] else file), "sha256": sha256_of(SMALL)})

    with client_of(script) as (client, _):
        client.files.download("mach_1", "/d/link", here)
    assert here.stat().st_mode & 0o777 == 0o600


def test_what_a_link_leads_to_is_private_here_if_nobody_may_look_at_it_and_is_asked_for_once(here):
    machine, looks = Machine(SMALL), []

    def script(asked):
        if not asked.path.endswith("stat"):
            return machine(asked)
        path = parse_qs(asked.query)["path"][0]
        looks.append(path)
        if path != "/d/link":
            return refusal_of("path_not_allowed", 403)
        link = {"type": "symlink", "mode": "0777", "target": "/etc/key", "size": 8}
        return answer({**link, "sha256": sha256_of(SMALL)})

    with client_of(script) as (client, _):
        client.files.download("mach_1", "/d/link", here)
    assert here.stat().st_mode & 0o777 == 0o600
    assert looks == ["/d/link", "/etc/key"]


def test_a_file_here_keeps_its_mode_and_a_link_to_it_leads_to_it(here):
    here.write_bytes(b"before")
    here.chmod(0o604)
    link = here.with_name("link")
    link.symlink_to("f")
    with client_of(Machine(SMALL)) as (client, _):
        client.files.download("mach_1", "/f", link)
    assert link.is_symlink()
    assert (here.read_bytes(), here.stat().st_mode & 0o777) == (SMALL, 0o604)


def test_below_an_open_directory_a_link_is_replaced_and_not_followed(here, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"outside")
    here.symlink_to(outside)
    directory = os.open(here.parent, os.O_RDONLY)
    with client_of(Machine(SMALL)) as (client, _):
        client.files.download("mach_1", "/f", "f", dir_fd=directory)
    os.close(directory)
    assert (here.is_symlink(), here.read_bytes()) == (False, SMALL)
    assert outside.read_bytes() == b"outside"


def test_what_is_no_file_is_not_replaced_by_one(here, tmp_path):
    os.mkfifo(here)
    with client_of(Machine(SMALL)) as (client, hub):
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
    with client_of(Machine(SMALL)) as (client, _), pytest.raises((CmdopError, OSError)):
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

    with client_of(script) as (client, hub):
        client.files.download("mach_1", "/f", here)
    assert refused == [f"another program is fetching {here}"]
    assert here.read_bytes() == SMALL


def test_what_another_program_puts_in_place_meanwhile_is_not_written_to(here, monkeypatch):
    """It does so between the moments when the part is opened and when it is locked."""
    machine, lock = Machine(LARGE), fcntl.flock

    def late(file, operation):
        monkeypatch.undo()
        with sdk.Client(hub.url, KEY) as other:
            other.files.download("mach_1", "/f", here)
        opened.append(here.open("rb"))
        lock(file, operation)

    opened = []
    monkeypatch.setattr(fcntl, "flock", late)
    with client_of(machine) as (client, hub):
        client.files.download("mach_1", "/f", here)
    with opened[0] as other:
        assert other.read() == here.read_bytes() == LARGE
    assert _is_alone(here)


@pytest.mark.parametrize("before", [b"", b"before"])
def test_of_a_file_that_cannot_be_fetched_nothing_is_left_here(here, before):
    if before:
        here.write_bytes(before)
    with (
        client_of(lambda _: refusal_of("file_permission_denied", 403)) as (client, _),
        pytest.raises(APIError),
    ):
        client.files.download("mach_1", "/f", here)
    assert [path.read_bytes() for path in here.parent.iterdir()] == ([before] if before else [])


def test_a_name_as_long_as_names_can_be_has_a_part_as_well(here):
    here = here.with_name("n" * 255)
    machine = Machine(LARGE)
    machine.faults = [(9, None)]
    with client_of(machine) as (client, _):
        client.files.download("mach_1", "/f", here)
    assert here.read_bytes() == LARGE
    assert _is_alone(here)


def test_a_download_that_has_arrived_waits_for_the_machine_to_come_back(tmp_path):
    machine, stats = Machine(LARGE), iter([not_active("GRACE_PERIOD")])

    def script(asked):
        is_stat = asked.path.endswith("/stat")
        return (next(stats, None) if is_stat else None) or machine(asked)

    with client_of(script) as (client, _):
        client.files.download("mach_1", "/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == LARGE


def test_a_stream_goes_on_at_the_same_byte_and_ends_when_the_file_changes():
    machine = Machine(LARGE)
    machine.faults = [(62_500, None), (7, None)]

    def change():
        machine.etag = '"v2"'

    with client_of(machine) as (client, _):
        assert b"".join(client.files.stream("mach_1", "/f")) == LARGE
        machine.faults = [(62_500, None), (7, change)]
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
        client_of(lambda _: Answer(head.encode(), close=True)) as (client, hub),
        pytest.raises(UnexpectedAnswer),
    ):
        client.files.download("mach_1", "/f", here)
    assert not here.exists()
    assert len(hub.asked) == 1
