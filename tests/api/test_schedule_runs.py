"""/schedules: run by hand and by time, what their histories tell, and when they come due."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from cmdop_appliance import RELEASED_MS
from cmdop_appliance.clock import rfc3339
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.messages import Acknowledge, Dispatch, Started
from cmdop_appliance.store import commands, runs, sessions
from tests.api.schedule_site import BEGIN, Site, opened, refused, why
from tests.support import records
from tests.support.live_hub import ScriptedAgent, finished
from tests.support.records import REACH
from tests.support.stage import DAY, HOUR, MINUTE


@pytest.fixture
async def site(tmp_path) -> AsyncIterator[Site]:
    async with opened(tmp_path) as site:
        yield site


# ── by hand, and what came of it ─────────────────────────────────────────────────────────────────


async def test_a_run_by_hand_reaches_the_machine_and_its_end_is_told(site):
    agent = ScriptedAgent(site.live)
    link = await agent.join()
    machine = await agent.machine()
    made = await site.make(machine_id=machine.id, enabled=False, env={"A": "b"}, timeout=5000)
    path = f"/schedules/{made['id']}"
    other = await site.key("schedules:write", name="other")
    run = await other.post(f"{path}/run")
    assert run == {
        "command_id": run["command_id"],
        "status": "running",
        "commands": {machine.id: run["command_id"]},
    }
    dispatch = await link.expect(Dispatch)
    assert dispatch.id == run["command_id"]
    assert (dispatch.spec.env, dispatch.spec.timeout_ms) == ({"A": "b"}, 5000)
    assert (await site.api.get(f"{path}/history"))[0]["status"] == "pending"
    assert (await site.api.get(path))["last_run"] is None
    await link.say(Started(id=dispatch.id, started_ms=site.clock.ms))
    site.clock.ms += 2000
    await link.say(Output(dispatch.id, "stdout", 0, b"\xffdone\n"))
    await link.say(finished(dispatch.id, b"\xffdone\n", exit_code=3, duration_ms=1500))
    while not isinstance(await link.hear(), Acknowledge):
        pass
    (line,) = await site.api.get(f"{path}/history")
    assert line == {
        "id": line["id"],
        "schedule_id": made["id"],
        "scheduled_at": None,
        "first_scheduled_at": None,
        "machine_id": machine.id,
        "command_id": dispatch.id,
        "status": "failed",
        "reason": None,
        "message": None,
        "clock_was_ahead": False,
        "started_at": rfc3339(BEGIN),
        "finished_at": rfc3339(BEGIN + 1500),
        "exit_code": 3,
        "duration": 1500,
        "stdout": "\ufffddone\n",
        "stderr": "",
        "stdout_truncated": False,
        "stderr_truncated": False,
    }
    last_run = {"at": rfc3339(BEGIN), "exit_code": 3, "duration": 1500}
    assert (await site.api.get(path))["last_run"] == last_run
    assert (await site.api.get("/schedules"))[0]["last_run"] == last_run
    assert (await site.entries(made["id"]))[-1]["action"] == "schedule.run"
    assert site.live.hub.commands.accepted == 1


async def test_a_run_by_hand_on_a_machine_that_is_away_is_refused(site):
    made = await site.make()
    await site.live.hub.store.run(sessions.end_of, site.machine.id, site.clock.ms)
    answer = await site.api.call("POST", f"/schedules/{made['id']}/run")
    details = refused(answer, 409, "session_not_active")
    assert details == {"current_status": "DISCONNECTED", "machine_id": site.machine.id}
    assert await site.api.get(f"/schedules/{made['id']}/history") == []


async def test_a_group_runs_on_those_of_its_machines_that_are_there(site):
    there, away = await site.join("web"), await site.join("web")
    await site.live.hub.store.run(sessions.end_of, away, site.clock.ms)
    path = f"/schedules/{(await site.make(tags=['web']))['id']}"
    run = (await site.api.call("POST", f"{path}/run", once="k")).data
    assert set(run["commands"]) == {there}
    assert run["command_id"] == run["commands"][there]
    assert (await site.api.call("POST", f"{path}/run", once="k")).data == run
    lines = {line["machine_id"]: line for line in await site.api.get(f"{path}/history")}
    assert set(lines) == {there, away}
    line = lines[away]
    assert (line["status"], line["reason"]) == ("skipped", "machine_offline")
    assert (line["command_id"], line["stdout"], line["started_at"]) == (None, "", None)


async def ended(site: Site, made: Any, **fields) -> str:
    """The id of a run by hand whose command has ended so."""
    run = await site.api.post(f"/schedules/{made['id']}/run")
    command = await site.live.hub.store.run(commands.get, REACH, run["command_id"])
    await site.live.hub.store.run(commands.finish, records.ended(command, **fields))
    return run["command_id"]


async def test_a_command_that_never_began_says_why(site):
    made = await site.make()
    never = {"started_ms": None, "exit_code": None, "duration_ms": None}
    for error_code, message, reason in (
        (None, None, "expired"),
        ("superseded", "another took its place", "superseded"),
    ):
        await ended(
            site, made, status="expired", error_code=error_code, error_message=message, **never
        )
        site.clock.ms += 1
        line = (await site.api.get(f"/schedules/{made['id']}/history"))[0]
        assert (line["status"], line["reason"], line["message"]) == ("expired", reason, message)


async def test_a_history_shows_the_ends_of_what_is_long(site):
    made = await site.make()
    run = await site.api.post(f"/schedules/{made['id']}/run")
    hub, command_id = site.live.hub, run["command_id"]
    hub.outputs.append(command_id, "stdout", 0, b"head" + b"." * 50_000 + b"tail")
    hub.outputs.append(command_id, "stderr", 0, b"x" * 16 * 1024)
    (line,) = await site.api.get(f"/schedules/{made['id']}/history")
    assert len(line["stdout"]) == 16 * 1024
    assert line["stdout"].startswith("head.")
    assert line["stdout"].endswith(".tail")
    assert (line["stdout_truncated"], line["stderr_truncated"]) == (True, False)
    assert line["stderr"] == "x" * 16 * 1024


async def test_a_history_is_looked_up_in_one_transaction(site, monkeypatch):
    path = f"/schedules/{(await site.make())['id']}"
    store, transactions = site.live.hub.store, []
    run = store.run

    async def counted(fn, *args, **fields):
        transactions.append(fn)
        return await run(fn, *args, **fields)

    monkeypatch.setattr(store, "run", counted)
    await site.api.get(path)
    of_a_record = len(transactions)
    await site.api.get(f"{path}/history")
    assert len(transactions) == 2 * of_a_record


async def test_output_is_for_those_who_may_read_commands(site):
    made = await site.make()
    path = f"/schedules/{made['id']}/history"
    run = await site.api.post(f"/schedules/{made['id']}/run")
    site.live.hub.outputs.append(run["command_id"], "stdout", 0, b"s3cret" * 10_000)
    for scope in ("sessions:read", "commands:execute", "admin"):
        reader = await site.key("schedules:read", scope)
        assert "s3cret" in (await reader.get(path))[0]["stdout"]
    answer = await (await site.key("schedules:read")).call("GET", path)
    (line,) = answer.data
    assert (line["stdout"], line["stderr"]) == (None, None)
    assert (line["stdout_truncated"], line["stderr_truncated"]) == (False, False)
    assert b"s3cret" not in answer.body


async def test_firings_by_time_are_told_with_their_instants(site):
    made = await site.make(cron="* * * * *")
    site.clock.ms += MINUTE
    await site.look()
    site.clock.ms += MINUTE  # while that is under way
    await site.look()
    path = f"/schedules/{made['id']}/history"
    skipped, begun = await site.api.get(path)
    assert (begun["scheduled_at"], begun["status"]) == (rfc3339(BEGIN + MINUTE), "pending")
    assert (skipped["scheduled_at"], skipped["status"]) == (rfc3339(BEGIN + 2 * MINUTE), "skipped")
    assert skipped["reason"] == "overlap"
    assert begun["command_id"] in skipped["message"]
    since = rfc3339(BEGIN + 2 * MINUTE)
    assert await site.api.get(f"{path}?since={since}") == [skipped]
    page = await site.api.call("GET", f"{path}?limit=1&offset=1")
    assert page.data == [begun]
    assert (page.json["meta"]["total"], page.json["meta"]["has_more"]) == (2, False)
    assert (await site.api.call("GET", f"{path}?limit=101")).json["meta"]["limit"] == 100


async def test_many_missed_firings_that_share_a_line_say_since_when(site):
    made = await site.make(cron="* * * * *")
    kept = await site.kept(made)
    line = records.run(
        kept,
        None,
        status="missed",
        scheduled_ms=BEGIN + HOUR,
        first_ms=BEGIN + MINUTE,
        is_ahead=True,
        machine_id=None,
    )
    await site.live.hub.store.run(runs.insert, [line])
    (shown,) = await site.api.get(f"/schedules/{made['id']}/history")
    assert shown["first_scheduled_at"] == rfc3339(BEGIN + MINUTE)
    assert shown["scheduled_at"] == rfc3339(BEGIN + HOUR)
    assert (shown["clock_was_ahead"], shown["machine_id"]) == (True, None)


# ── when it comes due ────────────────────────────────────────────────────────────────────────────


async def test_a_preview_tells_what_the_clocks_do_to_a_rule(site):
    site.clock.ms = BEGIN + 70 * DAY  # 2028-03-25, a day before Berlin loses an hour
    made = await site.make(cron="30 2 * * *", timezone="Europe/Berlin", enabled=False)
    preview = await site.api.get(f"/schedules/{made['id']}/preview?count=2")
    gap, after = preview["next_runs"]
    assert preview["description"] == made["rule"] == "at 02:30 every day"
    assert (gap["utc"], gap["local"]) == (
        "2028-03-26T01:00:00.000Z",
        "2028-03-26T03:00:00+02:00",
    )
    assert "02:30" in gap["note"]
    assert (after["utc"], after["note"]) == ("2028-03-27T00:30:00.000Z", None)
    asked = {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "count": 2}
    assert await site.api.post("/schedules/preview", **asked) == preview


async def test_a_preview_has_five_instants_unless_asked_for_others(site):
    made = await site.make()
    path = f"/schedules/{made['id']}/preview"
    assert len((await site.api.get(path))["next_runs"]) == 5
    assert (await site.api.get(path))["next_runs"][0]["utc"] == made["next_run"]
    for count in (1, 1000):
        assert len((await site.api.get(f"{path}?count={count}"))["next_runs"]) == count
        asked = await site.api.post("/schedules/preview", cron="@hourly", count=count)
        assert len(asked["next_runs"]) == count


async def test_a_preview_that_is_asked_for_again_is_the_first_one(site):
    body = {"cron": "* * * * *"}
    first = (await site.api.call("POST", "/schedules/preview", body, once="k")).data
    site.clock.ms += HOUR
    assert (await site.api.call("POST", "/schedules/preview", body, once="k")).data == first
    assert (await site.api.call("POST", "/schedules/preview", body)).data != first


async def test_a_zone_that_is_no_more_is_told_in_the_place_of_the_rule(site):
    made = await site.make()
    await site.live.hub.store.run(
        lambda tx: tx.execute("UPDATE schedule SET timezone = 'Mars/Base'")
    )
    path = f"/schedules/{made['id']}"
    assert "'Mars/Base' is not a known time zone" in (await site.api.get(path))["rule"]
    assert "timezone" in why(await site.api.call("GET", f"{path}/preview"))
    for fine in ({"name": "x"}, {"enabled": False}):
        assert (await site.api.call("PATCH", path, fine)).status == 200
    for wrong in ({"enabled": True}, {"cron": "@daily"}):
        assert "timezone" in why(await site.api.call("PATCH", path, wrong))
    assert (await site.api.patch(path, timezone="UTC"))["rule"] == made["rule"]


async def test_a_clock_that_is_certainly_wrong_shows_in_every_schedule(tmp_path):
    async with opened(tmp_path, RELEASED_MS - 1) as site:
        made = await site.make()
        for shown in (made, *await site.api.get("/schedules")):
            assert "nothing fires until it is set" in shown["paused"]
        site.clock.ms += 1
        assert (await site.api.get(f"/schedules/{made['id']}"))["paused"] is None
