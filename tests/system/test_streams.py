"""GET /commands/:id/stream: every byte once, from any offset, whatever happens to the hub."""

import itertools
from http.client import HTTPException

import pytest

from tests.support.appliance import running_agent, running_hub

STDOUT_LINES, STDERR_LINES = 6000, 3000


def _joined(events):
    """Both streams, and the record of the last event."""
    output = {"stdout": b"", "stderr": b""}
    *pieces, end = events
    for event in pieces:
        output[event.name] += event.data
    assert end.name == "end"
    return output, end


def _numbers(count, prefix):
    return "".join(f"{prefix}{number}\n" for number in range(1, count + 1)).encode()


@pytest.fixture(scope="module")
def told(fleet):
    """(id, its events, stdout, stderr) of a command with more output than one event carries."""
    command = f"seq -f 'o%.0f' {STDOUT_LINES}; seq -f 'e%.0f' {STDERR_LINES} >&2; exit 6"
    command_id = fleet.api.start(fleet.machine, command)
    events = list(fleet.api.events(command_id))
    return command_id, events, _numbers(STDOUT_LINES, "o"), _numbers(STDERR_LINES, "e")


def test_a_stream_has_every_byte_once_and_ends_with_the_record(told, api):
    command_id, events, stdout, stderr = told
    output, end = _joined(events)
    assert output == {"stdout": stdout, "stderr": stderr}
    assert (end.data["status"], end.data["exit_code"]) == ("failed", 6)
    assert end.data == api.get(f"/commands/{command_id}")
    assert end.id == f"{len(stdout)}-{len(stderr)}"


def test_an_id_is_the_offsets_after_its_event(told):
    _, events, _, _ = told
    seen = {"stdout": 0, "stderr": 0}
    for event in events[:-1]:
        seen[event.name] += len(event.data)
        assert event.id == f"{seen['stdout']}-{seen['stderr']}"


def test_a_stream_goes_on_from_any_offset_without_gap_or_repeat(told, api):
    command_id, events, stdout, stderr = told
    inside = itertools.product((0, 1, 4095, 8192, 8193, len(stdout)), (0, 7, len(stderr)))
    ids = [f"{out}-{err}" for out, err in inside] + [event.id for event in events]
    for last in ids:
        out, err = map(int, last.split("-"))
        output, end = _joined(api.events(command_id, last))
        assert output == {"stdout": stdout[out:], "stderr": stderr[err:]}, last
        assert end.data["exit_code"] == 6


def test_a_stream_after_the_end_is_the_same_stream(told, api):
    command_id, events, stdout, stderr = told
    again, end = _joined(api.events(command_id))
    assert again == {"stdout": stdout, "stderr": stderr}
    assert end == events[-1]


@pytest.mark.parametrize("last", ["x", "1", "1-", "-1-0", "1-2-3", "99999999999999999-0"])
def test_an_id_that_no_stream_gave_is_refused(told, api, last):
    answer = api.call("GET", f"/commands/{told[0]}/stream", headers={"Last-Event-ID": last})
    assert answer.status == 400
    assert answer.error["code"] == "invalid_request"


def test_output_arrives_while_the_command_runs(api, machine, tmp_path):
    gate = tmp_path / "gate"
    command = f"echo first; until [ -e {gate} ]; do sleep 0.02; done; echo second >&2"
    events = api.events(api.start(machine, command))
    first = next(events)
    assert (first.name, first.data) == ("stdout", b"first\n")
    gate.touch()
    output, end = _joined(events)
    assert output == {"stdout": b"", "stderr": b"second\n"}
    assert end.data["status"] == "completed"


@pytest.mark.slow
def test_a_follower_loses_nothing_when_the_hub_is_killed(tmp_path):
    gate = tmp_path / "gate"
    command = (
        "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; echo $i >&2; sleep 0.01; done;"
        f" until [ -e {gate} ]; do sleep 0.02; done; echo last; exit 4"
    )
    expected = "".join(f"line {number}\n" for number in range(1, 301)).encode() + b"last\n"
    with running_hub(tmp_path) as hub, running_agent(hub, tmp_path, "target"):
        machine_id = hub.api.get("/machines")[0]["id"]
        command_id = hub.api.start(machine_id, command)
        output, last = {"stdout": b"", "stderr": b""}, None
        following = hub.api.events(command_id)
        for event in itertools.islice(following, 60):
            output[event.name] += event.data
            last = event.id
        hub.kill()
        try:  # what was under way may still arrive
            for event in following:
                output[event.name] += event.data
                last = event.id
        except (HTTPException, OSError):
            pass
        hub.start()
        gate.touch()
        rest, end = _joined(hub.api.events(command_id, last))
        assert output["stdout"] + rest["stdout"] == expected
        assert output["stderr"] + rest["stderr"] == _numbers(300, "")
        assert end.data["exit_code"] == 4
        assert hub.api.output(command_id) == expected
