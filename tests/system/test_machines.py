"""A machine gets another name and other tags: by the API, by the command line, on the record."""

import subprocess

from tests.support.appliance import Api, Hub, cmdop


def machines(hub: Hub, *args: str) -> subprocess.CompletedProcess[str]:
    return cmdop("machines", *args, **hub.credentials)


def change(api: Api, machine_id: str, **fields: object):
    return api.call("PATCH", f"/machines/{machine_id}", fields)


def names(hub: Hub, query: str) -> list[str]:
    return [machine["name"] for machine in hub.api.get(f"/machines?{query}")]


def test_a_change_is_answered_with_the_machine_as_it_is_then(hub, agent):
    before = hub.api.get(f"/machines/{agent.machine_id}")
    answer = change(hub.api, agent.machine_id, name="given", tags=["web", "eu"], colour="red")
    assert answer.status == 200
    same = ("id", "ip", "facts", "hostname", "agent_version", "status", "created_at")
    assert {key: answer.data[key] for key in same} == {key: before[key] for key in same}
    assert (answer.data["name"], answer.data["tags"]) == ("given", ["web", "eu"])
    assert names(hub, "tags=eu,web&search=GIV&status=online&sort=-name") == ["given"]
    assert names(hub, "tags=web,us") == []
    (entry,) = hub.api.get(f"/audit?action=machine.changed&target={agent.machine_id}&limit=1")
    assert entry["outcome"] == "ok"


def test_a_change_that_changes_nothing_is_not_recorded(hub, agent):
    change(hub.api, agent.machine_id, name="before")  # whatever the tests before this one gave it
    same = change(hub.api, agent.machine_id, name="given").data
    recorded = f"/audit?action=machine.changed&target={agent.machine_id}"
    before = hub.api.get(recorded)
    assert before[0]["details"] == {"name": "given"}
    for fields in ({}, {"name": "given"}, {"tags": same["tags"]}):
        assert change(hub.api, agent.machine_id, **fields).data["name"] == "given"
    assert hub.api.get(recorded) == before


def test_null_is_no_name_and_no_list_of_tags(hub, agent):
    for field in ("name", "tags"):
        answer = change(hub.api, agent.machine_id, **{field: None})
        assert (answer.status, answer.error["code"]) == (422, "validation_failed")
        assert field in answer.error["details"]


def test_a_key_of_some_tags_cannot_put_a_machine_out_of_its_own_reach(hub, agent):
    change(hub.api, agent.machine_id, tags=["web", "eu"])
    made = hub.api.post("/api-keys", name="web", scopes=["machines:write"], tags=["web"])
    few = Api(hub.api.url, made["key"])
    answer = change(few, agent.machine_id, name="taken", tags=["eu"])
    assert (answer.status, answer.error["details"]) == (403, {"tags": ["web"]})
    assert change(few, agent.machine_id, tags=["web"]).data["tags"] == ["web"]
    change(hub.api, agent.machine_id, tags=["eu"])
    assert change(few, agent.machine_id, name="taken").status == 404


def test_the_command_line_changes_what_it_is_told_to(hub, agent):
    change(hub.api, agent.machine_id, name="plain", tags=["a"])
    told = machines(hub, "edit", "plain", "--tags", "b, c")
    assert (told.returncode, told.stdout) == (0, "")
    assert told.stderr == f"changed plain ({agent.machine_id}), tagged b, c\n"
    assert machines(hub, "edit", agent.machine_id, "--name", "better", "--tags", "").returncode == 0
    machine = hub.api.get(f"/machines/{agent.machine_id}")
    assert (machine["name"], machine["tags"]) == ("better", [])
    nothing = machines(hub, "edit", "better")
    assert nothing.returncode == 2
    assert "give --name or --tags" in nothing.stderr
