"""The log: what it tells after a crash, a torn write, damage, a rewrite."""

import os
from contextlib import chdir

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.agent.keeper import linux
from cmdop_appliance.agent.keeper.records import (
    COMPACT_ABOVE_BYTES,
    Log,
    Record,
    apply,
    encode,
    read_log,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "keeper").mkdir()
    monkeypatch.chdir(tmp_path / "keeper")
    return tmp_path / "keeper"


def started(command_id: str, **changed) -> dict:
    return {
        "event": "started",
        "id": command_id,
        "pid": os.getpid(),
        "start_ticks": linux.start_ticks(os.getpid()),
        "slot": 1,
        "started_ms": 1,
        "boot_id": linux.boot_id(),
        "keeper_id": "k",
        **changed,
    }


def exited(command_id: str) -> dict:
    return {
        "event": "exited",
        "id": command_id,
        "exit_code": 3,
        "signal": None,
        "end": "exited",
        "duration_ms": 5,
        "stdout_bytes": 1,
        "stderr_bytes": 2,
        "killed": None,
    }


def write(*events: dict) -> None:
    log = Log()
    for event in events:
        log.append(encode(event))


def test_no_log_is_no_records(tmp_path):
    assert read_log(tmp_path) == {}


def test_the_log_tells_what_was_told(folder):
    refused = {"event": "refused", "id": "cmd_r", "code": "cwd_missing", "message": "no"}
    forgotten = {"event": "forgotten", "ids": ["cmd_f", "cmd_unknown"]}
    write(started("cmd_1"), exited("cmd_1"), refused, started("cmd_f"), forgotten)
    records = read_log(folder.parent)
    assert set(records) == {"cmd_1", "cmd_r"}
    assert (records["cmd_1"].state, records["cmd_1"].exit_code) == ("exited", 3)
    assert (records["cmd_r"].state, records["cmd_r"].code) == ("refused", "cwd_missing")


def test_only_a_terminal_is_told_with_what_the_first_release_did_not_know(folder):
    screen = {"cols": 80, "rows": 24, "is_terminal": True}
    write(started("cmd_1"), started("term_1", **screen))
    records = read_log(folder.parent)
    told = {name: record.as_event() for name, record in records.items()}
    assert told["term_1"] == {**told["cmd_1"], "id": "term_1", **screen}
    assert not screen.keys() & told["cmd_1"].keys()


@pytest.mark.parametrize(
    ("changed", "alive"), [({}, True), ({"start_ticks": 1}, False), ({"boot_id": "other"}, False)]
)
def test_an_orphan_is_alive_only_as_the_very_same_process(folder, changed, alive):
    write(started("cmd_1", **changed))
    record = read_log(folder.parent)["cmd_1"]
    assert (record.state, record.alive) == ("orphaned", alive)


def test_a_torn_line_hides_neither_what_was_before_nor_what_comes_after(folder):
    write(started("cmd_1"), exited("cmd_1"), started("cmd_2"))
    log = folder / "keeper.log"
    log.write_bytes(log.read_bytes()[:-20])
    write(started("cmd_3"), exited("cmd_3"))
    records = read_log(folder.parent)
    assert {name: record.state for name, record in records.items()} == {
        "cmd_1": "exited",
        "cmd_3": "exited",
    }


@given(st.data())
def test_damage_costs_no_more_than_the_lines_it_hits(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("state")
    (folder / "keeper").mkdir()
    with chdir(folder / "keeper"):
        write(*(started(f"cmd_{number}") for number in range(5)))
    log = folder / "keeper/keeper.log"
    content = bytearray(log.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    log.write_bytes(content)
    assert len(read_log(folder)) >= 3  # a newline that is lost joins two lines


def test_a_rewritten_log_tells_the_same_and_is_small(folder):
    log, records = Log(), {}
    number = 0
    while log.size_bytes <= COMPACT_ABOVE_BYTES:
        command_id = f"cmd_{number}"
        for event in (
            started(command_id),
            exited(command_id),
            {"event": "forgotten", "ids": [command_id]},
        ):
            log.append(encode(event))
            apply(records, event)
        number += 1
    for event in (started("cmd_kept"), exited("cmd_kept"), started("cmd_runs")):
        log.append(encode(event))
        apply(records, event)
    assert log.is_worth_compacting()
    log.compact(records.values())
    assert not log.is_worth_compacting()
    log.append(encode(exited("cmd_runs")))
    assert (folder / "keeper.log").stat().st_size < 2000
    assert not (folder / "keeper.log.new").exists()
    again = read_log(folder.parent)
    assert {name: record.state for name, record in again.items()} == {
        "cmd_kept": "exited",
        "cmd_runs": "exited",
    }
    assert fields(again["cmd_kept"]) == fields(records["cmd_kept"])


def fields(record: Record) -> dict:
    return {name: getattr(record, name) for name in Record.__slots__}
