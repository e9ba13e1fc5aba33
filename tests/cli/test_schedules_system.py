"""`cmdop schedules` against a hub with a machine, all of it real."""

import json

import pytest

from tests.support.appliance import wait_for

NAME = "Nightly backup"


@pytest.fixture
def cmdop(hub, command_line):
    """Runs the command line: (its exit code, what it printed, what it said)."""

    def run(*args, key=hub.api.key):
        return command_line(hub.api.url, key, *args)

    return run


@pytest.fixture
def schedule(hub, agent, cmdop):
    """The id of a schedule that fires in the night of the test."""
    create = ["schedules", "create", NAME, "--cron", "30 2 * * *", "--tz", "Europe/Berlin"]
    code, out, err = cmdop(*create, "-m", agent.name, "-q", "--", "echo done; exit 7")
    assert (code, err) == (0, "")
    yield out.strip()
    assert cmdop("schedules", "rm", NAME)[0] == 0


def test_a_schedule_is_made_run_and_followed_to_its_end(hub, agent, schedule, cmdop):
    record = hub.api.get(f"/schedules/{schedule}")
    assert (record["machine_id"], record["rule"]) == (agent.machine_id, "at 02:30 every day")
    assert cmdop("schedules", "run", NAME, "--follow") == (7, "done\n", "")
    _, out, _ = cmdop("schedules", "history", NAME)
    at, status, exit_code, duration, machine, command_id, *why = out.rstrip("\n").split("\t")
    assert (at, status, exit_code, machine) == ("by hand", "failed", "7", agent.name)
    assert duration.endswith(" s")
    assert hub.api.get(f"/commands/{command_id}")["exit_code"] == 7
    assert why == ["-", "-"]
    wait_for(lambda: hub.api.get(f"/schedules/{schedule}")["last_run"], "the run is the last one")
    _, out, _ = cmdop("schedules", "ls", "-o", "jsonl")
    assert json.loads(out)["last_run"]["exit_code"] == 7


def test_it_is_changed_paused_and_resumed(hub, schedule, cmdop):
    code, out, _ = cmdop("schedules", "edit", NAME, "--cron", "@hourly", "--timeout", "5m")
    assert (code, out.splitlines()[1]) == (0, "every hour (Europe/Berlin)")
    assert len(out.splitlines()) == 7
    assert cmdop("schedules", "edit", NAME, "--unset", "timeout", "--", "uptime")[0] == 0
    assert cmdop("schedules", "pause", NAME)[0] == 0
    record = hub.api.get(f"/schedules/{schedule}")
    assert (record["cron"], record["timeout"], record["command"]) == ("@hourly", None, "uptime")
    assert (record["enabled"], record["next_run"]) == (False, None)
    assert "\tpaused\t" in cmdop("schedules", "ls")[1]
    assert cmdop("schedules", "resume", NAME)[2].startswith(f"resumed {NAME} ({schedule}): it runs")


def test_a_preview_tells_what_the_change_of_the_clocks_does(cmdop):
    rule = ["30 2 28,29,30 3 *", "--tz", "Europe/Berlin", "-n", "9"]
    code, out, _ = cmdop("schedules", "preview", *rule)
    assert (code, out.splitlines()[0]) == (
        0,
        "at 02:30 on days 28 to 30 of March (Europe/Berlin)",
    )
    assert any("02:30 does not exist" in line for line in out.splitlines())
    code, _, err = cmdop("schedules", "preview", "0 3 * * * *")
    assert (code, err.startswith("error: Validation failed: cron: ")) == (1, True)
    code, _, err = cmdop("schedules", "preview", "@daily", "--tz", "Europe/Berlinn")
    assert "Europe/Berlin" in err


def test_a_key_that_may_not_is_told_so(hub, schedule, cmdop):
    key = hub.new_key("schedules:read").key
    assert schedule in cmdop("schedules", "ls", key=key)[1]  # without the names of machines
    code, _, err = cmdop("schedules", "run", NAME, key=key)
    assert (code, "schedules:write" in err) == (4, True)
