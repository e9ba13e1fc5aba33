"""What a key does not reach does not exist for it: other workspaces, and machines of other tags.

Each pair is a key that may do everything in its own part, and a world that is not in it.
"""

import json

import pytest

from cmdop_appliance.api.registry import HAPI
from tests.api.contract_table import (
    ID,
    KEYED,
    OF_A_THING,
    SOCKET,
    ask,
    expected,
    lists,
    path_of,
)
from tests.api.worlds import World, new_workspace, of_tags, without
from tests.support.appliance import Api, running_agent, running_hub

WHO = [
    "another workspace",
    "the first workspace",
    "a key of other tags",
    "a key of these tags and more",
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """By who asks: the key, and the world that it must not know of."""
    place = tmp_path_factory.mktemp("tenancy")
    with running_hub(place) as hub:
        other = new_workspace(hub)
        tokens = {
            "web": hub.new_token(tags=["prod", "web"]),
            "db": hub.new_token(tags=["prod", "db"]),
            "far": other.post("/enrollment-tokens")["token"],
        }
        with (
            running_agent(hub, place, "web-host", token=tokens["web"]) as web,
            running_agent(hub, place, "db-host", token=tokens["db"]) as db,
            running_agent(hub, place, "far-host", token=tokens["far"], api=other) as far,
        ):
            first = World(hub.api, web)
            second = World(other, far)
            tagged = World(of_tags(hub.api, "db"), db)
            yield {
                "another workspace": (other, first),
                "the first workspace": (hub.api, second),
                "a key of other tags": (of_tags(hub.api, "web"), tagged),
                "a key of these tags and more": (of_tags(hub.api, "prod", "db", "web"), tagged),
            }


@pytest.fixture(scope="module")
def own_machines(parts) -> dict[str, str]:
    """By who asks: a machine in reach."""
    _, web = parts["another workspace"]
    _, far = parts["the first workspace"]
    machines = (far.ids["machine"], web.ids["machine"], web.ids["machine"])
    return dict(zip(WHO[:3], machines, strict=True))


@pytest.fixture(params=WHO)
def part(request, parts) -> tuple[Api, World]:
    return parts[request.param]


def unknown_like(known: str) -> str:
    """An id of the same kind, of nothing."""
    return f"{known.partition('_')[0]}_{ID}"


@pytest.mark.parametrize(
    "route",
    [
        p
        for p in OF_A_THING
        if expected(p.values[0]).about not in ("", "file", "program", "upgrade")  # the hub's
        and p.values[0].plane is not HAPI
    ],
)
def test_what_is_out_of_reach_is_answered_like_what_is_not_there(part, route):
    api, world = part
    body = world.body(route)
    before = world.state()
    known = world.ids[expected(route).about]
    unknown = unknown_like(known)
    there, nowhere = (ask(api, route, path_of(route, of), body) for of in (known, unknown))
    assert there.status == nowhere.status == 404
    assert without(there.body.decode(), known) == without(nowhere.body.decode(), unknown)
    assert world.state() == before


@pytest.mark.parametrize(
    "route", [p for p in OF_A_THING if "machine_id" in expected(p.values[0]).query]
)
def test_a_machine_out_of_reach_that_a_query_names_is_not_there(part, route):
    api, world = part
    body = world.body(route)
    before = world.state()
    known = world.ids["machine"]
    unknown = unknown_like(known)
    there, nowhere = (
        ask(api, route, f"{path_of(route)}?machine_id={of}", body) for of in (known, unknown)
    )
    assert there.status == nowhere.status == 404
    assert without(there.body.decode(), known) == without(nowhere.body.decode(), unknown)
    assert world.state() == before


@pytest.mark.parametrize("path", ["/commands", "/commands/async"])
def test_no_command_reaches_a_machine_that_is_out_of_reach(part, path):
    api, world = part
    before = world.state()
    known = world.ids["machine"]
    unknown = unknown_like(known)
    there, nowhere = (
        api.call("POST", path, {"machine_id": of, "command": "true", "queue": True})
        for of in (known, unknown)
    )
    assert there.status == nowhere.status == 404
    assert without(there.body.decode(), known) == without(nowhere.body.decode(), unknown)
    assert world.state() == before


def test_a_batch_refuses_a_machine_that_is_out_of_reach_like_one_that_is_not_there(part):
    api, world = part
    before = world.state()
    known = world.ids["machine"]
    unknown = unknown_like(known)
    answer = api.post("/commands/batch", machine_ids=[known, unknown], command="true")
    there, nowhere = (json.dumps(answer[of]).replace(of, "<id>") for of in (known, unknown))
    assert answer[known]["error"]["code"] == "machine_not_found"
    assert there == nowhere
    assert world.state() == before


@pytest.mark.parametrize(
    "route",
    [
        p
        for p in KEYED
        if p.values[0].method == "GET"
        and ":" not in p.values[0].path
        and not expected(p.values[0]).unknown
    ],
)
def test_what_answers_about_everything_tells_nothing_of_what_is_out_of_reach(parts, part, route):
    api, world = part
    if route.path == "/backup":  # all of the hub, for whoever owns it
        is_owner = api is parts["the first workspace"][0]
        assert ask(api, route, path_of(route)).status == (200 if is_owner else 403)
        return
    path = path_of(route) + ("?limit=100" if lists(route) else "")
    answer = ask(api, route, path)
    if answer.status == 403:  # not for a key that does not reach everything
        assert expected(route).permissions in (("admin",), ("metrics:read",))
        return
    text = answer.body.decode()
    assert not [secret for secret in world.secrets() if secret in text]
    if lists(route):
        assert answer.json["meta"]["total"] == len(answer.data)


def test_filters_find_nothing_out_of_reach(part):
    api, world = part
    ids = world.ids
    for path, filters in {
        "/machines": (f"search={world.agent.name}",),
        "/sessions": (f"machine_id={ids['machine']}",),
        "/schedules": (f"machine_id={ids['machine']}",),
        "/terminals": (f"machine_id={ids['machine']}",),
        "/commands": (
            f"machine_id={ids['machine']}",
            f"session_id={ids['session']}",
            f"batch_id={ids['batch']}",
        ),
    }.items():
        for query in filters:
            assert world.api.call("GET", f"{path}?{query}").json["meta"]["total"] > 0
            answer = api.call("GET", f"{path}?{query}")
            assert (answer.data, answer.json["meta"]["total"]) == ([], 0), (path, query)


def test_whoever_owns_a_world_finds_all_of_it(part):
    """Or the other tests here would prove nothing."""
    _, world = part
    paths = ("/machines", "/sessions", "/commands", "/api-keys", "/enrollment-tokens", "/schedules")
    paths += ("/webhooks", "/terminals", "/sign-ins")
    text = "".join(world.api.call("GET", f"{path}?limit=100").body.decode() for path in paths)
    text += json.dumps(world.api.get(f"/sessions/{world.ids['session']}"))
    text += json.dumps(world.api.get(f"/webhooks/{world.ids['webhook']}/deliveries"))
    assert not [secret for secret in world.secrets() if secret not in text]
    for route in (p.values[0] for p in OF_A_THING):
        if route.method == "GET" and expected(route).about != "upgrade":  # the hub's
            found = 426 if route.path == SOCKET else 200
            assert ask(world.api, route, world.path(route)).status == found, route.path


@pytest.mark.parametrize("who", WHO[:3])  # the others have no machine whose events they hear
def test_the_events_of_what_is_out_of_reach_are_not_told(parts, own_machines, who):
    api, world = parts[who]
    world.api.run(world.ids["machine"], "true")
    mark = api.run(own_machines[who], "true")["id"]
    for event in api.follow("/events", "0"):
        text = json.dumps(event.data)
        assert not [secret for secret in world.secrets() if secret in text]
        if event.name == "command.completed" and event.data["data"]["command_id"] == mark:
            break


# ── what is partly in reach ──────────────────────────────────────────────────────────────────────


def test_of_a_batch_a_key_sees_what_it_reaches(parts):
    admin, _ = parts["the first workspace"]
    _, web = parts["another workspace"]
    db_key, (_, db) = of_tags(admin, "db"), parts["a key of other tags"]
    ids = [web.ids["machine"], db.ids["machine"]]
    batch = admin.post("/commands/batch", machine_ids=ids, command="true")
    batch_id = batch[ids[0]]["batch_id"]
    assert set(admin.get(f"/commands/batch/{batch_id}")) == set(ids)
    assert set(db_key.get(f"/commands/batch/{batch_id}")) == {db.ids["machine"]}
    listed = db_key.call("GET", f"/commands?batch_id={batch_id}")
    assert [each["machine_id"] for each in listed.data] == [db.ids["machine"]]
    assert listed.json["meta"]["total"] == 1


def test_a_batch_is_resumed_by_who_reaches_all_of_it(parts):
    admin, _ = parts["the first workspace"]
    _, web = parts["another workspace"]
    db_key, (_, db) = of_tags(admin, "db"), parts["a key of other tags"]
    ids = [web.ids["machine"], db.ids["machine"]]
    body = {"machine_ids": [*ids, "mach_x"], "command": "true", "max_errors": 0}
    batch_id = admin.post("/commands/batch", **body)[ids[0]]["batch_id"]
    path = f"/commands/batch/{batch_id}/resume"
    refused = db_key.call("POST", path)
    assert (refused.status, refused.error["code"]) == (409, "conflict")
    assert web.ids["machine"] not in refused.body.decode()
    assert {each["status"] for each in admin.post(path).values()} == {"completed"}


def test_a_key_makes_nothing_that_reaches_farther_than_itself(parts):
    admin, _ = parts["the first workspace"]
    key = of_tags(admin, "prod", "db")
    for path, fields in (
        ("/api-keys", {"name": "child", "scopes": ["machines:read"]}),
        ("/enrollment-tokens", {}),
    ):
        assert set(key.post(path, **fields)["tags"]) == {"prod", "db"}
        assert set(key.post(path, **fields, tags=["prod", "db", "x"])["tags"]) == {
            "prod",
            "db",
            "x",
        }
        for tags in ([], ["prod"], ["web"]):
            answer = key.call("POST", path, {**fields, "tags": tags})
            if answer.status == 201:
                assert {"prod", "db"} <= set(answer.data["tags"])
            else:
                assert answer.status in (403, 422)
