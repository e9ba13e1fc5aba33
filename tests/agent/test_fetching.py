"""A program comes from the hub whole and as it was signed, or not at all."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cmdop_appliance.agent.fetching import NotFetched, fetch
from cmdop_appliance.release.bundle import File
from tests.support.authority import Authority

PROGRAM = b"program " * 10_000
FILE = File(
    name="cmdop-linux-x86_64", size=len(PROGRAM), sha256=hashlib.sha256(PROGRAM).hexdigest()
)


@contextmanager
def serving(status: int = 200, body: bytes = PROGRAM, told: int | None = None, tls=None):
    """A hub that answers so; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/below/dl/cmdop-linux-x86_64"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if told is None else told))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{server.server_port}/below/"
        thread.join()


@pytest.mark.parametrize("is_secure", [False, True])
def test_what_was_signed_is_kept_whoever_sends_it(tmp_path, is_secure):
    tls = Authority(tmp_path).server("127.0.0.1") if is_secure else None
    with serving(tls=tls) as url:
        fetch(url, FILE, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == PROGRAM


@pytest.mark.parametrize(
    ("answer", "why", "is_final"),
    [
        ({"body": PROGRAM + b"x"}, "a longer program", True),
        ({"body": PROGRAM[:-1] + b"x"}, "another program", True),
        ({"body": PROGRAM[:-1]}, "1 bytes before the end", False),
        ({"body": PROGRAM[:-1], "told": len(PROGRAM)}, "before the end", False),
        ({"status": 404}, "answered 404", True),
        ({"status": 429}, "answered 429", False),
        ({"status": 302}, "answered 302", False),
    ],
)
def test_what_is_not_that_says_why_and_whether_to_come_again(tmp_path, answer, why, is_final):
    with serving(**answer) as url, pytest.raises(NotFetched, match=why) as raised:
        fetch(url, FILE, tmp_path / "part")
    assert raised.value.is_final is is_final


def test_where_no_hub_is_there_may_be_one_later(tmp_path):
    with pytest.raises(NotFetched, match="cannot be reached") as raised:
        fetch("http://127.0.0.1:9", FILE, tmp_path / "part")
    assert not raised.value.is_final
