"""The line that `cmdop machines add` prints, by what the hub has."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from click.testing import CliRunner

from cmdop_appliance.cli.machines import machines

MADE = {"token": "cmdop_enroll_x", "expires_at": "2026-01-01T00:00:00Z", "max_uses": 1}


@pytest.fixture
def hub():
    """The address of a hub, and what it answers at /dl; None: it knows no such address."""

    class Handler(BaseHTTPRequestHandler):
        dl = None

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(201, json.dumps({"data": MADE, "meta": {}}).encode())

        def do_GET(self):
            assert self.path == "/dl"
            self._answer(404 if self.dl is None else 200, self.dl or b"")

        def _answer(self, status, body):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Handler
        server.shutdown()
        thread.join()


def line(url, *args):
    done = CliRunner().invoke(machines, ["add", "--hub", url, "--key", "cmdop_apikey_x", *args])
    assert done.exit_code == 0, done.output
    assert "--quiet" in args or f"to keep it: {url.rstrip('/')}/help/agents" in done.stderr
    return done.stdout


@pytest.mark.parametrize("dl", [None, b'{"files": []}', b"[]", b"{}", b"<html>", b"\xff"])
def test_a_hub_without_programs_gets_the_line_for_machines_that_have_one(hub, dl):
    url, handler = hub
    handler.dl = dl
    assert line(f"{url}/") == f"cmdop agent --hub {url} --token cmdop_enroll_x\n"


def test_a_hub_with_programs_gets_the_line_that_fetches_one(hub):
    url, handler = hub
    handler.dl = b'{"files": [{"name": "cmdop-linux-x86_64"}]}'
    script = f"curl -fsSL {url}/dl/join.sh | CMDOP_JOIN_KEY=cmdop_enroll_x sh\n"
    assert line(f"{url}/") == script
    assert line(url, "--quiet") == "cmdop_enroll_x\n"


def test_a_hub_that_has_a_public_url_gets_the_line_that_is_good_elsewhere(hub):
    url, handler = hub
    handler.dl = b'{"files": [], "public_url": "https://hub.example"}'
    done = CliRunner().invoke(machines, ["add", "--hub", url, "--key", "cmdop_apikey_x"])
    assert done.stdout == "cmdop agent --hub https://hub.example --token cmdop_enroll_x\n"
    assert "https://hub.example/help/agents" in done.stderr
    assert "good on the hub's own machine only" not in done.stderr
