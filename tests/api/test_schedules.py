"""/schedules: made, changed, deleted, and for whom they are there."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cmdop_appliance.clock import rfc3339
from cmdop_appliance.protocol.limits import ARGUMENT_BYTES
from cmdop_appliance.store import machines, schedules
from tests.api.schedule_site import BEGIN, NOTHING, Site, opened, refused, why
from tests.support.records import REACH
from tests.support.stage import DAY


@pytest.fixture
async def site(tmp_path) -> AsyncIterator[Site]:
    async with opened(tmp_path) as site:
        yield site


# ── made ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_schedule_has_the_defaults_of_the_contract(site):
    made = await site.make()
    assert made == {
        "id": made["id"],
        "name": "backup",
        "description": "",
        "machine_id": site.machine.id,
        "machine_ids": None,
        "tags": None,
        "command": "backup /",
        "cron": "0 3 * * *",
        "rule": "at 03:00 every day",
        "timezone": "UTC",
        "enabled": True,
        "timeout": None,
        "cwd": None,
        "env": {},
        "user": None,
        "overlap": "skip",
        "misfire": "run_once",
        "misfire_window": DAY,
        "notify": {"on_success": False, "on_failure": False},
        "next_run": "2028-01-16T03:00:00.000Z",
        "last_run": None,
        "paused": None,
        "user_email": "ci@default",
        "created_at": rfc3339(BEGIN),
        "updated_at": rfc3339(BEGIN),
    }
    assert await site.api.get(f"/schedules/{made['id']}") == made
    assert await site.api.get("/schedules") == [made]


async def test_every_field_is_kept_and_its_commands_are_as_they_were_asked_for(site):
    given = {
        "description": "of all disks",
        "cron": "*/15 9-17 * * mon-fri",
        "timezone": "Europe/Berlin",
        "enabled": False,
        "timeout": 300_000,
        "cwd": "/srv",
        "env": {"A": "b"},
        "user": "backup",
        "overlap": "queue",
        "misfire": "skip",
        "misfire_window": 1000,
        "notify": {"on_success": True, "on_failure": True},
    }
    made = await site.make(**given)
    assert {name: made[name] for name in given} == given
    assert made["next_run"] is None
    spec = (await site.kept(made)).spec
    assert spec.argv == ["/bin/sh", "-c", "backup /"]
    assert (spec.cwd, spec.env, spec.user, spec.timeout_ms) == (
        *("/srv", {"A": "b"}, "backup"),
        300_000,
    )
    assert spec.operator == "ci@default"
    assert spec.serial_key == f"schedule:{made['id']}"


async def test_only_commands_that_may_overlap_have_no_line(site):
    made = await site.make(overlap="allow")
    assert (await site.kept(made)).spec.serial_key is None
    for overlap, key in (("skip", f"schedule:{made['id']}"), ("allow", None)):
        await site.api.patch(f"/schedules/{made['id']}", overlap=overlap)
        assert (await site.kept(made)).spec.serial_key == key


async def test_a_zone_has_its_own_time(site):
    made = await site.make(timezone="America/New_York")
    assert made["next_run"] == "2028-01-16T08:00:00.000Z"


async def test_machines_and_tags_that_come_twice_collapse(site):
    other = await site.join()
    listed = await site.make(machine_ids=[other, site.machine.id, other])
    assert listed["machine_ids"] == [other, site.machine.id]
    group = await site.make(tags=["b", "a", "b"])
    assert group["tags"] == ["b", "a"]
    assert [each["machine_id"] for each in (listed, group)] == [None, None]


async def test_exactly_one_of_three_says_where(site):
    targets = {"machine_id": site.machine.id, "machine_ids": [site.machine.id], "tags": ["prod"]}
    plain = {name: value for name, value in site.plain.items() if name != "machine_id"}
    path = f"/schedules/{(await site.make())['id']}"
    reasons = why(await site.api.call("POST", "/schedules", plain))
    assert reasons == {"machine_id": "is required, or else machine_ids or tags"}
    for left_out in (None, *targets):
        given = {name: value for name, value in targets.items() if name != left_out}
        for answer in (
            await site.api.call("POST", "/schedules", plain | given),
            await site.api.call("PATCH", path, given),
        ):
            first, *others = given
            assert set(why(answer)) == set(others)
            assert f"there is {first} already" in why(answer)[others[0]]
    assert await site.total() == 1


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("name", ["x", "x" * 200, "Täglich · 毎日"], ["", " \u3000", "x" * 201, "a\nb"]),
        ("description", ["", "x" * 2000, "a\nb"], ["x" * 2001, "a\0b", 1]),
        ("misfire_window", [1000, 30 * DAY], [999, 30 * DAY + 1, 1.5, "1000"]),
        ("timeout", [1, 2**53 - 1, None], [0, -1, 2**53, True]),
        ("tags", [["a"], ["a"] * 50], [[], ["a"] * 51, "a", ["a b"]]),
        ("machine_ids", [["*"], ["*"] * 1000], [[], ["*"] * 1001, [""]]),
        ("overlap", ["queue", "allow"], ["no", 1]),
        ("env", [{}, {"A": "", "a b": "c"}], [{"A": 1}, {"A": "b\0"}, {"A=": "b"}, []]),
        ("notify", [{}, {"on_success": True}], [{"on_success": None}, {"on_failure": "x"}, []]),
        ("command", ["x" * ARGUMENT_BYTES], ["", "x" * (ARGUMENT_BYTES + 1), "a\0b"]),
        (
            "cron",
            ["@daily", "0 3 * jan-mar 1-5", " 0  3 * * 7 "],
            ["0 3 * *", "@reboot", "0 3 L *"],
        ),
        ("timezone", ["UTC", "Asia/Kolkata"], ["", "Mars/Base", "../UTC", "utc\0"]),
    ],
)
async def test_a_field_has_its_bounds_when_made_and_when_changed(site, name, good, bad):
    def real(value: Any) -> Any:
        if name != "machine_ids" or not isinstance(value, list):
            return value
        return [site.machine.id if each == "*" else each for each in value]

    made = await site.make()
    body = dict(site.plain)
    if name in ("machine_ids", "tags"):
        del body["machine_id"]
    for value in map(real, good):
        assert (await site.api.call("POST", "/schedules", body | {name: value})).status == 201
        changed = await site.api.call("PATCH", f"/schedules/{made['id']}", {name: value})
        assert changed.status == 200, changed
    before = await site.api.get(f"/schedules/{made['id']}"), await site.total()
    for value in map(real, bad):
        for method, path in (("POST", "/schedules"), ("PATCH", f"/schedules/{made['id']}")):
            (place,) = why(await site.api.call(method, path, body | {name: value}))
            assert place == name or place.startswith((f"{name}.", f"{name}[0]"))
    assert (await site.api.get(f"/schedules/{made['id']}"), await site.total()) == before


async def test_of_a_value_that_is_one_of_few_all_are_named(site):
    answer = await site.api.call("POST", "/schedules", site.plain | {"misfire": "run-once"})
    assert why(answer) == {"misfire": "must be one of run_once, skip"}


async def test_what_is_wrong_with_a_rule_is_told_with_a_remedy(site):
    made = await site.make(timezone="Europe/Berlin")
    for method, path in (("POST", "/schedules"), ("PATCH", f"/schedules/{made['id']}")):
        answer = await site.api.call(method, path, site.plain | {"cron": "0 25 * * *"})
        assert why(answer) == {"cron": "hour: 25 is out of range: write 0 to 23"}
        answer = await site.api.call(method, path, site.plain | {"timezone": "Europe/Berlni"})
        assert "Europe/Berlin" in why(answer)["timezone"]
    preview = await site.api.call("POST", "/schedules/preview", {"cron": "0 25 * * *"})
    assert "out of range" in why(preview)["cron"]


async def test_a_command_that_is_more_than_a_machine_takes_is_refused(site):
    env = {f"NAME_{number}": "x" * 1000 for number in range(600)}
    answer = await site.api.call("POST", "/schedules", site.plain | {"env": env})
    assert "env" in why(answer)["body"]
    assert await site.total() == 0


async def test_machines_that_are_not_there_are_not_found_and_nothing_is_recorded(site):
    path = f"/schedules/{(await site.make())['id']}"
    body = {name: site.plain[name] for name in ("name", "command", "cron")}
    for target in ({"machine_id": NOTHING}, {"machine_ids": [site.machine.id, NOTHING]}):
        for answer in (
            await site.api.call("POST", "/schedules", body | target),
            await site.api.call("PATCH", path, target),
        ):
            assert refused(answer, 404, "machine_not_found") == {"machine_id": NOTHING}
    assert await site.total() == 1
    assert (await site.api.get(path))["machine_id"] == site.machine.id
    assert len(await site.entries(path.rpartition("/")[2])) == 1


async def test_a_schedule_of_a_machine_that_was_removed_can_still_be_changed(site):
    path = f"/schedules/{(await site.make())['id']}"
    await site.live.hub.store.run(machines.remove, REACH, site.machine.id, site.clock.ms)
    assert (await site.api.patch(path, name="old"))["name"] == "old"
    answer = await site.api.call("POST", f"{path}/run")
    refused(answer, 404, "machine_not_found")


async def test_more_schedules_than_a_workspace_has_room_for_are_refused(site, monkeypatch):
    monkeypatch.setattr(schedules, "MOST", 1)
    await site.make()
    answer = await site.api.call("POST", "/schedules", site.plain)
    refused(answer, 409, "conflict")
    assert "1 schedules" in answer.error["message"]
    assert "delete some" in answer.error["hint"]


async def test_a_request_that_comes_again_makes_nothing_and_finds_what_it_made(site):
    first = (await site.api.call("POST", "/schedules", site.plain, once="k")).data
    again = await site.api.call("POST", "/schedules", site.plain, once="k")
    assert (again.status, again.data) == (201, first)
    assert len(await site.entries(first["id"])) == 1
    other = await site.api.call("POST", "/schedules", site.plain | {"name": "x"}, once="k")
    refused(other, 409, "idempotency_conflict")
    assert (await site.api.call("DELETE", f"/schedules/{first['id']}")).status == 200
    answer = await site.api.call("POST", "/schedules", site.plain, once="k")
    assert refused(answer, 409, "conflict") == {"schedule_id": first["id"]}
    assert await site.total() == 0


# ── whose it is ──────────────────────────────────────────────────────────────────────────────────


async def test_a_schedule_names_who_said_last_what_it_runs(site):
    other = await site.key("schedules:write", name="other")
    made = await site.make()
    renamed = await other.patch(f"/schedules/{made['id']}", name="renamed")
    assert renamed["user_email"] == "ci@default"
    changed = await other.patch(f"/schedules/{made['id']}", command="other")
    assert changed["user_email"] == "other@default"
    assert (await site.kept(made)).spec.operator == "other@default"


async def test_what_is_deleted_is_gone_and_what_it_started_runs_on(site):
    made = await site.make()
    path = f"/schedules/{made['id']}"
    run = await site.api.post(f"{path}/run")
    assert (await site.api.call("DELETE", path)).data == {"deleted": True}
    for method, of in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/history")):
        answer = await site.api.call(method, f"{path}{of}", {})
        assert refused(answer, 404, "schedule_not_found") == {"schedule_id": made["id"]}
    command = await site.api.get(f"/commands/{run['command_id']}")
    assert (command["status"], command["cancel_requested"]) == ("pending", False)


async def test_the_audit_log_tells_who_did_what_and_none_of_the_values(site):
    secret = "s3cret"
    made = await site.make(env={"TOKEN": secret}, command=f"echo {secret}")
    path = f"/schedules/{made['id']}"
    await site.api.patch(path, env={"TOKEN": secret * 2}, tags=["prod"])
    await site.api.call("DELETE", path)
    entries = await site.entries(made["id"])
    assert [(entry["action"], entry["actor"], entry["details"]) for entry in entries] == [
        ("schedule.created", "ci@default", {"name": "backup", "machine_ids": [site.machine.id]}),
        ("schedule.changed", "ci@default", {"changed": ["env", "tags"]}),
        ("schedule.deleted", "ci@default", {"name": "backup"}),
    ]
    assert secret not in json.dumps(entries)


# ── in reach ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_restricted_key_makes_schedules_within_its_reach_alone(site):
    near, far = await site.join("web"), await site.join("db")
    web = await site.key(tags=["web"])
    body = {name: site.plain[name] for name in ("name", "command", "cron")}
    made = await web.post("/schedules", **body, machine_id=near)
    path = f"/schedules/{made['id']}"
    assert (await web.post("/schedules", **body, tags=["x", "web"]))["tags"] == ["x", "web"]
    for target in ({"machine_id": far}, {"machine_ids": [near, far]}):
        answer = await web.call("POST", "/schedules", body | target)
        assert refused(answer, 404, "machine_not_found") == {"machine_id": far}
        refused(await web.call("PATCH", path, target), 404, "machine_not_found")
    for method, where in (("POST", "/schedules"), ("PATCH", path)):
        answer = await web.call(method, where, body | {"tags": ["x"]})
        assert refused(answer, 403, "forbidden") == {"missing_tags": ["web"]}
    assert await web.get(path) == made
    assert await site.total() == 2


async def test_a_schedule_out_of_reach_is_not_there(site):
    near, far = await site.join("web"), await site.join("db")
    made = await site.make(machine_ids=[near, far])
    web = await site.key(tags=["web"])
    path = f"/schedules/{made['id']}"
    for method, where in (
        ("GET", path),
        ("PATCH", path),
        ("DELETE", path),
        ("POST", f"{path}/run"),
        ("GET", f"{path}/history"),
        ("GET", f"{path}/preview"),
    ):
        refused(await web.call(method, where, {"name": "x"}), 404, "schedule_not_found")
    assert await web.get("/schedules") == []
    assert await site.api.get(path) == made


async def test_a_list_is_filtered_and_sorted(site):
    other = await site.join("web")
    daily = await site.make(name="b")
    group = await site.make(name="a", tags=["web"], cron="0 1 * * *")
    off = await site.make(name="c", machine_ids=[other, site.machine.id], enabled=False)
    for query, expected in {
        "": [off, group, daily],
        "?sort=name": [group, daily, off],
        "?sort=-name": [off, daily, group],
        "?sort=next_run": [off, group, daily],
        "?enabled=true": [group, daily],
        "?enabled=false": [off],
        f"?machine_id={other}": [off, group],
        f"?machine_id={other}&enabled=true": [group],
        f"?machine_id={NOTHING}": [],
        "?limit=1&offset=1": [group],
    }.items():
        found = await site.api.get(f"/schedules{query}")
        assert [each["name"] for each in found] == [each["name"] for each in expected], query
