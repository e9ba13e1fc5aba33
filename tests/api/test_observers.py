"""Whoever may only look gets nothing onto a machine: contract.md §2, every way that there is.

Two kinds of observer: a key that may read sessions and no more, and a key that may do everything
but is attached to the machine's session as an observer.
"""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cmdop_appliance.api import app as app  # fills the registry
from cmdop_appliance.api.registry import CMDOP, HAPI, ROOT, ROUTES, SDK2
from tests.api.contract_table import ID, WEBHOOK, ask, error_of, expected, path_of
from tests.api.onlookers import mark, new_terminal, refusals
from tests.api.worlds import World
from tests.support.appliance import Api, Hub, running_agent, running_hub, stopped_agent, wait_for

# Each route that changes something, by what it does.
FILES = {  # puts, moves or takes away what stands on a machine
    (CMDOP, method, f"{files}{path}")
    for files in ("/files", "/machines/:id/files")
    for method, path in (
        ("PUT", "/content"),
        ("PUT", "/upload"),
        ("POST", "/upload"),
        ("DELETE", ""),
        ("POST", "/move"),
        ("POST", "/copy"),
        ("POST", "/mkdir"),
    )
}
OF_SCHEDULE = {  # has a say in what runs on a machine, now or at its time
    (CMDOP, "PATCH", "/schedules/:id"),
    (CMDOP, "DELETE", "/schedules/:id"),
    (CMDOP, "POST", "/schedules/:id/run"),
}
ENTERS = {  # types, runs, writes, resizes or signals on a machine
    (CMDOP, "POST", "/commands"),
    (CMDOP, "POST", "/commands/async"),
    (CMDOP, "POST", "/commands/batch"),
    (CMDOP, "POST", "/commands/batch/:id/resume"),
    (CMDOP, "DELETE", "/commands/:id"),
    (SDK2, "POST", "/admin/machines/:id/ask"),
    (CMDOP, "POST", "/machines/:id/terminals"),
    (CMDOP, "DELETE", "/terminals/:id"),
    (HAPI, "POST", "/api/machines/:id/spawn"),
    (HAPI, "DELETE", "/api/sessions/:id"),
    (CMDOP, "POST", "/schedules"),
    *OF_SCHEDULE,
    *FILES,
}
ASKS = {  # for something, though by POST
    (CMDOP, "POST", "/schedules/preview"),
    (HAPI, "POST", "/api/machines/:id/paths/exists"),
    (HAPI, "POST", "/api/auth"),
    (ROOT, "POST", "/mcp"),  # its tools ask the routes: see test_mcp.py
}
LOOKS = {  # what an observer does to be one, and to be none
    (CMDOP, "POST", "/sessions/:id/attach"),
    (CMDOP, "POST", "/sessions/:id/detach"),
    (CMDOP, "POST", "/terminals/:id/tickets"),
}
MANAGES = {  # about the hub's own records, whoever is attached to what
    (CMDOP, "PATCH", "/machines/:id"),
    (CMDOP, "DELETE", "/machines/:id"),
    (CMDOP, "POST", "/api-keys"),
    (CMDOP, "DELETE", "/api-keys/:id"),
    (CMDOP, "POST", "/enrollment-tokens"),
    (CMDOP, "DELETE", "/enrollment-tokens/:id"),
    (CMDOP, "POST", "/workspaces"),
    (CMDOP, "PUT", "/upgrades/bundle"),
    (CMDOP, "POST", "/webhooks"),
    (CMDOP, "PATCH", "/webhooks/:id"),
    (CMDOP, "DELETE", "/webhooks/:id"),
    (CMDOP, "POST", "/webhooks/:id/test"),
    (CMDOP, "POST", "/webhooks/:id/redeliver"),
    (CMDOP, "POST", "/webhooks/:id/deliveries/:delivery/redeliver"),
}
SIGNS = {  # a browser in and out, as the very key that asks
    (CMDOP, "POST", "/sign-ins"),
    (CMDOP, "DELETE", "/sign-ins/:id"),
    (CMDOP, "POST", "/sign-in-links"),
}
CHANGES = {
    (route.plane, route.method, route.path): route for route in ROUTES if route.method != "GET"
}
_numbers = count()


def stopped_batch(hub: Hub, machine_id: str, command: str) -> str:
    """A batch whose command on the machine was skipped and waits to be resumed."""
    ids = [machine_id, "mach_x"]
    batch = hub.api.post("/commands/batch", machine_ids=ids, command=command, max_errors=0)
    assert batch[machine_id]["status"] == "skipped"
    return str(batch[machine_id]["batch_id"])


def new_schedule(hub: Hub, command: str, **target: object) -> str:
    """A schedule that comes due on a leap day."""
    made = hub.api.post("/schedules", name="leap day", command=command, cron="0 0 29 2 *", **target)
    return str(made["id"])


def recorded(hub: Hub) -> Any:
    return hub.api.call("GET", "/commands").json["meta"]["total"]


def nothing_came_of(hub: Hub, machine_id: str, marker: Path) -> bool:
    """True: what was asked before has not run, though the machine has taken up something since."""
    hub.api.run(machine_id, "true")
    return not marker.exists()


def test_every_route_that_changes_something_has_its_place_here():
    assert sorted(CHANGES, key=str) == sorted([*ENTERS, *ASKS, *LOOKS, *MANAGES, *SIGNS], key=str)


# ── a key that may only read ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "key", sorted(ENTERS | MANAGES, key=str), ids=lambda key: f"{key[1]} {key[2]}"
)
def test_a_key_that_may_only_read_changes_nothing(hub, agent, place, reader, key):
    route, marker = CHANGES[key], mark(place)
    about = {
        "machine": agent.machine_id,
        "command": hub.api.start(agent.machine_id, "sleep 60"),
        "terminal": new_terminal(hub, agent.machine_id, "sleep", "60"),
        "batch": stopped_batch(hub, agent.machine_id, f"touch {marker}"),
        "schedule": new_schedule(hub, f"touch {marker}", machine_id=agent.machine_id),
        "key": hub.api.post("/api-keys", name="other", scopes=["machines:read"])["id"],
        "webhook": hub.api.post("/webhooks", **WEBHOOK)["id"],
        "token": hub.api.post("/enrollment-tokens")["id"],
        "coding": f"session_{ID}",
        "": "",
    }
    body = dict(expected(route).body) | {
        "machine_id": agent.machine_id,
        "machine_ids": [agent.machine_id],
        "command": f"touch {marker}",
        "argv": ["touch", str(marker)],
        "prompt": f"touch {marker}",
        "directory": str(marker),
    }
    before, schedules = recorded(hub), hub.api.get("/schedules")
    webhooks = hub.api.get("/webhooks")
    path = path_of(route, about[expected(route).about])
    answer = ask(reader, route, path, body if route.body else None)
    error_of(answer, 403, "forbidden", route.plane)
    assert recorded(hub) == before
    assert hub.api.get("/schedules") == schedules
    assert hub.api.get("/webhooks") == webhooks
    assert nothing_came_of(hub, agent.machine_id, marker)
    assert hub.api.get(f"/commands/{about['command']}")["status"] == "running"
    record = hub.api.get(f"/terminals/{about['terminal']}")
    assert (record["status"], record["ending"]) == ("running", False)
    assert hub.api.call("GET", f"/machines/{agent.machine_id}").status == 200
    assert len(refusals(hub, reader)) == 1
    hub.api.delete(f"/commands/{about['command']}")
    hub.api.delete(f"/terminals/{about['terminal']}")
    hub.api.delete(f"/schedules/{about['schedule']}")
    hub.api.delete(f"/webhooks/{about['webhook']}")


def test_a_key_that_may_only_read_attaches_as_an_observer_alone(hub, reader, session_id):
    path = f"/sessions/{session_id}/attach"
    before = hub.api.get(f"/sessions/{session_id}")["attached_clients"]
    (mine,) = (
        client["client_id"]
        for client in before
        if client["user_email"] == reader.get("/auth/me")["email"] and client["mode"] == "observer"
    )
    for body in ({}, {"mode": "operator"}, {"mode": "operator", "client_id": mine}):
        error = error_of(reader.call("POST", path, body), 403, "forbidden")
        assert error["message"] == "Token lacks required permission: sessions:write"
    assert hub.api.get(f"/sessions/{session_id}")["attached_clients"] == before
    assert len(refusals(hub, reader)) == 3


def test_nobody_detaches_or_takes_over_the_client_of_another_key(hub, reader, session_id):
    path = f"/sessions/{session_id}"
    theirs = hub.api.post(f"{path}/attach", client_id=f"cli_{next(_numbers)}")["client_id"]
    before = hub.api.get(path)["attached_clients"]
    answer = reader.call("POST", f"{path}/detach", {"client_id": theirs})
    error_of(answer, 404, "client_not_found")
    answer = reader.call("POST", f"{path}/attach", {"client_id": theirs, "mode": "observer"})
    error_of(answer, 409, "conflict")
    assert hub.api.get(path)["attached_clients"] == before
    assert hub.api.post(f"{path}/detach", client_id=theirs)["detached"] is True


# ── a key that is attached as an observer ────────────────────────────────────────────────────────

Way = Callable[[Api, str, str], Any]
WAYS: dict[str, Way] = {
    "commands": lambda api, machine_id, text: api.call(
        "POST", "/commands", {"machine_id": machine_id, "command": text}
    ),
    "commands, queued": lambda api, machine_id, text: api.call(
        "POST", "/commands", {"machine_id": machine_id, "command": text, "queue": True}
    ),
    "commands, on the other prefix": lambda api, machine_id, text: api.call(
        "POST", "/v1/commands", {"machine_id": machine_id, "command": text}
    ),
    "async": lambda api, machine_id, text: api.call(
        "POST", "/commands/async", {"machine_id": machine_id, "command": text}
    ),
    "ask": lambda api, machine_id, text: api.call(
        "POST", f"/api/admin/machines/{machine_id}/ask", {"prompt": text}
    ),
    "terminal": lambda api, machine_id, text: api.call(
        "POST", f"/machines/{machine_id}/terminals", {"argv": text.split()}
    ),
    "spawn": lambda api, machine_id, text: api.call(  # which makes a directory that is not there
        "POST", f"/api/machines/{machine_id}/spawn", {"directory": text.removeprefix("touch ")}
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_attached_observer_runs_nothing(hub, agent, place, onlooker, way):
    marker, before = mark(place), recorded(hub)
    answer = way(onlooker, agent.machine_id, f"touch {marker}")
    error = answer.json["error"]
    assert (answer.status, (answer.json if isinstance(error, str) else error)["code"]) == (
        403,
        "forbidden",
    )
    assert recorded(hub) == before
    assert nothing_came_of(hub, agent.machine_id, marker)
    (entry,) = refusals(hub, onlooker)
    assert agent.machine_id in entry["target"]


def test_a_batch_refuses_the_machines_that_its_caller_observes_and_no_other(
    hub, agent, place, onlooker
):
    marker, ids = mark(place), [agent.machine_id]
    with running_agent(hub, place, f"other-{next(_numbers)}") as other:
        command = f"touch {marker}-$CMDOP_COMMAND_ID"
        batch = onlooker.post(
            "/commands/batch", machine_ids=[*ids, other.machine_id], command=command
        )
        assert batch[agent.machine_id]["error"]["code"] == "forbidden"
        assert batch[other.machine_id]["status"] == "completed"
        made = [path.name for path in place.glob(f"{marker.name}-*")]
        assert made == [f"{marker.name}-{batch[other.machine_id]['id']}"]
    (entry,) = refusals(hub, onlooker)
    assert agent.machine_id in str(entry)


def test_an_attached_observer_resumes_no_batch_and_uses_up_no_resume(hub, agent, place, onlooker):
    marker = mark(place)
    batch_id = stopped_batch(hub, agent.machine_id, f"touch {marker}")
    before = recorded(hub)
    answer = onlooker.call("POST", f"/commands/batch/{batch_id}/resume")
    error_of(answer, 403, "forbidden")
    assert recorded(hub) == before
    assert nothing_came_of(hub, agent.machine_id, marker)
    assert refusals(hub, onlooker)
    resumed = hub.api.call("POST", f"/commands/batch/{batch_id}/resume")
    assert resumed.data[agent.machine_id]["status"] == "completed"
    assert marker.exists()


def test_an_attached_observer_ends_no_command(hub, agent, onlooker):
    command_id = hub.api.start(agent.machine_id, "sleep 60")
    answer = onlooker.call("DELETE", f"/commands/{command_id}")
    error_of(answer, 403, "forbidden")
    record = hub.api.get(f"/commands/{command_id}")
    assert (record["status"], record["cancel_requested"]) == ("running", False)
    assert len(refusals(hub, onlooker)) == 1
    hub.api.delete(f"/commands/{command_id}")
    assert hub.api.wait_end(command_id)["status"] == "cancelled"


@pytest.mark.parametrize("key", sorted(FILES, key=str), ids=lambda key: f"{key[1]} {key[2]}")
def test_an_attached_observer_changes_no_file(hub, agent, onlooker, key):
    route = CHANGES[key]
    world = World(hub.api, agent)
    body, path = world.body(route), world.path(route)
    before = world.state()
    error_of(ask(onlooker, route, path, body), 403, "forbidden")
    assert world.state() == before
    (entry,) = refusals(hub, onlooker)
    assert entry["target"] == agent.machine_id
    assert ask(hub.api, route, path, body).status == 200


TARGETS: dict[str, Callable[[str], dict[str, object]]] = {
    "one machine": lambda machine_id: {"machine_id": machine_id},
    "named machines": lambda machine_id: {"machine_ids": [machine_id]},
    "a group": lambda machine_id: {"tags": ["watched"]},
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_an_attached_observer_has_no_say_in_what_runs_by_itself(
    hub, agent, place, onlooker, target
):
    marker, machine_id = mark(place), agent.machine_id
    hub.api.call("PATCH", f"/machines/{machine_id}", {"tags": ["watched"]})
    where = target(machine_id)
    theirs = f"/schedules/{new_schedule(hub, f'touch {marker}', **where)}"
    own = f"/schedules/{new_schedule(hub, f'touch {marker}', tags=['nobody'])}"
    before = hub.api.get("/schedules")
    new = {"name": "x", "command": f"touch {marker}", "cron": "* * * * *", **where}
    for method, path, body in (
        ("POST", "/schedules", new),
        ("PATCH", theirs, {"name": "x"}),
        ("PATCH", theirs, {"tags": ["nobody"]}),  # away from the machine
        ("PATCH", own, where),  # and onto it
        ("DELETE", theirs, None),
        ("POST", f"{theirs}/run", None),
    ):
        error_of(onlooker.call(method, path, body), 403, "forbidden")
    assert hub.api.get("/schedules") == before
    assert len(refusals(hub, onlooker)) == 6
    assert nothing_came_of(hub, machine_id, marker)
    assert onlooker.call("PATCH", own, {"name": "x"}).status == 200
    for path in (theirs, own):
        assert onlooker.get(path)
        hub.api.delete(path)


def test_an_attached_observer_may_look_at_everything(hub, agent, onlooker, session_id):
    command_id = hub.api.run(agent.machine_id, "echo seen")["id"]
    assert onlooker.get(f"/commands/{command_id}")["stdout"] == "seen\n"
    assert next(onlooker.events(command_id)).data == b"seen\n"
    for path in (
        f"/sessions/{session_id}",
        f"/sessions/{session_id}/history",
        f"/machines/{agent.machine_id}",
        f"/machines/{agent.machine_id}/commands",
        f"/machines/{agent.machine_id}/files?path=/",
        f"/machines/{agent.machine_id}/files/content?path=/proc/version",
    ):
        assert onlooker.call("GET", path).status == 200


# ── who is none, or none any more ────────────────────────────────────────────────────────────────


def may_run(api: Api, machine_id: str) -> bool:
    answer = api.call("POST", "/commands", {"machine_id": machine_id, "command": "true"})
    assert answer.status in (200, 403)
    return answer.status == 200


def test_a_key_may_run_again_once_it_has_detached_or_become_an_operator(hub, agent, session_id):
    api, path = hub.new_key("commands:execute", "sessions:write"), f"/sessions/{session_id}"
    client = {"client_id": f"cli_{next(_numbers)}"}
    for way_out in (
        lambda: api.post(f"{path}/detach", **client),
        lambda: api.post(f"{path}/attach", mode="operator", **client),
        lambda: hub.api.post(f"{path}/detach", **client),  # an admin throws it out
    ):
        assert may_run(api, agent.machine_id)
        api.post(f"{path}/attach", mode="observer", **client)
        assert not may_run(api, agent.machine_id)
        way_out()
    assert may_run(api, agent.machine_id)


def test_a_key_with_an_operator_and_an_observer_may_run(hub, agent, session_id):
    api, path = hub.new_key("commands:execute", "sessions:write"), f"/sessions/{session_id}"
    api.post(f"{path}/attach", mode="observer")
    operator = api.post(f"{path}/attach")["client_id"]
    assert may_run(api, agent.machine_id)
    api.post(f"{path}/detach", client_id=operator)
    assert not may_run(api, agent.machine_id)


def test_an_observer_of_one_machine_is_none_of_another(hub, agent, place, onlooker):
    with running_agent(hub, place, f"elsewhere-{next(_numbers)}") as other:
        assert may_run(onlooker, other.machine_id)
    assert may_run(hub.new_key("commands:execute"), agent.machine_id)


def test_a_session_that_is_over_has_no_observers_and_one_that_goes_on_keeps_them(hub, place):
    with stopped_agent(place, f"comes-{next(_numbers)}") as agent:
        agent.join(hub)
        machine_id, session_id = agent.machine_id, agent.wait_connected(hub)
        path = f"/sessions/{session_id}"
        api = hub.new_key("commands:execute", "sessions:read")
        api.post(f"{path}/attach", mode="observer")
        agent.kill()
        wait_for(lambda: hub.api.get(path)["status"] == "GRACE_PERIOD", "its link is missed")
        queued = {"machine_id": machine_id, "command": "true", "queue": True}
        error_of(api.call("POST", "/commands/async", queued), 403, "forbidden")
        agent.rejoin(hub)
        assert not may_run(api, machine_id)
        agent.stop()
        wait_for(lambda: hub.api.get(path)["status"] == "DISCONNECTED", "it said goodbye")
        assert hub.api.get(path)["attached_clients"] == []
        agent.rejoin(hub)
        assert may_run(api, machine_id)


def test_observers_are_observers_after_a_kill_of_the_hub(tmp_path):
    with running_hub(tmp_path) as hub, running_agent(hub, tmp_path, "watched") as agent:
        api = hub.new_key("commands:execute", "sessions:read")
        path = f"/sessions/{agent.wait_connected(hub)}"
        api.post(f"{path}/attach", mode="observer")
        hub.kill()
        hub.start()
        agent.wait_connected(hub)
        assert not may_run(api, agent.machine_id)
