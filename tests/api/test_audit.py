"""/audit: what callers did and were refused, by the API alone."""

import json

import pytest

from tests.support.appliance import Api, wait_for

SECRET = "s3cret-word"
KEY = "cmdop_apikey_" + "k" * 43
UNKNOWN = "mach_01JZZZZZZZZZZZZZZZZZZZZZZZ"


@pytest.fixture(scope="module")
def entries(hub):
    """What was recorded, oldest first, by filters as the API has them."""

    def find(**filters: str):
        query = "&".join(f"{name}={value}" for name, value in filters.items())
        found, has_more = [], True
        while has_more:
            path = f"/audit?limit=100&offset={len(found)}&sort=created_at&{query}"
            page = hub.api.call("GET", path).json
            found += page["data"]
            has_more = page["meta"]["has_more"]
        return found

    return find


def told(found) -> list[tuple[str, str, str]]:
    return [(entry["action"], entry["target"], entry["outcome"]) for entry in found]


def test_whatever_a_caller_makes_and_takes_away_is_recorded(hub, entries):
    me = hub.api.get("/auth/me")
    key = hub.api.post("/api-keys", name="bot", scopes=["machines:read"])
    token = hub.api.post("/enrollment-tokens", max_uses=3, tags=["a"])
    hub.api.delete(f"/enrollment-tokens/{token['id']}")
    hub.api.delete(f"/api-keys/{key['id']}")
    made = entries(target=key["id"]) + entries(target=token["id"])
    assert told(made) == [
        ("api_key.created", key["id"], "ok"),
        ("api_key.revoked", key["id"], "ok"),
        ("enrolment_token.created", token["id"], "ok"),
        ("enrolment_token.revoked", token["id"], "ok"),
    ]
    assert {entry["actor"] for entry in made} == {me["email"]}
    assert made[0]["details"] == {"name": "bot", "scopes": ["machines:read"], "tags": []}
    assert made[2]["details"] == {"max_uses": 3, "tags": ["a"]}


def test_the_first_entries_tell_how_the_hub_began(entries):
    first = entries()[:3]
    assert [entry["seq"] for entry in first] == [1, 2, 3]
    assert {entry["actor"] for entry in first} == {"hub"}
    assert [entry["action"] for entry in first] == [
        "api_key.created",
        "hub.started",
        "enrolment_token.created",  # of the banner
    ]


def test_a_command_is_recorded_without_a_word_of_it(hub, agent, entries):
    command = hub.api.run(
        agent.machine_id,
        f"cat; echo {SECRET}",
        env={"TOKEN": SECRET},
        stdin=SECRET,
        cwd="/tmp",
    )
    assert SECRET in command["stdout"]
    hub.api.post("/commands/batch", machine_ids=[agent.machine_id], command=f"echo {SECRET}")
    (entry,) = entries(target=command["id"])
    assert told([entry]) == [("command.accepted", command["id"], "ok")]
    assert entry["details"] == {"machine_id": agent.machine_id}
    assert SECRET not in json.dumps(entries())


def test_a_request_that_is_sent_again_is_recorded_once(hub, entries):
    headers = {"Idempotency-Key": "audit", "Content-Type": "application/json"}
    body = {"name": "once", "scopes": ["machines:read"]}
    first, second = (
        hub.api.call("POST", "/api-keys", json.dumps(body), headers=headers).data for _ in range(2)
    )
    assert first["id"] == second["id"]
    assert len(entries(target=first["id"])) == 1


def test_what_is_not_there_or_not_well_formed_is_not_recorded(hub, entries):
    before = entries()
    assert hub.api.call("DELETE", "/api-keys/key_none").status == 404
    assert hub.api.call("POST", "/api-keys", {"name": ""}).status == 422
    assert Api(hub.api.url, "cmdop_apikey_" + "x" * 43).call("GET", "/audit").status == 401
    assert entries() == before


@pytest.mark.parametrize(
    ("method", "path", "body", "route", "target", "why"),
    [
        ("DELETE", f"/machines/{UNKNOWN}", None, "delete_machine", UNKNOWN, "machines:write"),
        ("DELETE", "/machines/mach_x", None, "delete_machine", "", "machines:write"),
        ("DELETE", f"/api-keys/{KEY}", None, "delete_api_key", "", "admin"),
        ("POST", "/commands", {"command": SECRET}, "run_command", "", "commands:execute"),
        ("GET", "/audit", None, "list_audit", "", "admin"),
        ("DELETE", "/commands/no%20id%21", None, "cancel_command", "", "commands:execute"),
        ("DELETE", f"/files?machine_id={UNKNOWN}", None, "delete_file", UNKNOWN, "files:write"),
        ("DELETE", f"/files?machine_id={KEY}", None, "delete_file", "", "files:write"),
        ("DELETE", "/files?path=/x", None, "delete_file", "", "files:write"),
    ],
)
def test_a_caller_who_was_refused_is_recorded(hub, entries, method, path, body, route, target, why):
    reader = hub.new_key("sessions:read")
    before = len(entries(outcome="refused"))
    assert reader.call(method, path, body).status == 403
    refused = entries(outcome="refused")[before:]
    assert told(refused) == [("call.refused", target, "refused")]
    assert refused[0]["actor"] == "sessions.read@default"
    assert refused[0]["details"] == {"route": route, "why": why}
    assert SECRET not in json.dumps(refused)
    assert KEY not in json.dumps(refused)


def test_a_key_that_is_refused_all_the_time_cannot_fill_the_log(hub, entries):
    bot = hub.api.post("/api-keys", name="hostile", scopes=["machines:read"])
    api = Api(hub.api.url, bot["key"])
    assert {api.call("GET", "/audit").status for _ in range(65)} == {403}
    refused = entries(actor="hostile@default", outcome="refused")
    assert 60 <= len(refused) <= 64  # 60 a minute; the minute may have ended meanwhile


def test_a_list_has_pages_and_filters(hub, entries):
    everything = entries()
    page = hub.api.call("GET", "/audit?limit=2&offset=1").json
    assert [entry["seq"] for entry in page["data"]] == [
        everything[-2]["seq"],
        everything[-3]["seq"],
    ]
    assert page["meta"]["total"] == len(everything)
    for name in ("action", "actor", "target", "outcome"):
        value = everything[0][name]
        expected = [entry for entry in everything if entry[name] == value]
        assert entries(**{name: value}) == expected
    since = everything[2]["at"]
    assert entries(since=since) == [entry for entry in everything if entry["at"] >= since]
    assert entries(actor="nobody") == []


def test_a_workspace_sees_its_own_entries_and_can_prove_the_whole_log(hub, entries):
    made = hub.api.post("/workspaces", namespace="other")
    other = Api(hub.api.url, made["api_key"]["key"])
    key = other.post("/api-keys", name="theirs", scopes=["machines:read"])
    assert told(other.get("/audit")) == [("api_key.created", key["id"], "ok")]
    assert entries(target=key["id"]) == []
    assert "workspace.created" in {entry["action"] for entry in entries()}
    proof = other.get("/audit/verify")
    assert (proof["ok"], proof["witnesses"]) == (True, [])
    assert proof["entries"] > 1


def test_a_key_for_some_machines_does_not_read_the_log_of_all(hub):
    made = hub.api.post("/api-keys", name="few", scopes=["admin"], tags=["prod"])
    few = Api(hub.api.url, made["key"])
    for path in ("/audit", "/audit/verify"):
        assert few.call("GET", path).error["code"] == "forbidden"


def test_the_log_of_a_hub_is_whole_and_its_machines_say_so(hub, agent, entries):
    newest = hub.api.get("/audit?limit=1")[0]
    proof = hub.api.get(f"/audit/verify?head={newest['seq']}:{newest['hash']}")
    assert (proof["ok"], proof["given_agrees"], proof["first_bad"]) == (True, True, None)
    assert proof["entries"] == proof["head"]["seq"]
    wrong = hub.api.get(f"/audit/verify?head={newest['seq']}:{'0' * 64}")
    assert (wrong["ok"], wrong["given_agrees"]) == (False, False)
    wait_for((agent.state_dir / "audit.head").exists, "the agent remembers the log")
    agent.stop()
    agent.rejoin(hub)
    (witness,) = wait_for(lambda: hub.api.get("/audit/verify")["witnesses"], "it is a witness")
    assert (witness["machine_id"], witness["agrees"]) == (agent.machine_id, True)
