"""The parts of scripts/torture, in short: what each proves is said in its file (tests/torture)."""

from random import Random

import pytest

from tests.support.appliance import is_alive, wait_for
from tests.torture.agent_kills import AGENT_KILLS
from tests.torture.asks import judge, new_ask
from tests.torture.cuts import CUTS
from tests.torture.files_faults import CODES, FILES_FAULTS, why_not
from tests.torture.files_kills import FILES_KILLS
from tests.torture.hub_kills_followed import HUB_KILLS_FOLLOWED
from tests.torture.hub_kills_ledger import HUB_KILLS_LEDGER
from tests.torture.lost import REASONS, rebooted, why_no_reboot
from tests.torture.parts import print_ledger, run_part
from tests.torture.site import running_site, running_site_behind_proxy
from tests.torture.sweep import SINGLES, SWEEP

pytestmark = pytest.mark.slow
JOBS = 2


@pytest.fixture
def run(tmp_path, capsys):
    """Run some cases of a part; a failure is told with its seed."""

    def run(part, numbers):
        seed = Random().randrange(10**6)
        outcome = run_part(part, list(numbers), seed, JOBS, tmp_path)
        print_ledger([outcome])
        assert outcome.is_good, capsys.readouterr().out

    return run


def test_kill_9_of_the_agent_costs_no_byte_and_no_exit_code(run):
    run(AGENT_KILLS, range(10))


def test_kill_9_of_the_hub_shows_followers_no_gap_and_no_repeat(run):
    run(HUB_KILLS_FOLLOWED, range(5))


def test_kill_9_of_the_hub_loses_and_doubles_nothing_that_was_acknowledged(run):
    run(HUB_KILLS_LEDGER, range(5))


def test_a_link_that_is_cut_all_the_time_costs_no_byte_and_starts_nothing_twice(run):
    run(CUTS, range(40))


@pytest.mark.long
def test_a_fall_at_any_step_starts_nothing_twice_and_leaves_nothing_without_its_true_end(run):
    run(SWEEP, [*range(15), *range(len(SINGLES), len(SINGLES) + 15)])


def test_kill_9_in_mid_upload_leaves_the_old_file_or_the_new_and_no_litter(run):
    run(FILES_KILLS, range(10))


@pytest.mark.skipif(bool(why_not()), reason=f"NOT TESTED: {why_not()}")
@pytest.mark.parametrize("errno", CODES)
def test_a_disk_that_fails_at_any_call_of_a_write_costs_that_write_alone(run, errno):
    run(FILES_FAULTS, [list(CODES).index(errno)])


@pytest.mark.parametrize("produce", REASONS, ids=lambda produce: produce.__name__)
def test_a_lost_command_has_its_reason_and_no_exit_code(produce, tmp_path):
    if produce is rebooted and (why := why_no_reboot()):
        pytest.skip(why)
    produce(tmp_path, Random(1))


def test_a_half_open_link_is_replaced_and_its_commands_go_on(tmp_path):
    config = "[sessions]\nsilent_ms = 1000\n"
    with running_site_behind_proxy(tmp_path, "half open", config) as (site, proxy):
        ask = new_ask(tmp_path / "asks", Random(1), lasts_s=0.3, most_bytes=100_000)
        command_id = site.api.ask(site.agent.machine_id, ask)
        proxy.freeze()
        machine = f"/machines/{site.agent.machine_id}/session"
        wait_for(
            lambda: site.api.call("GET", machine).data["status"] != "CONNECTED",
            "the hub takes the silent link for dead",
        )
        proxy.cut()
        proxy.thaw()
        judge(site.api, site.api.end_of(command_id), ask)


def test_whoever_is_paused_goes_on_where_it_was(tmp_path):
    with running_site(tmp_path) as site:
        for number, paused in enumerate((site.agent, site.hub, site.agent.keeper)):
            ask = new_ask(tmp_path / "asks", Random(number), lasts_s=0.2, most_bytes=100_000)
            command_id = site.api.ask(site.agent.machine_id, ask)
            leaders = site.agent.keeper.children()
            paused.suspend()
            wait_for(lambda leaders=leaders: not any(map(is_alive, leaders)), "it has ended")
            paused.resume()
            judge(site.api, site.api.end_of(command_id), ask)


def test_what_an_agent_said_once_convinces_no_hub_when_it_is_said_again(tmp_path):
    with running_site_behind_proxy(tmp_path, "replay") as (site, proxy):
        ask = new_ask(tmp_path / "asks", Random(3), lasts_s=0, most_bytes=10_000)
        command_id = site.api.ask(site.agent.machine_id, ask)
        record = site.api.end_of(command_id)
        judge(site.api, record, ask)
        answer = proxy.replay()
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"welcome" not in answer
        session = site.api.get(f"/machines/{site.agent.machine_id}/session")
        assert session["status"] == "CONNECTED"
        assert site.api.get(f"/commands/{command_id}") == record
