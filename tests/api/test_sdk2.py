"""The plane of the CMDOP SDK 2.0 as it is on the wire: exact keys, scopes, reach (contract §10).

`tests/system/test_published_client.py` lets the published client itself loose on it.
"""

import json
import threading
from itertools import pairwise

import pytest

from cmdop_appliance.api.sdk2.messages import REPLY_BYTES
from tests.support.appliance import PATIENCE_S, Api, running_agent, running_hub, wait_for

MACHINES = "/api/admin/machines"
MACHINE_KEYS = {
    "machine_id": str,
    "display_name": str,
    "portable_name": str,
    "fleet_id": str,
    "connected": bool,
    "requires_pin": bool,
    "last_seen_at": str,
    "unread": int,
}
MESSAGE_KEYS = {
    "id": str,
    "seq": int,
    "author_kind": str,
    "author_id": str,
    "role": str,
    "content": str,
    "created_at": int,
}


def exactly(value: dict[str, object], keys: dict[str, type]) -> None:
    """The client refuses a key too many, one too few, and null."""
    assert {name: type(item) for name, item in value.items()} == keys


def ask(api: Api, machine_id: str, prompt: str, headers=None, **fields):
    """The frames of an answer that ends."""
    body = {"prompt": prompt, **fields}
    answer = api.call("POST", f"{MACHINES}/{machine_id}/ask", body, headers=headers or {})
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "text/event-stream"
    return [json.loads(line[6:]) for line in answer.body.split(b"\n\n") if line]


def messages(api: Api, machine_id: str, query: str = ""):
    answer = api.call("GET", f"{MACHINES}/{machine_id}/messages{query}")
    assert answer.status == 200, answer
    return answer.json


def refused(answer, status: int, code: str) -> None:
    assert (answer.status, set(answer.json)) == (status, {"error", "code"}), answer
    assert answer.json["code"] == code


def test_bootstrap_is_for_any_key_and_has_no_key_too_many(hub):
    assert Api(hub.api.url, "").call("GET", "/api/bootstrap").status == 401
    told = hub.new_key("files:read").call("GET", "/api/bootstrap").json
    exactly(told, {"bundle_id": str, "web_contract": dict, "capabilities": list})
    exactly(told["web_contract"], dict.fromkeys(("current", "min_client", "max_client"), int))


def test_a_snapshot_is_newer_than_the_one_before_and_has_no_key_too_many(hub, agent):
    first, second = (hub.api.call("GET", f"{MACHINES}/snapshot").json for _ in range(2))
    exactly(first, {"epoch": str, "sequence": int, "machines": list})
    (machine,) = first["machines"]
    exactly(machine, MACHINE_KEYS)
    assert (machine["machine_id"], machine["connected"]) == (agent.machine_id, True)
    assert first["epoch"] == second["epoch"]
    assert first["sequence"] <= second["sequence"]


def test_a_command_is_a_question_and_its_output_the_answer(hub, agent):
    command = hub.api.run(agent.machine_id, "echo out; echo err >&2")
    question, answer = messages(hub.api, agent.machine_id, "?limit=2")
    exactly(question, MESSAGE_KEYS)
    exactly(answer, MESSAGE_KEYS)
    assert question["id"] == command["id"]
    assert (question["role"], question["content"]) == ("user", "echo out; echo err >&2")
    assert (question["author_kind"], question["author_id"]) == ("user", "admin@default")
    assert (answer["role"], answer["content"]) == ("assistant", "out\nerr\n")
    assert (answer["author_kind"], answer["author_id"]) == ("machine", agent.machine_id)
    assert question["created_at"] <= answer["created_at"]


def test_messages_keep_their_ids_and_numbers_and_their_order(hub, agent):
    for number in range(3):
        hub.api.run(agent.machine_id, f"echo {number}")
    told = messages(hub.api, agent.machine_id)
    assert told == messages(hub.api, agent.machine_id)
    assert all(one["seq"] < other["seq"] < 2**53 for one, other in pairwise(told))
    assert len({message["id"] for message in told}) == len(told)
    for limit in (1, 2, 3, 5):
        assert messages(hub.api, agent.machine_id, f"?limit={limit}") == told[-limit:]


def test_what_goes_on_is_a_question_without_an_answer(hub, agent):
    command_id = hub.api.start(agent.machine_id, "sleep 60")
    (last,) = messages(hub.api, agent.machine_id, "?limit=1")
    assert (last["id"], last["role"]) == (command_id, "user")
    hub.api.delete(f"/commands/{command_id}")
    hub.api.wait_end(command_id)
    assert messages(hub.api, agent.machine_id, "?limit=1")[0]["role"] == "assistant"


def test_a_session_has_what_was_asked_in_it_and_nothing_else(hub, agent):
    ask(hub.api, agent.machine_id, "echo mine", session="Talk")
    hub.api.run(agent.machine_id, "echo other", serial_key="talk")
    hub.api.run(agent.machine_id, "echo false", env={"serial_key": "Talk"})
    told = messages(hub.api, agent.machine_id, "?session=Talk")
    assert told == messages(hub.api, agent.machine_id, "?session=Talk&limit=2")  # none crowds in
    assert [message["content"] for message in told] == ["echo mine", "mine\n"]
    assert messages(hub.api, agent.machine_id, "?session=none") == []


def test_long_messages_show_head_and_tail(hub, agent):
    hub.api.run(agent.machine_id, "echo first; yes x | head -c 100000; echo last")
    long, short = (
        messages(hub.api, agent.machine_id, f"?limit={limit}")[-1]["content"] for limit in (2, 500)
    )
    assert len(long) == 100_011
    assert len(short) < 9000
    assert short.startswith("first\nx\n")
    assert short.endswith("x\nlast\n")
    assert "bytes left out" in short


def test_a_reply_is_whole_up_to_a_bound(hub, agent):
    *events, done = ask(hub.api, agent.machine_id, "yes x | head -c 3000000; printf é >&2")
    deltas = [event["payload"]["delta"] for event in events]
    assert len("".join(deltas)) == 3_000_001
    assert len(done["text"].encode()) < REPLY_BYTES
    assert done["text"].endswith("é")
    assert done["success"]


def test_what_cannot_be_done_with_a_shell_is_refused(hub, agent):
    path = f"{MACHINES}/{agent.machine_id}/ask"
    for extra in ({"attachment_ids": ["a"]}, {"project_root_id": "p"}, {"prompt": ""}):
        answer = hub.api.call("POST", path, {"prompt": "touch never", **extra})
        refused(answer, 422, "validation_failed")
    assert all(
        message["content"] != "touch never" for message in messages(hub.api, agent.machine_id)
    )


def test_a_key_sees_and_asks_only_what_is_in_its_reach(hub, agent, place):
    other = hub.new_key("machines:read")
    made = hub.api.post("/api-keys", name="tagged", scopes=["admin"], tags=["not-there"])
    tagged = Api(hub.api.url, made["key"])
    assert tagged.call("GET", f"{MACHINES}/snapshot").json["machines"] == []
    where = f"{MACHINES}/{agent.machine_id}"
    refused(tagged.call("GET", f"{where}/messages"), 404, "machine_not_found")
    refused(tagged.call("POST", f"{where}/ask", {"prompt": "true"}), 404, "machine_not_found")
    refused(other.call("GET", f"{where}/messages"), 403, "forbidden")
    refused(other.call("POST", f"{where}/ask", {"prompt": "true"}), 403, "forbidden")
    refused(hub.new_key("files:read").call("GET", f"{MACHINES}/snapshot"), 403, "forbidden")


def test_an_observer_cannot_ask(hub, agent):
    key = hub.new_key("sessions:read", "commands:execute")
    session_id = hub.api.get(f"/machines/{agent.machine_id}/session")["session_id"]
    key.post(f"/sessions/{session_id}/attach", mode="observer")
    before = messages(hub.api, agent.machine_id)
    answer = key.call("POST", f"{MACHINES}/{agent.machine_id}/ask", {"prompt": "true"})
    refused(answer, 403, "forbidden")
    assert messages(hub.api, agent.machine_id) == before


def test_the_same_question_under_one_idempotency_key_is_asked_once(hub, agent, tmp_path):
    mark = tmp_path / "mark"
    once = {"Idempotency-Key": "question"}
    frames = [ask(hub.api, agent.machine_id, f"echo x >> {mark}", once) for _ in range(2)]
    assert [each[-1]["success"] for each in frames] == [True, True]
    assert mark.read_text() == "x\n"


def test_a_command_outlives_the_reader_of_its_answer(hub, agent):
    body = {"prompt": "echo begun; sleep 1; echo ended"}
    first = hub.api.call("POST", f"{MACHINES}/{agent.machine_id}/ask", body, whole=False)
    assert b"begun" in first.body
    (question,) = messages(hub.api, agent.machine_id, "?limit=1")
    assert hub.api.wait_end(question["id"])["stdout"] == "begun\nended\n"


def test_a_character_that_comes_in_two_pieces_is_one(hub, agent):
    prompt = r"printf '\303'; sleep 0.5; printf '\251'; printf '\377\303'"
    *events, done = ask(hub.api, agent.machine_id, prompt)
    assert "".join(event["payload"]["delta"] for event in events) == "é\ufffd\ufffd"
    assert done["text"] == "é\ufffd\ufffd"


@pytest.mark.slow
def test_an_answer_ends_when_its_machine_is_gone_or_the_hub_stops(tmp_path):
    """The client takes no stream for whole that has no `done`."""
    told: dict[str, list[dict[str, object]]] = {}

    def follow(what: str, api: Api, machine_id: str) -> threading.Thread:
        def run() -> None:
            told[what] = ask(api, machine_id, "sleep 60")

        thread = threading.Thread(target=run)
        thread.start()
        wait_for(lambda: api.get("/commands?status=running"), "the command runs")
        return thread

    config = "[sessions]\ngrace_ms = 0\n"
    with (
        running_hub(tmp_path, config=config) as hub,
        running_agent(hub, tmp_path, "leaves") as agent,
    ):
        reader = follow("machine", hub.api, agent.machine_id)
        agent.stop()
        reader.join(PATIENCE_S)
        assert not reader.is_alive()
        agent.rejoin(hub)
        reader = follow("hub", hub.api, agent.machine_id)
        hub.stop()
        reader.join(PATIENCE_S)
        hub.start(config=config)
        agent.wait_connected(hub)
    for frames in told.values():
        error, done = frames[-2:]
        assert (error["type"], error["code"]) == ("error", "internal")
        assert (done["type"], done["success"]) == ("done", False)
    assert set(told) == {"machine", "hub"}
