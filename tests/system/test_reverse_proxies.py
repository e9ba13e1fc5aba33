"""docs/reverse-proxies.md: the hub behind nginx and Caddy, set up as it says there."""

import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from websockets.sync.client import connect

from cmdop_appliance.sdk import Client, Ended, Output
from cmdop_appliance.sdk import terminal_events as terminal
from tests.support.appliance import PATIENCE_S, running_hub, stopped_agent, wait_for
from tests.support.authority import Authority

pytestmark = pytest.mark.slow

DOCUMENT = (Path(__file__).parents[2] / "docs/reverse-proxies.md").read_text()
SHOWN = dict(re.findall(r"```(toml|nginx|caddyfile)\n(.*?)```", DOCUMENT, re.DOTALL))
FILE_BYTES = 16 * 1024 * 1024
ELSEWHERE = "127.0.0.2"  # an address that is not the proxy's
# What a distribution's nginx.conf says around it; all that it writes stays in one place.
NGINX = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path answers;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {}
}}
"""
CADDY = "{{\n\tadmin off\n\tauto_https off\n}}\n{}"


@dataclass(frozen=True)
class Proxied:
    """A hub and a machine that reach each other through a proxy alone."""

    port: int
    tls: ssl.SSLContext
    key: str
    machine: str
    log: Path  # what the proxy complains of

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @contextmanager
    def asking(self, method: str, path: str, body: object = None, **headers: str) -> Iterator:
        """The answer to a request that somebody makes at another address than the proxy's."""
        connection = HTTPSConnection(
            "127.0.0.1",
            self.port,
            context=self.tls,
            source_address=(ELSEWHERE, 0),
            timeout=PATIENCE_S,
        )
        try:
            connection.request(method, f"/api/v1{path}", body, headers)
            yield connection.getresponse()
        finally:
            connection.close()


def _placed(kind: str, replaced: dict[str, object]) -> str:
    """What the document shows, but for what is different here."""
    text = SHOWN[kind]
    for old, new in replaced.items():
        assert text.count(old) == 1, f"{kind}: {old}"
        text = text.replace(old, str(new))
    return text


def _nginx(place: Path, port: int, hub: int, certificate: Path) -> list[object]:
    replaced = {
        "listen 443": f"listen 127.0.0.1:{port} sndbuf=8k",  # little is on its way unread
        "/etc/letsencrypt/live/hub.example/fullchain.pem": certificate,
        "/etc/letsencrypt/live/hub.example/privkey.pem": certificate,
        "127.0.0.1:3006": f"127.0.0.1:{hub}",
    }
    file = place / "nginx.conf"
    file.write_text(NGINX.format(_placed("nginx", replaced)))
    return ["nginx", "-p", place, "-c", file, "-e", "error.log"]


def _caddy(place: Path, port: int, hub: int, certificate: Path) -> list[object]:
    replaced = {
        "hub.example {": f"https://127.0.0.1:{port} {{\n\ttls {certificate} {certificate}",
        "127.0.0.1:3006": f"127.0.0.1:{hub}",
    }
    file = place / "Caddyfile"
    file.write_text(CADDY.format(_placed("caddyfile", replaced)))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", file]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    config = _placed("toml", {"https://hub.example": "https://127.0.0.1"})
    with running_hub(tmp_path_factory.mktemp("hub"), config=config) as hub:
        yield hub


@pytest.fixture(scope="module", params=[_nginx, _caddy])
def proxied(hub, request, tmp_path_factory):
    name = request.param.__name__[1:]
    if shutil.which(name) is None and "CI" not in os.environ:
        pytest.skip(f"no {name}: what docs/reverse-proxies.md shows for it is not proved here")
    place = tmp_path_factory.mktemp(name)
    authority = Authority(place)
    authority.server("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = request.param(place, port, hub.address[1], place / "127.0.0.1.pem")
    log = place / "error.log"
    environ = {"PATH": os.environ["PATH"], "HOME": str(place)}
    with log.open("ab") as err:
        proxy = subprocess.Popen([*map(str, program)], cwd=place, env=environ, stderr=err)

    def is_there() -> bool:
        assert proxy.poll() is None, log.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    try:
        wait_for(is_there, f"{name} listens")
        with stopped_agent(place, name) as agent, pytest.MonkeyPatch.context() as environment:
            agent.variables["SSL_CERT_FILE"] = str(authority.file)
            agent.join(hub, url=f"https://127.0.0.1:{port}")
            environment.setenv("SSL_CERT_FILE", str(authority.file))
            tls = ssl.create_default_context()
            yield Proxied(port, tls, hub.api.key, agent.machine_id, log)
    finally:
        proxy.terminate()
        proxy.wait(PATIENCE_S)


@pytest.fixture
def client(proxied):
    with Client(proxied.url, proxied.key) as client:
        yield client


def test_output_comes_when_it_is_written(proxied, client, tmp_path):
    text = "echo first; until [ -e go-on ]; do sleep 0.05; done; echo second; exit 3"
    command = client.commands.start(proxied.machine, text, cwd=str(tmp_path))
    shown = b""
    for event in client.commands.stream(command["id"]):
        if isinstance(event, Output):
            shown += event.data
            (tmp_path / "go-on").touch()  # it was heard of before there was more
    assert shown == b"first\nsecond\n"
    assert isinstance(event, Ended)
    assert event.command["exit_code"] == 3


def test_a_large_file_goes_straight_through_both_ways(proxied, client, tmp_path):
    content = os.urandom(1024) * (FILE_BYTES // 1024)
    file = f"/machines/{proxied.machine}/files/{{}}?path={tmp_path}/large"
    key = {"Authorization": f"Bearer {proxied.key}"}
    with proxied.asking("PUT", file.format("upload"), content, **key) as answer:
        assert answer.status in (200, 201), answer.read()
    with proxied.asking("GET", file.format("download"), **key) as answer:
        # Meanwhile nobody reads the download, and nothing of it may be put aside.
        there = client.commands.run(proxied.machine, "sha256sum large", cwd=str(tmp_path))
        downloaded = hashlib.file_digest(answer, "sha256").hexdigest()
    assert there["stdout"].split() == [downloaded, "large"]
    assert downloaded == hashlib.sha256(content).hexdigest()
    assert "buffered to a temporary file" not in proxied.log.read_text()


def test_a_terminal_is_typed_into(proxied, client):
    opened = client.terminals.open(proxied.machine, argv=["sh"])
    shown = b""
    with client.terminals.attach(opened["id"]) as viewer:
        viewer.type(b"echo it-$((6 * 7)); exit 3\n")
        for event in viewer.events():
            if isinstance(event, terminal.Output):
                shown += event.data
    assert b"it-42" in shown
    assert isinstance(event, terminal.Ended)
    assert event.exit_code == 3


def test_a_browser_is_signed_in_by_a_cookie_that_only_https_carries(proxied, client):
    link = client.request("POST", "/sign-in-links")["data"]["token"]
    # As a browser that sends no Sec-Fetch-Site: its Origin must be the Host that the hub is told.
    browser = {"Origin": proxied.url, "Content-Type": "application/json"}
    with proxied.asking("POST", "/sign-ins", json.dumps({"link": link}), **browser) as answer:
        assert answer.status == 201, answer.read()
        cookie, *rules = answer.headers["Set-Cookie"].split("; ")
    assert cookie.startswith("__Host-cmdop=")
    assert "Secure" in rules
    browser["Cookie"] = cookie
    with proxied.asking("GET", "/sign-ins", **browser) as answer:
        (own,) = [each for each in json.load(answer)["data"] if each["current"]]
    assert own["ip"] == ELSEWHERE

    with connect(
        proxied.url.replace("https", "wss") + "/api/v1/live",
        ssl=proxied.tls,
        subprotocols=["cmdop.live.v1"],
        origin=proxied.url,
        additional_headers={"Cookie": cookie},
    ) as live:
        live.send(json.dumps({"type": "start", "after": None}))
        assert json.loads(live.recv(PATIENCE_S))["type"] == "hello"
