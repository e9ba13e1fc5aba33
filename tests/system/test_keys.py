"""API keys and workspaces as their owners see them: contract.md §1 and §8."""

import time
from contextlib import closing
from datetime import datetime
from itertools import count

import apsw
import pytest

from cmdop_appliance import __version__
from cmdop_appliance.store.engine import DATABASE_FILE
from tests.support.appliance import (
    Api,
    running_agent,
    running_hub,
    wait_for,
)

_numbers = count()
DAY_S = 86_400


def made_by(api: Api, **fields: object) -> tuple[Api, dict]:
    """A new key: the API by it, and its record."""
    body = {"name": f"key-{next(_numbers)}", "scopes": ["admin"], **fields}
    made = api.post("/api-keys", **body)
    return Api(api.url, made["key"]), made


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def forbidden(api: Api, path: str, **fields: object) -> dict:
    answer = api.call("POST", path, fields)
    assert (answer.status, answer.error["code"]) == (403, "forbidden"), answer
    return answer.error


# ── who am I ─────────────────────────────────────────────────────────────────────────────────────


def test_a_key_knows_what_it_is(hub):
    reader, made = made_by(
        hub.api, name="ci bot", scopes=["machines:read"], tags=["web", "eu"], expires_in_days=3
    )
    assert reader.get("/auth/me") == {
        "id": made["id"],
        "email": "ci-bot@default",
        "name": "ci bot",
        "permissions": ["machines:read"],
        "workspace": {"id": "ws_default", "namespace": "default"},
        "tags": ["web", "eu"],
        "expires_at": made["expires_at"],
        "sign_in_id": None,
        "hub_version": __version__,
    }
    assert seconds(made["expires_at"]) - seconds(made["created_at"]) == 3 * DAY_S
    mine = hub.api.get("/auth/me")
    assert (mine["tags"], mine["expires_at"]) == ([], None)


def test_a_key_is_shown_without_its_secret_and_with_its_last_use(hub):
    api, made = made_by(hub.api)
    shown = hub.api.get(f"/api-keys/{made['id']}")
    assert (shown["last_used_at"], shown["last_used_ip"]) == (None, None)
    assert "key" not in shown
    used = api.call("GET", "/auth/me").json["meta"]["timestamp"]

    def is_noted():
        return hub.api.get(f"/api-keys/{made['id']}")["last_used_at"]

    assert abs(seconds(wait_for(is_noted, "the use is noted")) - seconds(used)) < 60
    shown = hub.api.get(f"/api-keys/{made['id']}")
    assert shown["last_used_ip"] == "127.0.0.1"
    assert shown in hub.api.get("/api-keys?limit=100")


def test_the_last_use_survives_a_restart(tmp_path):
    with running_hub(tmp_path) as hub:
        api, made = made_by(hub.api)
        api.get("/auth/me")
        hub.stop()  # writes what was not written
        hub.start()
        assert hub.api.get(f"/api-keys/{made['id']}")["last_used_at"] is not None


# ── never wider ──────────────────────────────────────────────────────────────────────────────────


def test_what_a_restricted_key_makes_has_its_tags(hub):
    web, _ = made_by(hub.api, tags=["web"])
    assert made_by(web)[1]["tags"] == ["web"]
    assert made_by(web, tags=["eu", "web", "eu"])[1]["tags"] == ["eu", "web"]
    assert web.post("/enrollment-tokens")["tags"] == ["web"]
    assert web.post("/enrollment-tokens", tags=["web", "x"])["tags"] == ["web", "x"]
    for tags in ([], ["eu"], ["WEB"], ["web2"]):
        error = forbidden(web, "/api-keys", name="x", scopes=["admin"], tags=tags)
        assert error["details"] == {"missing_tags": ["web"]}
        assert "web" in error["message"]
        forbidden(web, "/enrollment-tokens", tags=tags)


def test_tags_must_be_tags(hub):
    answer = hub.api.call("POST", "/api-keys", {"name": "x", "scopes": ["admin"], "tags": ["a b"]})
    assert (answer.status, answer.error["code"]) == (422, "validation_failed")


def test_a_restricted_key_knows_only_keys_and_tokens_within_it(hub):
    web, _ = made_by(hub.api, tags=["web"])
    both, inside = made_by(hub.api, tags=["eu", "web"])
    outside = [hub.api.get("/auth/me")["id"], *(made_by(hub.api, tags=[t])[1]["id"] for t in "ab")]
    outside.append(made_by(hub.api, tags=["WEB"])[1]["id"])
    seen = [key["id"] for key in web.get("/api-keys?limit=100")]
    assert inside["id"] in seen
    assert not set(seen) & set(outside)
    for key_id in outside:
        assert web.call("GET", f"/api-keys/{key_id}").status == 404
        assert web.call("DELETE", f"/api-keys/{key_id}").status == 404
        assert hub.api.get(f"/api-keys/{key_id}")["id"] == key_id
    token, hidden = (hub.api.post("/enrollment-tokens", tags=tags) for tags in (["web"], ["b"]))
    listed = [item["id"] for item in web.get("/enrollment-tokens?limit=100")]
    assert token["id"] in listed
    assert hidden["id"] not in listed
    assert web.call("DELETE", f"/enrollment-tokens/{hidden['id']}").status == 404
    assert web.delete(f"/enrollment-tokens/{token['id']}") == {"deleted": True}
    assert web.delete(f"/api-keys/{inside['id']}") == {"deleted": True}
    assert both.call("GET", "/auth/me").status == 401


def test_a_key_that_expires_makes_none_that_lives_longer(hub):
    brief, made = made_by(hub.api, expires_in_days=2)
    assert made_by(brief)[1]["expires_at"] == made["expires_at"]
    one_day = made_by(brief, expires_in_days=1)[1]
    assert seconds(one_day["expires_at"]) < seconds(made["expires_at"])
    for days in (2, 3, 36_500):
        error = forbidden(brief, "/api-keys", name="x", scopes=["admin"], expires_in_days=days)
        assert error["details"] == {"expires_at": made["expires_at"]}


def test_a_key_of_few_scopes_makes_no_key_at_all(hub):
    few, _ = made_by(hub.api, scopes=["machines:write"])
    forbidden(few, "/api-keys", name="x", scopes=["machines:write"])


def test_the_last_admin_key_without_expiry_and_tags_stays(tmp_path):
    with running_hub(tmp_path) as hub:
        admin = hub.api.get("/auth/me")["id"]
        made_by(hub.api, expires_in_days=1)
        made_by(hub.api, tags=["web"])
        made_by(hub.api, scopes=["machines:read"])
        hub.api.post("/workspaces", namespace="other")
        answer = hub.api.call("DELETE", f"/api-keys/{admin}")
        assert (answer.status, answer.error["code"]) == (409, "conflict")
        successor, _ = made_by(hub.api)
        assert successor.delete(f"/api-keys/{admin}") == {"deleted": True}
        assert hub.api.call("GET", "/auth/me").status == 401


def test_a_wrong_key_a_revoked_one_and_an_expired_one_are_answered_alike(hub):
    revoked, made = made_by(hub.api)
    hub.api.delete(f"/api-keys/{made['id']}")
    wrong = Api(hub.api.url, "cmdop_apikey_" + "x" * 43)
    answers = [api.call("GET", "/auth/me") for api in (revoked, wrong)]
    assert [answer.status for answer in answers] == [401, 401]
    assert answers[0].error == answers[1].error
    names = [set(answer.headers) for answer in answers]
    assert names[0] == names[1]


@pytest.mark.slow
def test_a_busy_stream_ends_when_its_key_expires(tmp_path):
    with running_hub(tmp_path) as hub, running_agent(hub, tmp_path, "busy") as agent:
        brief, made = made_by(hub.api, expires_in_days=1)
        hub.stop()
        expires_ms = int(time.time() * 1000) + 8000
        with closing(apsw.Connection(str(hub.data_dir / DATABASE_FILE))) as store:
            store.execute(
                "UPDATE api_key SET expires_ms = ? WHERE id = ?", (expires_ms, made["id"])
            )
        hub.start()
        agent.wait_connected(hub)
        talk = "i=0; while [ $i -lt 1500 ]; do echo $i; i=$((i+1)); sleep 0.02; done"
        command_id = hub.api.start(agent.machine_id, talk)
        names = [event.name for event in brief.events(command_id)]
        assert set(names) == {"stdout"}  # and no end: the hub broke it off
        assert hub.api.get(f"/commands/{command_id}")["status"] == "running"
        assert brief.call("GET", "/auth/me").status == 401


# ── workspaces ───────────────────────────────────────────────────────────────────────────────────


def test_a_workspace_is_made_with_its_admin_key_and_is_empty(hub, agent):
    made = hub.api.post("/workspaces", namespace="acme")
    assert made["namespace"] == "acme"
    key = made["api_key"]
    assert (key["scopes"], key["tags"], key["expires_at"]) == (["admin"], [], None)
    acme = Api(hub.api.url, key["key"])
    me = acme.get("/auth/me")
    assert me["workspace"] == {"id": made["id"], "namespace": "acme"}
    assert me["email"] == "admin@acme"
    assert acme.get("/machines") == acme.get("/commands") == acme.get("/enrollment-tokens") == []
    assert [item["id"] for item in acme.get("/api-keys")] == [key["id"]]
    assert acme.call("GET", f"/machines/{agent.machine_id}").status == 404
    assert acme.call("DELETE", f"/api-keys/{hub.api.get('/auth/me')['id']}").status == 404
    assert acme.call("DELETE", f"/api-keys/{key['id']}").status == 409  # its last admin key
    listed = {item["namespace"]: item["id"] for item in hub.api.get("/workspaces?limit=100")}
    assert (listed["default"], listed["acme"]) == ("ws_default", made["id"])


def test_a_machine_belongs_to_the_workspace_of_its_token(hub, place):
    made = hub.api.post("/workspaces", namespace="theirs")
    theirs = Api(hub.api.url, made["api_key"]["key"])
    token = theirs.post("/enrollment-tokens")["token"]
    with running_agent(hub, place, "theirs", token=token, api=theirs) as agent:
        assert theirs.run(agent.machine_id, "echo hi")["stdout"] == "hi\n"
        assert hub.api.call("GET", f"/machines/{agent.machine_id}").status == 404
        assert agent.machine_id not in [machine["id"] for machine in hub.api.get("/machines")]


def test_a_namespace_is_taken_once(hub):
    hub.api.post("/workspaces", namespace="taken")
    for namespace in ("taken", "default"):
        answer = hub.api.call("POST", "/workspaces", {"namespace": namespace})
        assert (answer.status, answer.error["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    "namespace", ["", "A", "a b", "-a", "a-", "a.b", "a:b", "a" * 64, "ä", "a\n"]
)
def test_a_namespace_is_a_label(hub, namespace):
    answer = hub.api.call("POST", "/workspaces", {"namespace": namespace})
    assert (answer.status, list(answer.error["details"])) == (422, ["namespace"])


def test_only_the_owner_of_the_hub_makes_and_sees_workspaces(hub):
    other = hub.api.post("/workspaces", namespace="guests")
    restricted, _ = made_by(hub.api, tags=["web"])
    for api in (Api(hub.api.url, other["api_key"]["key"]), restricted):
        forbidden(api, "/workspaces", namespace="more")
        assert api.call("GET", "/workspaces").status == 403
    brief, _ = made_by(hub.api, expires_in_days=1)
    forbidden(brief, "/workspaces", namespace="more")
    assert brief.call("GET", "/workspaces").status == 200
    assert "more" not in [item["namespace"] for item in hub.api.get("/workspaces?limit=100")]
