"""/metrics: what Prometheus reads is what was done."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cmdop_appliance import __version__
from cmdop_appliance.api import app as app  # fills the table
from cmdop_appliance.api.registry import ROUTES
from tests.api.worlds import new_workspace, of_tags
from tests.support.appliance import Api, running_agent, running_hub

_POST = {"plane": "cmdop", "method": "POST", "route": "run_command"}


class Scrape:
    """One reading: the value of each sample by its name and labels."""

    def __init__(self, api: Api) -> None:
        answer = api.call("GET", "/metrics", prefix="")
        assert answer.status == 200, answer
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        self.families = list(text_string_to_metric_families(answer.body.decode()))
        self._values = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self._values.get((name, *sorted(labels.items())), 0.0)


@pytest.fixture
def scraper(hub):
    """A key that may read the numbers and nothing else."""
    return hub.new_key("metrics:read")


def test_what_was_done_is_what_was_counted(hub, agent, scraper):
    before = Scrape(scraper)
    for _ in range(3):
        hub.api.run(agent.machine_id, "head -c 1000 /dev/zero")
    hub.api.run(agent.machine_id, "exit 1")
    hub.api.post("/commands/batch", machine_ids=[agent.machine_id, "mach_x"], command="true")
    open_id = hub.api.start(agent.machine_id, "sleep 60")
    hub.api.call("POST", "/commands", {"machine_id": agent.machine_id})
    hub.api.call("GET", "/no/such/route")
    rule = {"name": "x", "machine_id": agent.machine_id, "command": "true", "cron": "@yearly"}
    hub.api.post("/schedules", **rule)
    hub.api.post("/schedules", **rule, enabled=False)
    after = Scrape(scraper)

    def grown(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    assert grown("cmdop_commands_accepted_total") == 6
    assert grown("cmdop_commands_ended_total", status="completed") == 4
    assert grown("cmdop_commands_ended_total", status="failed") == 1
    assert after("cmdop_commands_open", status="running") == 1
    assert grown("cmdop_schedules", state="enabled") == 1
    assert grown("cmdop_schedules", state="disabled") == 1
    assert after("cmdop_schedules_paused") == 0
    assert grown("cmdop_output_received_bytes_total") == 3000
    assert grown("cmdop_requests_total", **_POST, status="200") == 4
    assert grown("cmdop_requests_total", **_POST, status="422") == 1
    assert grown("cmdop_request_duration_seconds_count", **_POST) == 5
    assert grown("cmdop_request_duration_seconds_bucket", **_POST, le="+Inf") == 5
    assert grown("cmdop_request_duration_seconds_sum", **_POST) > 0
    assert grown("cmdop_requests_total", plane="", method="", route="", status="404") == 1
    assert grown("cmdop_store_commits_total") > 0
    assert grown("cmdop_store_commit_seconds_total") > 0
    assert after("cmdop_machines", state="online") == 1
    assert after("cmdop_machines", state="offline") == 0
    assert after("cmdop_sessions", status="CONNECTED") == 1
    assert after("cmdop_build_info", version=__version__) == 1
    assert after("cmdop_disk_free_bytes") > 0
    assert after("cmdop_store_log_bytes") > 0
    assert after("process_resident_memory_bytes") > 1_000_000
    assert after("process_open_fds") > 3

    hub.api.delete(f"/commands/{open_id}")
    hub.api.wait_end(open_id)
    last = Scrape(scraper)
    assert last("cmdop_commands_ended_total", status="cancelled") == 1
    assert last("cmdop_commands_open", status="running") == 0


def test_a_machine_that_left_is_counted_as_offline(tmp_path):
    with running_hub(tmp_path) as hub:
        with running_agent(hub, tmp_path, "gone"):
            assert Scrape(hub.api)("cmdop_machines", state="online") == 1
        scrape = Scrape(hub.api)
        assert scrape("cmdop_machines", state="online") == 0
        assert scrape("cmdop_machines", state="offline") == 1
        assert scrape("cmdop_sessions", status="CONNECTED") == 0


def test_nothing_that_is_asked_for_makes_a_new_label(hub, scraper):
    names = {route.name for route in ROUTES} | {""}
    for path in ("/machines/mach_canary", "/commands/cmd_canary", "/canary"):
        for method in ("GET", "DELETE", "CANARY"):
            hub.api.call(method, path)
    for family in Scrape(scraper).families:
        for sample in family.samples:
            assert "canary" not in str(sample.labels).lower()
            assert sample.labels.get("route", "") in names


def test_the_numbers_are_not_for_everybody(hub):
    assert Api(hub.api.url, "").call("GET", "/metrics", prefix="").status == 401
    assert hub.new_key("machines:read").call("GET", "/metrics", prefix="").status == 403


def test_the_numbers_of_all_workspaces_are_for_the_owner_of_the_hub_alone(hub):
    for key in (new_workspace(hub), of_tags(hub.api, "web")):
        answer = key.call("GET", "/metrics", prefix="")
        assert (answer.status, answer.error["code"]) == (403, "forbidden")
        assert b"cmdop_machines" not in answer.body
