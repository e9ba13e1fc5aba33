"""The answers have the shape that the published documents show: contract.md, first paragraph.

The examples are those of the documents, shortened. Extra keys are allowed, missing ones are not.
"""

import pytest

from tests.api.shapes import fits
from tests.support.appliance import running_agent, wait_for

LISTED_SESSION = {
    "session_id": "sess_abc123",
    "status": "CONNECTED",
    "machine_id": "mach_xyz789",
    "machine_hostname": "prod-server",
    "workspace_id": "ws_acme",
    "created_at": "2026-02-14T10:00:00Z",
    "connected_at": "2026-02-14T10:00:05Z",
    "last_heartbeat_at": "2026-02-14T10:30:00Z",
    "attached_clients": 2,
}
SESSION = {
    **LISTED_SESSION,
    "attached_clients": [],
    "telemetry": {"cpu_percent": 45.2, "memory_percent": 62.1, "disk_percent": 78.5},
}
LIVE_SESSION = {
    "session_id": "sess_abc123",
    "status": "CONNECTED",
    "machine_hostname": "prod-server",
    "connected_at": "2026-02-14T10:00:05Z",
}
SESSION_HISTORY = {
    "command_id": "cmd_111",
    "command": "ls -la",
    "exit_code": 0,
    "executed_at": "2026-02-14T10:15:00Z",
    "user_email": "[email protected]",
}
METRICS = {
    "session_id": "sess_abc123",
    "timestamp": "2026-02-14T10:30:00Z",
    "cpu_percent": 45.2,
    "memory_percent": 62.1,
    "disk_percent": 78.5,
    "network_rx_bytes": 1234567,
    "network_tx_bytes": 987654,
    "uptime_seconds": 123456,
}
MACHINE = {
    "id": "mach_abc123",
    "name": "prod-server",
    "status": "online",
    "os": "Debian GNU/Linux 12",
    "arch": "x86_64",
    "hostname": "prod-server",
    "tags": [],
    "agent_version": "0.1.0",
    "session_status": "CONNECTED",
    "grace_until": None,
    "load": {
        "at": "2026-02-14T10:30:00Z",
        "cpu_percent": 45.2,
        "memory_percent": 62.1,
        "disk_percent": 78.5,
        "network_rx_bytes": 1234567,
        "network_tx_bytes": 987654,
        "uptime_seconds": 123456,
    },
    "created_at": "2026-02-14T10:00:00Z",
    "last_seen": "2026-02-14T10:30:00Z",
}
COMMAND = {
    "id": "cmd_xyz789",
    "machine_id": "mach_abc123",
    "command": "ls -la /var/log",
    "stdout": "total 48\n",
    "stderr": "",
    "exit_code": 0,
    "duration": 150,
    "started_at": "2024-01-20T15:45:00Z",
    "finished_at": "2024-01-20T15:45:00Z",
    "status": "completed",
}
MACHINE_HISTORY = {
    "id": "cmd_xyz789",
    "command": "ls -la",
    "exit_code": 0,
    "duration": 150,
    "executed_at": "2024-01-20T15:45:00Z",
}
PAGE = {"total": 5, "limit": 20, "offset": 0, "has_more": False}
META = {"request_id": "req_abc123", "timestamp": "2026-02-14T10:30:00Z"}


@pytest.fixture(scope="module")
def agent(hub, place):
    with running_agent(hub, place, "prod-server") as agent:
        yield agent


@pytest.fixture(scope="module")
def command(hub, agent):
    return hub.api.run(agent.machine_id, "echo total 48", timeout=30000)


@pytest.fixture(scope="module")
def session_id(hub, agent, command):
    session_id = agent.wait_connected(hub)
    wait_for(lambda: hub.api.get(f"/sessions/{session_id}")["telemetry"], "there is a sample")
    return session_id


def _list(hub, path, example):
    answer = hub.api.call("GET", path)
    assert answer.data
    for item in answer.data:
        fits(item, example)
    fits(answer.json["meta"], {**META, **PAGE})
    return answer.data


def test_sessions(hub, agent, session_id, command):
    _list(hub, "/sessions?status=CONNECTED&limit=10", LISTED_SESSION)
    fits(hub.api.get(f"/sessions/{session_id}"), SESSION)
    fits(hub.api.get(f"/machines/{agent.machine_id}/session"), LIVE_SESSION)
    history = _list(hub, f"/sessions/{session_id}/history?limit=50", {"command_id": "cmd_111"})
    fits(next(c for c in history if c["command_id"] == command["id"]), SESSION_HISTORY)
    fits(hub.api.get(f"/sessions/{session_id}/metrics"), METRICS)
    missing = hub.api.call("GET", "/sessions/sess_invalid")
    assert missing.error == {
        "code": "session_not_found",
        "message": "Session not found",
        "details": {"session_id": "sess_invalid"},
    }


def test_sessions_are_filtered_by_each_parameter_and_by_several(hub, agent, session_id):
    hostname = hub.api.get(f"/sessions/{session_id}")["machine_hostname"]
    mine = f"machine_id={agent.machine_id}"
    for query, expected in (
        (mine, 1),
        (f"{mine}&status=CONNECTED&machine_hostname={hostname}", 1),
        (f"{mine}&status=ERROR", 0),
        ("status=PENDING", 0),
        ("machine_hostname=elsewhere", 0),
        ("machine_id=mach_x", 0),
    ):
        assert len(hub.api.get(f"/sessions?{query}")) == expected, query


def test_machines(hub, agent, session_id, command):
    for query in ("", "?status=online", "?search=ROD-serv", "?sort=hostname", "?sort=-last_seen"):
        _list(hub, f"/machines{query}", MACHINE)
    for query in ("?status=offline", "?search=elsewhere", "?search=%25", "?search=_"):
        assert hub.api.get(f"/machines{query}") == [], query
    detail = hub.api.get(f"/machines/{agent.machine_id}")
    fits(detail, {**MACHINE, "ip": "127.0.0.1"})
    assert detail["facts"]["cpu_cores"] >= 1
    history = _list(hub, f"/machines/{agent.machine_id}/commands?limit=100", {"id": "cmd_xyz789"})
    fits(next(c for c in history if c["id"] == command["id"]), MACHINE_HISTORY)


def test_commands(hub, agent, command):
    fits(command, COMMAND)
    fits(hub.api.get(f"/commands/{command['id']}"), COMMAND)
    begun = hub.api.post("/commands/async", machine_id=agent.machine_id, command="true")
    assert set(begun) == {"id", "status"}
    fits(begun, {"id": "cmd_xyz789", "status": "running"})
    hub.api.wait_end(begun["id"])
    batch = hub.api.post("/commands/batch", machine_ids=[agent.machine_id], command="false")
    fits(batch[agent.machine_id], {**COMMAND, "status": "failed"})
    fits(batch[agent.machine_id], {"batch_id": "batch_xyz", "queue": False, "late": False})
    found = hub.api.get(f"/commands/batch/{batch[agent.machine_id]['batch_id']}")
    assert found == batch
    assert {"supersede_key", "serial_key", "stale_since", "unknown_to_hub"} <= set(command)
    listed = _list(hub, f"/commands?machine_id={agent.machine_id}&status=completed", {"id": "cmd_"})
    assert command["id"] in [item["id"] for item in listed]
    cancelled = hub.api.start(agent.machine_id, "sleep 300")
    assert hub.api.delete(f"/commands/{cancelled}") == {"cancelled": True}
    hub.api.wait_end(cancelled)


def test_what_belongs_to_an_object_refuses_a_bad_query_too(hub, agent, session_id, command):
    for path, more in (
        (f"/machines/{agent.machine_id}/commands", ("since=yesterday", "since=2026-01-01")),
        (f"/sessions/{session_id}/history", ()),
        (f"/commands/{command['id']}/output", ("stream=both", "stream=", "offset=-1", "offset=x")),
    ):
        paging = () if path.endswith("output") else ("limit=0", "limit=x", "offset=-1", "sort=x")
        for query in (*paging, *more):
            answer = hub.api.call("GET", f"{path}?{query}")
            assert answer.status == 400, (path, query)
            assert answer.error["code"] == "invalid_request"
            assert query.partition("=")[0] in answer.error["message"]


def test_commands_are_filtered_by_each_parameter(hub, agent, command):
    for query, found in (
        (f"machine_id={agent.machine_id}", True),
        (f"session_id={command['session_id']}", True),
        ("batch_id=batch_x", False),
        ("status=completed", True),
        ("status=lost,completed", True),
        ("status=running,pending", False),
        (f"since={command['created_at']}", True),
        (f"status=completed&machine_id={agent.machine_id}&since=2020-01-01T00:00:00Z", True),
        ("machine_id=mach_x", False),
        ("session_id=sess_x", False),
        ("status=lost", False),
        ("since=2999-01-01T00:00:00Z", False),
    ):
        listed = hub.api.get(f"/commands?limit=100&{query}")
        assert (command["id"] in [item["id"] for item in listed]) is found, query


def test_keys_and_tokens(hub):
    made = hub.api.call(
        "POST", "/api-keys", {"name": "bot", "scopes": ["machines:read"], "expires_in_days": 1}
    )
    assert made.status == 201
    fits(
        made.data,
        {
            "id": "key_x",
            "name": "bot",
            "key": "cmdop_apikey_x",
            "key_prefix": "cmdop_apikey_",
            "scopes": [],
            "expires_at": "2026-02-14T10:30:00Z",
            "created_at": "2026-02-14T10:30:00Z",
        },
    )
    fits(hub.api.get("/auth/me"), {"id": "key_x", "email": "", "name": "", "permissions": []})
    token = hub.api.call("POST", "/enrollment-tokens", {})
    assert token.status == 201
    assert token.data["token"].startswith("cmdop_enroll_")
    assert (token.data["max_uses"], token.data["uses"]) == (1, 0)
