"""/api/machines: who is online, and what a machine is told to start."""

import pytest
import trio

from cmdop_appliance.protocol.limits import PATH_BYTES
from cmdop_appliance.protocol.messages import Bye
from cmdop_appliance.protocol.terminals import Coding, Size, TerminalOpen
from cmdop_appliance.store import workspaces
from tests.api.hapi.coding import failed, in_worktree, opened, spawn
from tests.api.local_api import LocalApi
from tests.support import records
from tests.support.live_hub import ScriptedAgent
from tests.support.records import FACTS

OTHER = "ws_other"
OFFLINE = {"error": "Not connected", "code": "unavailable"}


async def elsewhere(live) -> LocalApi:
    """An admin of another workspace."""
    key = records.api_key(id="key_far", workspace_id=OTHER, namespace="other")
    await live.hub.store.run(workspaces.insert, key, "hash")
    return await LocalApi.of(live.hub, workspace_id=OTHER, namespace="other", id="key_2")


# ── who is online ────────────────────────────────────────────────────────────────────────────────


async def test_a_machine_is_shown_by_the_names_of_hapi(api, scripted, machine_id):
    machine = await scripted.machine()
    answer = await api.call("GET", "/api/machines")
    assert answer.status == 200
    assert answer.json == {
        "machines": [
            {
                "id": machine_id,
                "namespace": "default",
                "active": True,
                "activeAt": machine.last_seen_ms,
                "createdAt": machine.created_ms,
                "lastSeen": machine.last_seen_ms,
                "metadata": {
                    "hostname": FACTS.hostname,
                    "host": FACTS.hostname,
                    "displayName": machine.name,
                    "platform": FACTS.platform,
                    "version": FACTS.agent_version,
                    "happyCliVersion": FACTS.agent_version,
                    "homeDir": FACTS.home,
                },
            }
        ]
    }


async def test_only_machines_that_are_online_and_in_reach_are_listed(live, api, link, machine_id):
    away = await ScriptedAgent(live).join()
    await away.say(Bye())
    await away.closed()
    await api.call("PATCH", f"/machines/{machine_id}", {"tags": ["db"]})

    async def ids(by: LocalApi) -> list[str]:
        return [each["id"] for each in (await by.call("GET", "/api/machines")).json["machines"]]

    assert await ids(api) == [machine_id]
    assert await ids(await LocalApi.of(live.hub, id="key_db", tags=["db"])) == [machine_id]
    assert await ids(await LocalApi.of(live.hub, id="key_web", tags=["web"])) == []
    assert await ids(await elsewhere(live)) == []


# ── what a machine is told ───────────────────────────────────────────────────────────────────────


async def test_a_session_is_started_as_it_was_asked_for(api, link, machine_id):
    asked, answer = await spawn(
        api, link, machine_id, agent="codex", model="gpt-5", yolo=True, directory="~/src"
    )
    assert asked.what == Coding(directory="~/src", flavour="codex", model="gpt-5", yolo=True)
    assert asked.size == Size(80, 24)
    assert asked.operator == "ci@default"
    assert (answer.status, answer.json) == (
        200,
        {"success": True, "type": "success", "sessionId": asked.id},
    )
    assert asked.id.startswith("session_")


@pytest.mark.parametrize("body", [{}, {"worktreeName": "x"}, dict.fromkeys(["agent", "model"])])
async def test_what_is_not_said_is_claude_in_the_directory_itself(api, link, machine_id, body):
    asked, _ = await spawn(api, link, machine_id, **body)
    assert asked.what == Coding(directory="/src", flavour="claude")


async def test_a_session_may_have_a_worktree_of_its_own(api, link, machine_id):
    asked, answer = await spawn(
        api, link, machine_id, in_worktree, sessionType="worktree", worktreeName="feature/auth"
    )
    assert asked.what.worktree == "feature/auth"
    assert answer.json["success"] is True


async def test_an_agent_that_a_machine_adds_by_itself_is_started(api, link, machine_id):
    asked, answer = await spawn(api, link, machine_id, agent="aider")
    assert asked.what.flavour == "aider"
    assert answer.json["success"] is True


async def test_the_same_request_again_starts_no_second_session(api, link, machine_id):
    path, body = f"/api/machines/{machine_id}/spawn", {"directory": "/src"}
    answers = []

    async def ask() -> None:
        answers.append(await api.call("POST", path, body, once="k"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await link.say(opened(await link.expect(TerminalOpen)))
    await ask()
    await link.heartbeat()  # and the machine has heard of nothing since
    assert answers[0].json == answers[1].json
    other = await api.call("POST", path, {"directory": "/other"}, once="k")
    assert (other.status, other.json["code"]) == (409, "idempotency_conflict")


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", ["not_installed", "not_a_repository", "policy_denied", "too_many"])
async def test_what_the_machine_refuses_is_an_answer_with_its_reason(api, link, machine_id, code):
    reason = "claude is not installed on nas: looked in /usr/bin"
    asked, answer = await spawn(api, link, machine_id, failed(code, reason))
    assert answer.status == 200
    assert answer.json == {"success": False, "type": "error", "error": reason, "message": reason}
    (session,) = (await api.call("GET", "/api/sessions")).json["sessions"]
    assert (session["id"], session["active"]) == (asked.id, False)
    assert session["error"] == {"code": code, "message": reason}


async def test_an_agent_that_the_machine_does_not_know_is_a_bad_request(api, link, machine_id):
    reason = "this machine knows no agent 'emacs', only claude"
    _, answer = await spawn(api, link, machine_id, failed("unknown_flavour", reason), agent="emacs")
    assert (answer.status, answer.json["code"]) == (400, "validation_failed")
    assert reason in answer.json["error"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("directory", value) for value in (None, "", "a\0b", "/" * (PATH_BYTES + 1), 1)),
        *(("agent", value) for value in ("", "x\x1b[31m", ["claude"])),
        *(("model", value) for value in ("", "x" * 256)),
        ("yolo", "yes"),
        ("sessionType", "room"),
        *(("worktreeName", value) for value in (None, "", "x\n")),
    ],
)
async def test_a_body_of_another_form_is_a_bad_request(api, link, machine_id, field, value):
    body = {"directory": "/src", "sessionType": "worktree", "worktreeName": "x", field: value}
    answer = await api.call("POST", f"/api/machines/{machine_id}/spawn", body)
    assert (answer.status, answer.json["code"]) == (400, "validation_failed")
    assert answer.json["error"].startswith(f"Validation failed; {field}: ")
    await link.heartbeat()  # and the machine has heard of nothing


async def test_a_machine_that_is_away_is_not_connected(api, link, machine_id):
    await link.cut()
    answer = await api.call("POST", f"/api/machines/{machine_id}/spawn", {"directory": "/src"})
    assert (answer.status, answer.json) == (503, OFFLINE)
    assert (await api.call("GET", "/api/sessions")).json == {"sessions": []}


async def test_a_hub_that_is_stopping_is_not_connected(live, api, machine_id, autojump_clock):
    live.hub.bus.stop()
    answer = await api.call("POST", f"/api/machines/{machine_id}/spawn", {"directory": "/src"})
    assert (answer.status, answer.json) == (503, OFFLINE)


async def test_an_agent_of_an_earlier_release_is_said_to_be_one(live, api):
    agent = ScriptedAgent(live)
    await agent.join()
    machine_id = (await agent.machine()).id
    answer = await api.call("POST", f"/api/machines/{machine_id}/spawn", {"directory": "/src"})
    assert (answer.status, answer.json["success"]) == (200, False)
    assert answer.json["error"] == answer.json["message"]
    assert answer.json["error"].endswith(
        "install the hub's release there, and start the agent again"
    )
    assert (await api.call("GET", "/api/sessions")).json == {"sessions": []}


async def test_another_namespaces_machine_is_forbidden_and_no_machine_is_not_there(
    live, api, link, machine_id
):
    far = await elsewhere(live)
    tagged = await LocalApi.of(live.hub, id="key_web", tags=["web"])
    for by, of, status, error in (
        (far, machine_id, 403, "Machine access denied"),
        (tagged, machine_id, 404, "Machine not found"),
        (api, "mach_x", 404, "Machine not found"),
    ):
        answer = await by.call("POST", f"/api/machines/{of}/spawn", {"directory": "/src"})
        assert (answer.status, answer.json["error"]) == (status, error)
    await link.heartbeat()


async def test_an_observer_starts_nothing(live, api, link, machine_id):
    await api.call("POST", f"/sessions/{link.session_id}/attach", {"mode": "observer"})
    answer = await api.call("POST", f"/api/machines/{machine_id}/spawn", {"directory": "/src"})
    assert (answer.status, answer.json["code"]) == (403, "forbidden")
    await link.heartbeat()


async def test_a_session_that_was_recorded_as_the_hub_stopped_is_not_said_to_be_none(
    live, api, link, machine_id
):
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            asked.append(await link.expect(TerminalOpen))
            live.hub.bus.stop()

        asked: list[TerminalOpen] = []
        nursery.start_soon(stop)
        path = f"/api/machines/{machine_id}/spawn"
        answer = await api.call("POST", path, {"directory": "/src"})
    assert answer.status == 200
    spawned = {"success": True, "type": "success", "sessionId": asked[0].id}
    assert answer.json == spawned
