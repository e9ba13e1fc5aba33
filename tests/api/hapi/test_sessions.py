"""/api/sessions: coding sessions, from their start to their end."""

import pytest

from cmdop_appliance.api.fields import when
from cmdop_appliance.protocol.terminals import (
    TerminalEnd,
    TerminalEnded,
    TerminalWaiting,
)
from cmdop_appliance.store import machines, terminals, workspaces
from cmdop_appliance.store.listing import Paging
from tests.api.hapi.coding import in_worktree, plain_terminal, running, spawn
from tests.api.local_api import LocalApi
from tests.support import records
from tests.support.records import FACTS, REACH

TIMES = ("createdAt", "startedAt", "updatedAt", "activeAt")
NOWHERE = {"error": "Session not found", "code": "session_not_found"}


async def show(api: LocalApi, session_id: str):
    """A session's record, which the list has in the same form."""
    answer = await api.call("GET", f"/api/sessions/{session_id}")
    assert answer.status == 200, answer
    listed = (await api.call("GET", "/api/sessions")).json["sessions"]
    assert answer.json["session"] in listed
    return answer.json["session"]


async def recorded(live, link, message) -> None:
    """Return when what the machine says of a session is on disk."""
    with live.hub.bus.subscribe(terminals.subject_of(message.id)) as news:
        await link.say(message)
        await news.next()


async def test_a_session_is_shown_by_the_names_of_hapi(api, link, machine_id):
    asked, _ = await spawn(
        api,
        link,
        machine_id,
        in_worktree,
        agent="codex",
        model="gpt-5",
        yolo=True,
        sessionType="worktree",
        worktreeName="x",
    )
    session = await show(api, asked.id)
    times = {name: session.pop(name) for name in TIMES}
    assert all(isinstance(ms, int) for ms in times.values())
    assert session == {
        "id": asked.id,
        "namespace": "default",
        "active": True,
        "thinking": True,
        "waiting": False,
        "staleSince": None,
        "status": "running",
        "model": "gpt-5",
        "metadata": {
            "name": f"codex-{asked.id[-6:].lower()}",
            "path": "/src-worktrees/x",
            "host": FACTS.hostname,
            "machineId": machine_id,
            "flavor": "codex",
            "model": "gpt-5",
            "yolo": True,
            "worktree": {
                "basePath": "/src",
                "worktreePath": "/src-worktrees/x",
                "branch": "cmdop-x",
                "name": "x",
            },
        },
        "end": None,
        "exitCode": None,
        "signal": None,
        "error": None,
    }


async def test_a_session_that_waits_for_somebody_says_so(live, api, link, machine_id):
    session_id = await running(api, link, machine_id)
    for on in (True, False):
        await recorded(live, link, TerminalWaiting(session_id, on))
        session = await show(api, session_id)
        assert (session["waiting"], session["thinking"]) == (on, not on)


async def test_a_session_ends_with_its_exit_code_and_is_listed_behind_those_that_run(
    live, api, link, machine_id
):
    over, runs = [await running(api, link, machine_id) for _ in range(2)]
    newest = await running(api, link, machine_id)
    await recorded(live, link, TerminalEnded(newest, "exited", exit_code=3))
    session = await show(api, newest)
    assert (session["active"], session["thinking"], session["status"]) == (False, False, "ended")
    assert (session["end"], session["exitCode"]) == ("exited", 3)
    listed = (await api.call("GET", "/api/sessions")).json["sessions"]
    assert [each["id"] for each in listed] == [runs, over, newest]


async def test_what_is_no_coding_session_is_none(live, api, link, machine_id):
    opened = await plain_terminal(live, link, machine_id)
    assert (await api.call("GET", "/api/sessions")).json == {"sessions": []}
    for session_id in (opened, "session_x", "sess_x", link.session_id):
        for method in ("GET", "DELETE"):
            answer = await api.call(method, f"/api/sessions/{session_id}")
            assert (answer.status, answer.json) == (404, NOWHERE)
    await link.heartbeat()  # and the machine has heard of nothing


async def test_a_session_of_a_machine_that_was_removed_is_shown_on(api, link, machine_id):
    session_id = await running(api, link, machine_id)
    assert (await api.call("DELETE", f"/machines/{machine_id}")).status == 200
    session = await show(api, session_id)
    assert (session["active"], session["end"]) == (False, "lost")
    assert session["metadata"]["host"] == FACTS.hostname


# ── ended on request ─────────────────────────────────────────────────────────────────────────────


async def test_a_session_is_ended_by_its_machine(live, api, link, machine_id):
    session_id = await running(api, link, machine_id)
    answer = await api.call("DELETE", f"/api/sessions/{session_id}")
    assert (answer.status, answer.json) == (200, {"ok": True})
    assert (await link.expect(TerminalEnd)).id == session_id
    ended = TerminalEnded(session_id, "cancelled", exit_code=129, signal="SIGHUP")
    await recorded(live, link, ended)
    session = await show(api, session_id)
    assert (session["end"], session["signal"]) == ("cancelled", "SIGHUP")
    again = await api.call("DELETE", f"/api/sessions/{session_id}")
    assert (again.status, again.json["code"]) == (409, "terminal_ended")
    assert again.json["error"] == "Session is inactive"


async def test_a_session_of_a_machine_that_is_away_says_so_and_may_be_ended_too(
    live, api, link, machine_id
):
    session_id = await running(api, link, machine_id)
    await link.cut()
    (machine,) = (await live.hub.store.run(machines.page, REACH, Paging())).items
    session = await show(api, session_id)
    assert session["staleSince"] == machine.last_seen_ms
    assert (session["active"], session["thinking"]) == (True, False)
    terminal = (await api.call("GET", f"/terminals/{session_id}")).json["data"]
    assert terminal["stale_since"] == when(machine.last_seen_ms)
    answer = await api.call("DELETE", f"/api/sessions/{session_id}")
    assert (answer.status, answer.json) == (200, {"ok": True})


async def test_an_observer_ends_no_session(api, link, machine_id):
    session_id = await running(api, link, machine_id)
    await api.call("POST", f"/sessions/{link.session_id}/attach", {"mode": "observer"})
    answer = await api.call("DELETE", f"/api/sessions/{session_id}")
    assert (answer.status, answer.json["code"]) == (403, "forbidden")
    assert answer.json["error"].endswith("only look: detach, or attach as an operator")
    await link.heartbeat()
    assert (await show(api, session_id))["active"]


# ── for whom it is there ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_another_namespaces_session_is_forbidden_and_one_out_of_reach_is_not_there(
    live, api, link, machine_id, method
):
    session_id = await running(api, link, machine_id)
    key = records.api_key(id="key_far", workspace_id="ws_other", namespace="other")
    await live.hub.store.run(workspaces.insert, key, "hash")
    far = await LocalApi.of(live.hub, workspace_id="ws_other", namespace="other", id="key_2")
    tagged = await LocalApi.of(live.hub, id="key_web", tags=["web"])
    answer = await far.call(method, f"/api/sessions/{session_id}")
    assert (answer.status, answer.json["error"]) == (403, "Session access denied")
    answer = await tagged.call(method, f"/api/sessions/{session_id}")
    assert (answer.status, answer.json) == (404, NOWHERE)
    for by in (far, tagged):
        assert (await by.call("GET", "/api/sessions")).json == {"sessions": []}
    await link.heartbeat()
