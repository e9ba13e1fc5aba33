"""`cmdop mcp`: lines from an MCP client, and what the hub says to them."""

import io
import json
import subprocess
import sys
from threading import Event

from cmdop_appliance.cli.main import main
from cmdop_appliance.cli.mcp import _LINE_BYTES
from tests.sdk.scripted_hub import Answer, http, scripted_hub

PING = b'{"jsonrpc":"2.0","id":%d,"method":"ping"}\n'


def answers(out):
    """What was said, by the id that it is said to."""
    said = [json.loads(line) for line in out.splitlines()]
    return {each["id"]: each.get("error", {}).get("code", each.get("result")) for each in said}


def test_a_client_talks_with_a_hub_and_learns_nothing_of_what_it_does_not_ask(hub, agent):
    agent.wait_connected(hub)
    arguments = {"machine_id": agent.machine_id, "command": "echo hello"}
    client = [
        {"id": 0, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}},
        {"method": "notifications/initialized"},
        {
            "id": "a",
            "method": "tools/call",
            "params": {"name": "run_command", "arguments": arguments},
        },
        {"id": "b", "result": {}},
    ]
    lines = b"".join(json.dumps({"jsonrpc": "2.0", **each}).encode() + b"\n" for each in client)
    done = subprocess.run(
        [sys.executable, "-m", "cmdop_appliance", "mcp"],
        input=lines,
        capture_output=True,
        env={"CMDOP_URL": hub.api.url, "CMDOP_API_KEY": hub.api.key},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    said = answers(done.stdout)
    assert said.keys() == {0, "a"}
    assert said[0]["protocolVersion"] == "2025-06-18"
    assert said["a"]["structuredContent"]["stdout"] == "hello\n"


def test_garbage_is_told_as_what_it_is_and_the_next_line_is_read(hub, command_line):
    long = b'{"id":1,"method":"' + b"x" * 3 * _LINE_BYTES + b'"}\n'
    for line, code in (
        (b"\xff\n", -32700),
        (b"{\n", -32700),
        (b"[" * 100_000 + b"\n", -32700),
        (b"[%b]\n" % PING[:-1].replace(b"%d", b"1"), -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}\n', -32600),
        (long, -32600),
    ):
        exit_code, out, err = command_line(
            hub.api.url, hub.api.key, "mcp", stdin=line + b"\n" + PING % 7
        )
        assert (exit_code, err) == (0, "")
        assert answers(out) == {None: code, 7: {}}


def test_a_line_without_its_end_is_a_line(hub, command_line):
    assert answers(command_line(hub.api.url, hub.api.key, "mcp", stdin=(PING % 7)[:-1])[1]) == {
        7: {}
    }


def test_a_failure_of_the_hub_is_an_answer_with_what_can_be_done(hub, command_line):
    key = "cmdop_apikey_" + "x" * 43
    code, out, err = command_line(hub.api.url, key, "mcp", stdin=PING % 1 + PING % 2)
    assert (code, err) == (0, "")
    assert answers(out) == {1: -32000, 2: -32000}
    assert "CMDOP_API_KEY" in out
    assert key not in out
    code, out, _ = command_line("http://127.0.0.1:1", key, "mcp", stdin=PING % 1)
    assert answers(out) == {1: -32000}
    assert command_line("no address", key, "mcp")[0] == 2


def test_a_person_is_told_who_is_to_start_it(monkeypatch, capfd):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO()))
    assert main(["--hub", "http://127.0.0.1:1", "--key", "cmdop_apikey_x", "mcp"]) == 0
    out, err = capfd.readouterr()
    assert (out, "claude mcp add cmdop -- cmdop mcp" in err) == ("", True)


def test_a_request_waits_for_no_other(command_line):
    both = Event()

    def script(asked):
        number = json.loads(asked.body)["id"]
        if number == 2:
            both.set()
        assert both.wait(30)
        return http(200, json.dumps({"jsonrpc": "2.0", "id": number, "result": {}}).encode())

    with scripted_hub(script) as hub:
        out = command_line(hub.url, "cmdop_apikey_x", "mcp", stdin=PING % 1 + PING % 2)[1]
    assert answers(out) == {1: {}, 2: {}}


def test_a_request_to_a_hub_that_goes_away_is_the_same_request_when_it_is_back(command_line):
    keys = []

    def script(asked):
        keys.append(asked.headers["idempotency-key"])
        if len(keys) == 1:
            return Answer(b"", close=True)
        return http(200, b'{"jsonrpc":"2.0","id":1,"result":{}}')

    with scripted_hub(script) as hub:
        out = command_line(hub.url, "cmdop_apikey_x", "mcp", stdin=PING % 1)[1]
    assert (answers(out), len(keys), len(set(keys))) == ({1: {}}, 2, 1)
