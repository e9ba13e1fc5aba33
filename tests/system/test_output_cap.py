"""Output that is longer than the hub keeps: its head, its tail, and the truth about the rest."""

import hashlib

import pytest

from cmdop_appliance.hub.live_stream import HEAD_BYTES, UNSAFE_BYTES
from tests.support.appliance import running_agent, running_hub, wait_for

MAX_BYTES = 2 * 1024 * 1024
CONFIG = f"[output]\nmax_bytes = {MAX_BYTES}\n"
LINES = 625_000
TRUTH = b"".join(b"%07d\n" % number for number in range(1, LINES + 1))
TOTAL = len(TRUTH)
TAIL = TOTAL - (MAX_BYTES - HEAD_BYTES)  # its first byte
GAP = f"\n[… {TAIL - HEAD_BYTES} bytes not kept …]\n".encode()


def _print(first: int, last: int) -> str:
    return f"seq -f %07.0f {first} {last}"


@pytest.fixture(scope="module")
def capped(tmp_path_factory):
    """(hub, record) of a command that printed `TRUTH`."""
    place = tmp_path_factory.mktemp("capped")
    with running_hub(place, config=CONFIG) as hub, running_agent(hub, place, "target") as agent:
        yield hub, hub.api.run(agent.machine_id, _print(1, LINES))


def _get(capped, query="", **headers):
    hub, record = capped
    return hub.api.call("GET", f"/commands/{record['id']}/output{query}", headers=headers)


def test_total_and_sha256_are_of_everything(capped):
    _, record = capped
    assert (record["stdout_bytes"], record["stderr_bytes"]) == (TOTAL, 0)
    assert record["stdout_sha256"] == hashlib.sha256(TRUTH).hexdigest()
    assert record["stderr_sha256"] == hashlib.sha256(b"").hexdigest()
    assert record["stdout_truncated"]
    assert record["stdout"].encode() == TRUTH[: HEAD_BYTES // 2] + TRUTH[-HEAD_BYTES // 2 :]


def test_the_file_is_no_larger_than_the_cap_and_what_may_be_unsafe(capped):
    hub, record = capped
    (file,) = (hub.data_dir / "output").rglob(f"{record['id']}.stdout")
    assert file.stat().st_size <= MAX_BYTES + UNSAFE_BYTES


def test_output_is_head_and_tail_with_a_line_for_what_is_not_kept(capped):
    answer = _get(capped)
    assert answer.status == 200
    assert answer.body == TRUTH[:HEAD_BYTES] + GAP + TRUTH[TAIL:]
    assert answer.headers["x-cmdop-truncated"] == f"{HEAD_BYTES}-{TAIL - 1}"
    assert "content-length" not in answer.headers


def test_output_from_an_offset_has_the_line_only_where_bytes_are_not_kept(capped):
    middle = _get(capped, f"?offset={TAIL - 7}")
    assert middle.body == "\n[… 7 bytes not kept …]\n".encode() + TRUTH[TAIL:]
    assert middle.headers["x-cmdop-truncated"] == f"{TAIL - 7}-{TAIL - 1}"
    tail = _get(capped, f"?offset={TAIL}")
    assert tail.body == TRUTH[TAIL:]
    assert tail.headers["content-length"] == str(TOTAL - TAIL)
    assert "x-cmdop-truncated" not in tail.headers


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("0-9", 0, 10),
        (f"100-{HEAD_BYTES - 1}", 100, HEAD_BYTES),
        (f"{TAIL}-{TOTAL}", TAIL, TOTAL),
        ("-10", TOTAL - 10, TOTAL),
        # more than is kept in one piece: as much as there is
        ("0-", 0, HEAD_BYTES),
        (f"{HEAD_BYTES - 1}-{TAIL}", HEAD_BYTES - 1, HEAD_BYTES),
    ],
)
def test_a_range_of_what_is_kept_is_exact(capped, asked, first, end):
    answer = _get(capped, Range=f"bytes={asked}")
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/{TOTAL}"
    assert answer.headers["content-length"] == str(end - first)
    assert answer.body == TRUTH[first:end]


@pytest.mark.parametrize("asked", [f"{HEAD_BYTES}-", f"{TAIL - 1}-{TAIL}", f"-{TOTAL - TAIL + 1}"])
def test_a_range_that_begins_in_what_is_not_kept_is_refused_and_told_what_is(capped, asked):
    answer = _get(capped, Range=f"bytes={asked}")
    assert answer.status == 416
    assert f"0-{HEAD_BYTES - 1} and {TAIL}-{TOTAL - 1} are kept" in answer.error["message"]
    assert answer.headers["content-range"] == f"bytes */{TOTAL}"


@pytest.mark.parametrize("seen", [0, HEAD_BYTES - 5, HEAD_BYTES, TAIL - 3, TAIL, TOTAL])
def test_a_stream_tells_the_gap_and_goes_on_behind_it(capped, seen):
    hub, record = capped
    at, output, gaps = seen, b"", []
    *events, end = hub.api.events(record["id"], f"{seen}-0")
    for event in events:
        if event.name == "gap":
            gaps.append(event.data)
            at = event.data["to"]
        else:
            output += event.data
            at += len(event.data)
        assert event.id == f"{at}-0"
    first = max(seen, HEAD_BYTES)
    told = [{"stream": "stdout", "from": first, "to": TAIL}] if first < TAIL else []
    assert gaps == told
    assert output == TRUTH[seen:HEAD_BYTES] + TRUTH[max(seen, TAIL) :]
    assert (end.name, end.data["stdout_bytes"]) == ("end", TOTAL)


def test_head_and_tail_are_right_when_the_hub_is_killed_beyond_the_cap(tmp_path):
    gate = tmp_path / "gate"
    command = (
        f"{_print(1, 400_000)}; until [ -e {gate} ]; do sleep 0.02; done; {_print(400_001, LINES)}"
    )
    with running_hub(tmp_path, config=CONFIG) as hub, running_agent(hub, tmp_path, "a") as agent:
        command_id = hub.api.start(agent.machine_id, command)
        path = f"/commands/{command_id}"
        wait_for(lambda: hub.api.get(path)["stdout_bytes"] == 3_200_000, "the first part is here")
        hub.kill()
        hub.start(config=CONFIG)
        gate.touch()
        record = hub.api.wait_end(command_id)
        assert record["stdout_sha256"] == hashlib.sha256(TRUTH).hexdigest()
        assert hub.api.output(command_id) == TRUTH[:HEAD_BYTES] + GAP + TRUTH[TAIL:]
