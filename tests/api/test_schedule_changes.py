"""PATCH /schedules/:id: what a change changes, and what it leaves alone."""

from collections.abc import AsyncIterator

import pytest

from cmdop_appliance.clock import rfc3339
from tests.api.schedule_site import Site, opened, why
from tests.support.stage import DAY, HOUR


@pytest.fixture
async def site(tmp_path) -> AsyncIterator[Site]:
    async with opened(tmp_path) as site:
        yield site


CHANGES = {
    "name": "other",
    "description": "other",
    "command": "true",
    "timeout": 1,
    "cwd": "/",
    "env": {"A": "b"},
    "user": "root",
    "overlap": "allow",
    "misfire": "skip",
    "misfire_window": HOUR,
    "notify": {"on_success": False, "on_failure": True},
}


async def test_a_change_changes_that_field_alone_and_no_instant(site):
    for name, value in CHANGES.items():
        made = await site.make()
        site.clock.ms += 2 * DAY  # what came due meanwhile still does
        changed = await site.api.patch(f"/schedules/{made['id']}", **{name: value})
        assert changed == made | {name: value, "updated_at": rfc3339(site.clock.ms)}
        assert await site.api.get(f"/schedules/{made['id']}") == changed


@pytest.mark.parametrize(
    ("changes", "next_run"),
    [
        ({"cron": "0 4 * * *"}, "2028-01-18T04:00:00.000Z"),
        ({"cron": "0 12 * * *"}, "2028-01-18T12:00:00.000Z"),  # not at once
        ({"timezone": "Asia/Tokyo"}, "2028-01-17T18:00:00.000Z"),
        ({"enabled": False}, None),
    ],
)
async def test_another_rule_begins_anew_from_now(site, changes, next_run):
    path = f"/schedules/{(await site.make())['id']}"
    site.clock.ms += 2 * DAY
    assert (await site.api.patch(path, **changes))["next_run"] == next_run
    await site.look()
    assert await site.api.get(f"{path}/history") == []


async def test_the_same_rule_once_more_leaves_the_instant_that_is_due(site):
    made = await site.make()
    site.clock.ms += DAY
    again = await site.api.patch(
        f"/schedules/{made['id']}", cron="0 3 * * *", timezone="UTC", enabled=True, name="other"
    )
    assert again["next_run"] == made["next_run"]


async def test_what_is_enabled_again_makes_up_for_nothing(site):
    made = await site.make(enabled=False)
    path = f"/schedules/{made['id']}"
    assert made["next_run"] is None
    assert (await site.api.patch(path, cron="0 4 * * *"))["next_run"] is None
    site.clock.ms += 3 * DAY
    enabled = await site.api.patch(path, enabled=True)
    assert enabled["next_run"] == "2028-01-19T04:00:00.000Z"
    await site.look()
    assert await site.api.get(f"{path}/history") == []


async def test_null_takes_off_what_can_be_missing(site):
    made = await site.make(timeout=5, cwd="/", user="root")
    changed = await site.api.patch(f"/schedules/{made['id']}", timeout=None, cwd=None, user=None)
    assert (changed["timeout"], changed["cwd"], changed["user"]) == (None, None, None)
    spec = (await site.kept(made)).spec
    assert (spec.timeout_ms, spec.cwd, spec.user) == (None, None, None)


TARGETS = ("machine_id", "machine_ids", "tags")


@pytest.mark.parametrize("where", TARGETS)
async def test_a_record_that_was_read_can_be_sent_back(site, where):
    target = site.machine.id if where == "machine_id" else [site.machine.id]
    if where == "tags":
        target = ["prod"]
    made = await site.make(**{where: target}, cwd="/", env={"A": "b"})
    path = f"/schedules/{made['id']}"
    site.clock.ms += 1000
    assert await site.api.patch(path, **made) == made
    assert len(await site.entries(made["id"])) == 1
    renamed = await site.api.patch(path, **made | {"name": "other"})
    assert renamed == made | {"name": "other", "updated_at": rfc3339(site.clock.ms)}
    copy = await site.api.post("/schedules", **made)
    own = dict.fromkeys(("id", "created_at", "updated_at"))
    assert copy | own == made | own
    nowhere = made | dict.fromkeys(TARGETS)
    assert set(why(await site.api.call("POST", "/schedules", nowhere))) == {"machine_id"}


async def test_null_says_nothing_of_what_every_schedule_has(site):
    made = await site.make(
        description="of all disks",
        timezone="Europe/Berlin",
        enabled=False,
        env={"A": "b"},
        overlap="allow",
        misfire="skip",
        misfire_window=HOUR,
        notify={"on_success": True},
    )
    path = f"/schedules/{made['id']}"
    given = ("description", "timezone", "enabled", "env", "overlap")
    nothing = dict.fromkeys((*given, "misfire", "misfire_window", "notify", *TARGETS))
    assert await site.api.patch(path, **nothing) == made
    for name in ("name", "command", "cron"):
        assert set(why(await site.api.call("PATCH", path, {name: None}))) == {name}


async def test_of_what_is_told_each_half_is_changed_alone(site):
    path = f"/schedules/{(await site.make(notify={'on_failure': True}))['id']}"
    changed = await site.api.patch(path, notify={"on_success": True})
    assert changed["notify"] == {"on_success": True, "on_failure": True}
    changed = await site.api.patch(path, notify={"on_failure": False})
    assert changed["notify"] == {"on_success": True, "on_failure": False}


async def test_what_changes_nothing_is_not_recorded(site):
    made = await site.make()
    site.clock.ms += 1000
    for changes in ({}, {"name": made["name"]}, {"env": {}, "timeout": None, "cron": made["cron"]}):
        assert await site.api.patch(f"/schedules/{made['id']}", **changes) == made
    assert len(await site.entries(made["id"])) == 1


async def test_one_way_to_say_where_takes_the_place_of_another(site):
    other = await site.join("web")
    path = f"/schedules/{(await site.make())['id']}"
    for target in (
        {"machine_ids": [other, site.machine.id]},
        {"tags": ["web"]},
        {"machine_id": other},
    ):
        changed = await site.api.patch(path, **target)
        where = {"machine_id": None, "machine_ids": None, "tags": None} | target
        assert {name: changed[name] for name in where} == where
        assert await site.api.get(path) == changed
