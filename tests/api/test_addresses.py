"""One spelling for each address: another one is not found, and reaches no handler."""

import socket

import pytest

from tests.support.appliance import PATIENCE_S, running_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with running_hub(tmp_path_factory.mktemp("addresses")) as hub:
        yield hub
    assert '"level": "error"' not in hub.log.read_text()


def _raw(hub, target, key="", method="GET"):
    """(status, body) of a request whose target is sent as it is."""
    head = f"{method} {target} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n"
    if key:
        head += f"Authorization: Bearer {key}\r\n"
    with socket.create_connection(hub.address, PATIENCE_S) as connection:
        connection.sendall(f"{head}\r\n".encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


SPELLINGS = [
    "//api/v1/machines",
    "/api//v1/machines",
    "/api/v1//machines",
    "/api/v1/machines/",
    "/api/v1/machines//",
    "/./api/v1/machines",
    "/api/./v1/machines",
    "/api/v1/./machines",
    "/api/v1/machines/.",
    "/api/v1/%2e/machines",
    "/api/v1/x/../machines",
    "/api/v1/x/%2e%2e/machines",
    "/api/v1/..%2fv1/machines",
    "/api/v1/machines/..",
    "/api/v1/machines;x",
    "/api/v1;x/machines",
    "/api/v1/machines;/session",
    "/api/v1/machines%2f",
    "/api/v1%2fmachines",
    "/api/v1/machines%00",
    "/api/v1/machines%20",
    "/api/v1/machines%0a",
    "/api/v1/machines%3Flimit=1",
    "/api/v1/machines\\",
    "/api/v1/machines/x\\..\\y",
    "/api/v1/machines/..%5cmachines",
    "/terminals/..%5C..%5Cx",
    "/terminals/..\\x",
    "/api/v1/machines.json",
    "/API/v1/machines",
    "/api/V1/machines",
    "/api/v1/Machines",
    "/api/v2/machines",
    "/api/v1machines",
    "/v1//machines",
    "//v1/machines",
    "/V1/machines",
    "/v1/machines/",
    "/machines",
    "/v1",
    "/v1/",
    "/api/v1",
    "/api/v1/",
    "/api/v1/api/v1/machines",
    "//",
    "/.",
    "/index.html",
    "/.git/config",
    "/static/",
    "/favicon.ico",
]


@pytest.mark.parametrize("target", SPELLINGS)
def test_another_spelling_is_not_found_with_or_without_a_key(hub, target):
    for key in (hub.api.key, ""):
        status, body = _raw(hub, target, key)
        assert status == 404, body
        assert b"not_found" in body
        assert b"Traceback" not in body


@pytest.mark.parametrize("target", SPELLINGS)
def test_another_spelling_of_the_hot_route_runs_nothing(hub, target):
    status, _ = _raw(hub, target.replace("achines", "ommands"), hub.api.key, "POST")
    assert status == 404


@pytest.mark.parametrize("prefix", ["/api/v1", "/v1"])
def test_both_prefixes_of_the_plane_are_the_same(hub, prefix):
    answer = hub.api.call("GET", f"{prefix}/auth/me")
    assert answer.data == hub.api.get("/auth/me")
    missing = hub.api.call("GET", f"{prefix}/no/such/route")
    assert missing.status == 404
    assert missing.error == {"code": "not_found", "message": "Not found", "details": {}}
    assert set(missing.json) == {"error", "meta"}


@pytest.mark.parametrize("path", ["/api/x", "/api/machines/x/y", "/api/", "/api", "/api/v11"])
def test_errors_beside_the_plane_are_bare(hub, path):
    for method in ("GET", "POST", "DELETE"):
        status, body = _raw(hub, path, hub.api.key, method)
        assert status == 404
        assert body == b'{"error":"Not found","code":"not_found"}'


def test_the_start_page_needs_no_key_and_loads_nothing(hub):
    status, body = _raw(hub, "/")
    assert status == 200
    assert b"<!doctype html>" in body
    for method in ("POST", "OPTIONS", "DELETE"):
        status, body = _raw(hub, "/", method=method)
        assert status == 405
        assert b"method_not_allowed" in body


@pytest.mark.parametrize("target", ["http://other/api/v1/auth/me", "*", "hub:80", "api/v1/auth/me"])
def test_a_target_of_another_form_reaches_no_handler(hub, target):
    for method in ("GET", "OPTIONS", "CONNECT"):
        status, body = _raw(hub, target, hub.api.key, method)
        assert 400 <= status < 500, body
        assert b"permissions" not in body


def test_two_content_lengths_or_a_bad_one_are_refused_before_any_handler(hub):
    for lengths in (("5", "6"), ("-1",), ("x",), ("5, 6",), ("1" * 30,)):
        head = "POST /v1/commands HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\n"
        head += "".join(f"Content-Length: {length}\r\n" for length in lengths)
        with socket.create_connection(hub.address, PATIENCE_S) as connection:
            connection.sendall(f"{head}\r\n{{}}xxx".encode())
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda c=connection: c.recv(65536), b""))
        assert not answer or answer.split()[1] in (b"400", b"413"), answer
