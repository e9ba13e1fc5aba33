"""Which paths exist, asked of a real machine."""

import pytest

from tests.api.contract_table import error_of
from tests.api.worlds import new_workspace, of_tags
from tests.support.appliance import Api, running_agent, stopped_agent
from tests.support.machine_files import MachineFiles


def exist(api: Api, machine_id: str, body: object):
    return api.call("POST", f"/api/machines/{machine_id}/paths/exists", body)


def test_paths_exist_by_the_names_that_were_sent(hub, agent, folder):
    (folder / "f").touch()
    (folder / "broken").symlink_to("nowhere")
    paths = {
        str(folder): True,
        f"{folder}/": True,
        f"{folder}/./f": True,
        f"{folder}/broken": True,
        f"{folder}/\u00fc": False,
        f"{folder}/f/g": False,
        "\0": False,
        "/" + "x" * 5000: False,
        "": False,
    }
    answer = exist(hub.api, agent.machine_id, {"paths": [*paths, *paths]})
    assert (answer.status, answer.json) == (200, {"exists": paths})


def test_home_exists_by_the_name_that_spawn_takes_and_the_machine_tells_it(hub, agent, files):
    paths = {"~": True, "~/": True, "~/../~": False, "~nobody": False}
    assert exist(hub.api, agent.machine_id, {"paths": [*paths]}).json == {"exists": paths}
    machines = hub.api.call("GET", "/api/machines").json["machines"]
    (home,) = (each["metadata"]["homeDir"] for each in machines if each["id"] == agent.machine_id)
    assert home == files.call("GET", "").data["path"]


def test_a_thousand_long_paths_are_one_question(hub, agent, folder):
    paths = [f"{folder}/{number:04}{'x' * 900}" for number in range(999)] + [str(folder)]
    answer = exist(hub.api, agent.machine_id, {"paths": paths})
    assert answer.json == {"exists": {path: path == str(folder) for path in paths}}


def test_the_empty_path_alone_is_not_there_on_a_machine_that_is(hub, agent):
    answer = exist(hub.api, agent.machine_id, {"paths": [""]})
    assert (answer.status, answer.json) == (200, {"exists": {"": False}})


@pytest.mark.parametrize(
    "body", [{}, {"paths": []}, {"paths": ["/"] * 1001}, {"paths": [1]}, {"paths": "/"}, [], b"{"]
)
def test_what_is_no_list_of_paths_is_a_bad_request(hub, agent, body):
    headers = {"Content-Type": "application/json"}
    path = f"/api/machines/{agent.machine_id}/paths/exists"
    answer = hub.api.call("POST", path, body, headers=headers)
    assert answer.status == 400
    assert set(answer.json) == {"error", "code"}


def test_a_machine_that_is_away_unknown_or_asked_by_nobody_is_answered_as_hapi_does(hub, place):
    with running_agent(hub, place, "leaves") as agent:
        machine_id = agent.machine_id
    body = {"paths": ["/"]}
    answer = exist(hub.api, machine_id, body)
    assert (answer.status, answer.json["error"]) == (503, "Not connected")
    answer = exist(hub.api, "mach_x", body)
    assert (answer.status, answer.json["error"]) == (404, "Machine not found")
    answer = exist(Api(hub.api.url, ""), machine_id, body)
    assert (answer.status, answer.json["error"]) == (401, "Invalid access token")


def test_another_workspaces_machine_is_no_secret_there_and_one_out_of_reach_is(hub, agent):
    body = {"paths": ["/"]}
    answer = exist(new_workspace(hub), agent.machine_id, body)
    assert (answer.status, answer.json["error"]) == (403, "Machine access denied")
    answer = exist(of_tags(hub.api, "web"), agent.machine_id, body)
    assert (answer.status, answer.json["error"]) == (404, "Machine not found")


def test_a_machine_whose_owner_lets_nobody_look_fails_to_answer_and_says_why(hub, place):
    with stopped_agent(place, "closed") as agent:
        agent.state_dir.mkdir(mode=0o700)
        (agent.state_dir / "agent.toml").write_text("[files]\nread = false\n")
        agent.join(hub)
        answer = exist(hub.api, agent.machine_id, {"paths": ["/"]})
        assert (answer.status, answer.json["code"]) == (500, "path_not_allowed")
        assert "agent.toml" in answer.json["error"]
        closed = MachineFiles(hub.api, agent.machine_id)
        error_of(closed.call("GET", "", "/"), 403, "path_not_allowed")
