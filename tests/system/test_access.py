"""Who may join and who may call, and that no secret shows anywhere: contract.md §1 and §8."""

import json
import os
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import apsw
import pytest

from cmdop_appliance.store.engine import DATABASE_FILE
from tests.support.appliance import (
    Api,
    running_agent,
    running_hub,
    stopped_agent,
    stopped_hub,
    wait_for,
)


def _is_refused(hub, place, name, token):
    with stopped_agent(place, name) as agent:
        agent.begin(CMDOP_SERVER_URL=hub.api.url, CMDOP_JOIN_KEY=token)
        assert agent.wait_exit() == 2
        lines = agent.log.read_text().splitlines()
        assert "error: the hub refused the token: it is unknown, used up or expired" in lines
        assert lines[-1].startswith("hint: ")
        assert not (agent.state_dir / "hub.json").exists()


def test_a_token_lets_in_one_machine(hub, place):
    token = hub.new_token(tags=["web", "eu"])
    with running_agent(hub, place, "first", token=token) as agent:
        assert hub.api.get(f"/machines/{agent.machine_id}")["tags"] == ["web", "eu"]
        _is_refused(hub, place, "one-too-many", token)
    assert hub.api.get("/enrollment-tokens")[0]["uses"] == 1


def test_a_token_for_two_lets_in_two(hub, place):
    token = hub.new_token(max_uses=2)
    with ExitStack() as agents:
        joined = [
            agents.enter_context(running_agent(hub, place, name, token=token))
            for name in ("first-of-two", "second-of-two")
        ]
        assert len({agent.machine_id for agent in joined}) == 2
        _is_refused(hub, place, "third-of-two", token)


def test_an_expired_token_lets_nobody_in(hub, place):
    made = hub.api.post("/enrollment-tokens", ttl=1000)

    def is_over():  # by the hub's clock, as its answers tell it
        return hub.api.call("GET", "/auth/me").json["meta"]["timestamp"] > made["expires_at"]

    wait_for(is_over, "the token has expired")
    _is_refused(hub, place, "too-late", made["token"])


def test_a_revoked_token_lets_nobody_in(hub, place):
    made = hub.api.post("/enrollment-tokens")
    assert hub.api.delete(f"/enrollment-tokens/{made['id']}") == {"deleted": True}
    _is_refused(hub, place, "revoked", made["token"])


def test_a_token_of_another_hub_is_never_sent(hub, place, tmp_path):
    """It is pinned to the hub that made it: no other gets to see it."""
    with running_hub(tmp_path) as other, stopped_agent(place, "astray") as agent:
        agent.begin(CMDOP_SERVER_URL=hub.api.url, CMDOP_JOIN_KEY=other.new_token())
        wait_for(lambda: "it is another hub" in agent.log.read_text(), "the agent says so")
        assert agent.is_running
        assert hub.api.get("/machines?search=astray") == []


def test_a_key_can_do_what_its_scopes_say_and_stops_when_it_is_revoked(hub):
    made = hub.api.post("/api-keys", name="reader", scopes=["machines:read"])
    assert made["key"].startswith(made["key_prefix"])
    reader = Api(hub.api.url, made["key"])
    assert reader.get("/machines") == hub.api.get("/machines")
    me = reader.get("/auth/me")
    assert (me["id"], me["permissions"]) == (made["id"], ["machines:read"])
    answer = reader.call("DELETE", "/machines/mach_x")
    assert answer.status == 403
    assert answer.error["message"] == "Token lacks required permission: machines:write"
    shown = next(key for key in hub.api.get("/api-keys") if key["id"] == made["id"])
    last_use = {"last_used_at", "last_used_ip"}
    assert {**shown, "key": made["key"]}.keys() - last_use == made.keys()
    assert all(shown[name] == made[name] for name in shown.keys() - last_use)

    assert hub.api.delete(f"/api-keys/{made['id']}") == {"deleted": True}
    assert reader.call("GET", "/machines").status == 401


def test_the_last_admin_key_that_does_not_expire_cannot_be_revoked(hub):
    keys = hub.api.get("/api-keys?limit=100")
    (admin,) = (key for key in keys if "admin" in key["scopes"])
    answer = hub.api.call("DELETE", f"/api-keys/{admin['id']}")
    assert (answer.status, answer.error["code"]) == (409, "conflict")
    assert hub.api.call("GET", "/auth/me").status == 200


def test_an_expired_key_is_no_key(tmp_path):
    with stopped_hub(tmp_path) as hub:
        hub.start()
        made = hub.api.post("/api-keys", name="brief", scopes=["admin"], expires_in_days=1)
        brief = Api(hub.api.url, made["key"])
        assert brief.call("GET", "/auth/me").status == 200
        hub.stop()
        with closing(apsw.Connection(str(hub.data_dir / DATABASE_FILE))) as store:
            store.execute("UPDATE api_key SET expires_ms = created_ms WHERE id = ?", (made["id"],))
        hub.start()
        answer = brief.call("GET", "/auth/me")
        assert (answer.status, answer.error["code"]) == (401, "unauthorized")
        assert hub.api.call("GET", "/auth/me").status == 200


def test_no_secret_shows_in_a_process_a_log_or_the_store(tmp_path):
    with running_hub(tmp_path, config='[log]\nlevel = "debug"\n') as hub:
        token = hub.new_token()
        used = hub.new_key("commands:execute")
        with running_agent(hub, tmp_path, "secretive", token=token) as agent:
            used.run(agent.machine_id, "true")
            used.call("GET", f"/machines?token={used.key}")
            used.call("GET", f"/v1/no/such/{used.key}")
            Api(hub.api.url, f"{used.key}x").call("GET", "/machines")
            secrets = {
                "token": token,
                "key": used.key,
                "admin key": hub.api.key,
                **_of_a_browser(hub.api),
            }
            places = {f"cmdline of {pid}": text for pid, text in _each_process("cmdline")}
            for pid in (hub.pid, agent.keeper.pid):
                places[f"environ of {pid}"] = Path(f"/proc/{pid}/environ").read_bytes()
            environ = places[f"environ of {agent.keeper.pid}"]
            assert b"CMDOP" not in environ
            for log in (hub.log, agent.log, agent.state_dir / "keeper/keeper.err"):
                if log.exists():
                    places[str(log)] = log.read_bytes()
            hub.stop()
            for file in hub.data_dir.rglob("*"):
                if file.is_file() and file.name != "admin.key":
                    places[str(file)] = file.read_bytes()
            for name, secret in secrets.items():
                for where, text in places.items():
                    assert secret.encode() not in text, f"the {name} is in {where}"
            hub.start()
            agent.wait_connected(hub)


def _of_a_browser(api):
    """The secrets of a browser that signs in, which has also used its link wrongly."""
    link = api.post("/sign-in-links")["token"]
    ours = {"Sec-Fetch-Site": "same-origin"}
    api.call("GET", f"/sign-in?link={link}&token={link}", prefix="")
    made = api.call("POST", "/sign-ins", {"link": link}, headers=ours)
    api.call("POST", "/sign-ins", {"link": link}, headers=ours)
    cookie = made.headers["set-cookie"].partition(";")[0]
    nobody = Api(api.url, "")
    assert nobody.call("GET", "/auth/me", headers={"Cookie": cookie}).status == 200
    return {"link": link, "cookie": cookie.partition("=")[2]}


def _each_process(name):
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield entry.name, (entry / name).read_bytes()


def test_the_join_key_of_an_agent_reaches_none_of_its_commands(tmp_path):
    with (
        running_hub(tmp_path, "--local-agent", CMDOP_API_KEY="canary-key") as hub,
        running_agent(hub, tmp_path, "joined-by-environment") as agent,
    ):
        wait_for(lambda: len(hub.api.get("/machines?status=online")) == 2, "both are online")
        assert b"CMDOP_JOIN_KEY" in Path(f"/proc/{agent.pid}/environ").read_bytes()
        for machine in hub.api.get("/machines"):
            record = hub.api.run(machine["id"], "env; cat /proc/$PPID/environ /proc/$PPID/cmdline")
            names = {line.partition("=")[0] for line in record["stdout"].splitlines()}
            ours = {"CMDOP_COMMAND_ID", "CMDOP_OPERATOR"}
            assert {name for name in names if name.startswith("CMDOP")} == ours
            assert "canary" not in record["stdout"]
            assert "cmdop_enroll_" not in record["stdout"]
            assert "PYINSTALLER" not in record["stdout"]


def test_log_lines_of_the_hub_are_json(hub):
    hub.api.call("GET", "/no%0a/such%0aroute")
    for line in hub.log.read_text().splitlines():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))


def test_the_data_directory_of_another_user_is_not_taken(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can make a directory of another user")
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 12345, 12345)
    with stopped_hub(tmp_path) as hub, pytest.raises(AssertionError, match="uid 12345, not to us"):
        hub.start()
