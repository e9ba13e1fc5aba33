"""`cmdop doctor`: each thing that can be wrong is found, and told with what mends it."""

import base64
import hashlib
import json
import socket
from email.utils import formatdate

import pytest

from cmdop_appliance import __version__
from cmdop_appliance.cli import diagnosis
from cmdop_appliance.cli.main import main
from tests.cli.files_cli import cmdop
from tests.sdk.scripted_hub import Answer, Asked, answer, http, scripted_hub

ME = {
    "name": "laptop",
    "permissions": ["sessions:read"],
    "tags": [],
    "expires_at": None,
    "hub_version": __version__,
}
MACHINE = {"name": "nas", "agent_version": __version__}
GOOD = {"me": ME, "machines": [MACHINE], "page": b"<title>cmdop", "ready": 200, "now": None}


def _opened(asked: Asked) -> Answer:
    """A websocket, as RFC 6455 opens it."""
    nonce = asked.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(nonce.encode(), usedforsecurity=False).digest())
    return _switched(accept)


def _switched(accept: bytes) -> Answer:
    head = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return Answer(head + b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept, close=True)


def _examine(*args, live=_opened, **differs):
    """(the exit code, the findings by check) of a hub that is good but for this."""
    hub_is = GOOD | differs

    def script(asked: Asked):
        match asked.path:
            case "/readyz":
                return http(hub_is["ready"], b'{"reasons":["the disk failed"]}')
            case "/healthz":
                date = formatdate(hub_is["now"], usegmt=True).encode()
                return Answer(b"HTTP/1.1 200 X\r\nDate: %b\r\nContent-Length: 0\r\n\r\n" % date)
            case "/":
                return http(200, hub_is["page"])
            case "/api/v1/live":
                return live(asked)
            case "/api/v1/auth/me":
                is_good = "name" in hub_is["me"]
                return answer(hub_is["me"], status=200 if is_good else 401)
        return answer(hub_is["machines"])

    with scripted_hub(script) as hub:
        done = cmdop(hub, "doctor", *args, "-o", "json")
    assert done.stderr == b""
    return done.returncode, {each["check"]: each for each in json.loads(done.stdout)}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("CMDOP_DATA_DIR", str(tmp_path / "none"))


def test_where_all_is_well_nothing_is_wrong():
    code, found = _examine()
    assert code == 0
    assert {check: each["state"] for check, each in found.items()} == dict.fromkeys(
        ["hub", "clock", "websocket", "dashboard", "key", "version", "agents"], "ok"
    )


UNKNOWN = {"code": "unauthorized", "message": "no such key"}
OLD_AGENT = MACHINE | {"agent_version": "0.0.1"}
SOON = ME | {"expires_at": "2020-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("differs", "check", "state", "said"),
    [
        ({"ready": 503}, "hub", "wrong", "the disk failed"),
        ({"ready": 404}, "hub", "wrong", "404"),
        ({"now": 0}, "clock", "warning", "behind ours"),
        ({"now": 4_000_000_000}, "clock", "warning", "ahead of ours"),
        ({"live": lambda _: http(426, b"")}, "websocket", "wrong", "426"),
        ({"live": lambda _: _switched(b"x")}, "websocket", "wrong", "101"),
        ({"live": lambda _: http(403, b"")}, "websocket", "skipped", "nothing is known"),
        ({"page": b"The dashboard is not built: run"}, "dashboard", "warning", "not built"),
        ({"me": UNKNOWN}, "key", "wrong", "no such key"),
        ({"me": SOON}, "key", "warning", "until 2020-01-01"),
        ({"me": ME | {"hub_version": "9.9.9"}}, "version", "warning", "the hub has 9.9.9"),
        ({"machines": [MACHINE, OLD_AGENT]}, "agents", "warning", "1 of 2"),
    ],
)
def test_what_is_wrong_is_told_with_what_mends_it(differs, check, state, said):
    code, found = _examine(**differs)
    assert (found[check]["state"], code) == (state, 1 if state == "wrong" else 0)
    assert said in found[check]["said"]
    assert found[check]["fix"] or state == "skipped"


def test_where_nobody_listens_is_told_with_where_the_address_is_from(capsys):
    assert main(["--hub", "http://127.0.0.1:1", "--key", "k", "doctor"]) == 1
    assert "hub        http://127.0.0.1:1 (--hub): Connection refused\n" in capsys.readouterr().out


def test_a_wrong_key_is_told_once():
    found = _examine(me=UNKNOWN)[1]
    wrong = [check for check, each in found.items() if each["state"] == "wrong"]
    assert wrong == ["key"]
    assert [found[check]["state"] for check in ("version", "agents")] == ["skipped"] * 2


def test_a_hub_that_is_away_is_all_that_is_told():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = "http://127.0.0.1:{1}".format(*free.getsockname())
    code, found = _examine("--hub", url)
    assert (code, [*found]) == (1, ["hub"])
    assert found["hub"]["fix"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A data directory that no hub runs in."""
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("CMDOP_DATA_DIR", str(directory))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(diagnosis, "_ADDRESS", free.getsockname())
    return directory


def test_a_directory_of_a_hub_here_is_examined_too(place):
    found = _examine()[1]
    assert {name: found[name]["state"] for name in ("directory", "space", "port")} == {
        "directory": "ok",
        "space": "ok",
        "port": "ok",
    }


def test_what_others_may_read_is_wrong(place):
    (place / "admin.key").write_text("k")
    (place / "admin.key").chmod(0o640)
    code, found = _examine()
    assert (code, found["directory"]["fix"]) == (1, f"chmod go= {place}/admin.key")


def test_a_full_disk_is_wrong(place, monkeypatch):
    monkeypatch.setattr(diagnosis, "_FREE_BYTES", 10**18)
    code, found = _examine()
    assert (code, found["space"]["state"]) == (1, "wrong")


def test_a_port_that_another_program_has_is_named(place, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(diagnosis, "_ADDRESS", other.getsockname())
        assert "is taken" in _examine()[1]["port"]["said"]
    (place / "hub.json").touch()
    assert "port" not in _examine()[1]  # a hub that runs has it


def test_a_person_reads_a_line_for_each_check_and_its_remedy():
    with scripted_hub(lambda _: http(503, b"\x1b[2J")) as hub:
        done = cmdop(hub, "doctor")
    assert done.stdout.decode().splitlines() == [
        "wrong    hub        the hub is not ready: \\x1b[2J",
        "                    fix: see the hub's log",
    ]
