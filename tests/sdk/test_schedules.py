"""Schedules by the synchronous client: what is asked, and what comes back."""

from datetime import UTC, datetime
from typing import get_args, get_type_hints

import pytest

from cmdop_appliance.api.cmdop import schedule_records
from cmdop_appliance.sdk.schedule_types import ScheduleChanges
from tests.sdk.kinds import Client
from tests.sdk.scripted_hub import answer, asked_of, scripted_hub, sent_by

pytestmark = pytest.mark.usefixtures("kind")

SINCE = datetime(2026, 2, 14, 10, 30, tzinfo=UTC)


def _asked(call, data):
    return asked_of(lambda sdk: call(sdk.schedules), data)


def _sent(call):
    return sent_by(lambda sdk: call(sdk.schedules))


def test_a_schedule_is_made_with_what_was_said_of_it_and_nothing_else():
    options = {"tags": ["web"], "timeout_ms": 5000, "misfire_window_ms": 60_000, "overlap": "queue"}
    made = _sent(lambda s: s.create("b", "true", "@daily", user=None, **options))
    body = {"name": "b", "command": "true", "cron": "@daily", "tags": ["web"], "timeout": 5000}
    assert made == ("POST", "/schedules", {**body, "misfire_window": 60_000, "overlap": "queue"})


def test_a_change_names_only_what_changes_and_none_takes_off():
    changed = _sent(lambda s: s.update("s/1", cron="@hourly", enabled=False, timeout_ms=None))
    body = {"cron": "@hourly", "enabled": False, "timeout": None}
    assert changed == ("PATCH", "/schedules/s%2F1", body)


def test_a_create_and_a_run_have_the_callers_key_or_one_of_their_own():
    for call in (
        lambda s, key: s.create("b", "true", "@daily", machine_id="m", idempotency_key=key),
        lambda s, key: s.run("sched_1", idempotency_key=key),
    ):
        keys = [
            _asked(lambda s, call=call, key=key: call(s, key), {})[1].headers["idempotency-key"]
            for key in ("mine", None, None)
        ]
        assert keys[0] == "mine"
        assert len(set(keys)) == 3


def test_the_rest_is_asked_for_where_it_is():
    assert _sent(lambda s: s.get("s 1"))[:2] == ("GET", "/schedules/s%201")
    assert _sent(lambda s: s.run("s1"))[:2] == ("POST", "/schedules/s1/run")
    assert _sent(lambda s: s.preview_rule("@daily", timezone="Asia/Tokyo", count=3)) == (
        *("POST", "/schedules/preview"),
        {"cron": "@daily", "timezone": "Asia/Tokyo", "count": 3},
    )
    _, asked = _asked(lambda s: s.preview("s1", count=7), {})
    assert (asked.path, asked.query) == ("/api/v1/schedules/s1/preview", "count=7")
    _, asked = _asked(lambda s: s.delete("s1"), {})
    assert (asked.method, asked.path) == ("DELETE", "/api/v1/schedules/s1")


def test_lists_ask_for_what_they_are_asked_for():
    _, asked = _asked(lambda s: s.list(machine_id="m1", enabled=False), [])
    assert asked.query == "machine_id=m1&enabled=false&limit=100&offset=0"
    _, asked = _asked(lambda s: s.history("s1", since=SINCE, page_items=5), [])
    assert asked.path == "/api/v1/schedules/s1/history"
    assert asked.query == "since=2026-02-14T10%3A30%3A00%2B00%3A00&limit=5&offset=0"


def test_a_history_of_several_pages_is_whole():
    def script(asked):
        first = "offset=0" in asked.query
        return answer([{"id": "run_2" if first else "run_1"}], meta={"has_more": first})

    with scripted_hub(script) as hub, Client(hub.url, "k") as sdk:
        assert [run["id"] for run in sdk.schedules.history("s1")] == ["run_2", "run_1"]


def test_an_option_that_there_is_not_is_named():
    for call in (
        lambda s: s.create("b", "true", "@daily", timeout=5),
        lambda s: s.update("s1", timeout=5),
    ):
        with (
            scripted_hub(lambda _: answer({})) as hub,
            Client(hub.url, "k") as sdk,
            pytest.raises(TypeError, match=r"no option timeout; known are .*description"),
        ):
            call(sdk.schedules)
        assert hub.asked == []


def test_a_change_has_the_fields_of_the_hub_and_none_only_for_what_can_be_taken_off():
    hints = get_type_hints(ScheduleChanges)
    assert {name.removesuffix("_ms") for name in hints} == {
        *schedule_records.ScheduleChanges.__struct_fields__
    }
    assert {name for name, hint in hints.items() if type(None) in get_args(hint)} == {
        "timeout_ms",
        "cwd",
        "user",
    }
