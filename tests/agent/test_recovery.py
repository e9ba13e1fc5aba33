"""How a command ended, from journal and keeper's record: the table of semantics.md, Commands 5."""

import pytest

from cmdop_appliance.agent.journal import Entry
from cmdop_appliance.agent.keeper_client import Record
from cmdop_appliance.agent.recovery import ending_of, signal_number

BOOT = "this-boot"
ENTRY = Entry("cmd_1", b"h" * 32, BOOT)
WRITTEN = (3, 4)


def record(state, **fields):
    known = {"pid": 42, "slot": 1, "started_ms": 1000, "boot_id": BOOT, **fields}
    return Record(id="cmd_1", state=state, **known)


@pytest.mark.parametrize(
    ("entry", "record", "end", "reason", "exit_code"),
    [
        (ENTRY, None, "lost", "start_unknown", None),
        (ENTRY, record("exited", end="exited", exit_code=0), "exited", None, 0),
        (ENTRY, record("exited", end="exited", exit_code=255), "exited", None, 255),
        (ENTRY, record("exited", end="exited", signal="SIGKILL"), "exited", None, 137),
        (ENTRY, record("exited", end="exited", signal="SIGRTMIN+2"), "exited", None, 164),
        (ENTRY, record("exited", end="timeout", signal="SIGTERM"), "timeout", None, None),
        (ENTRY, record("exited", end="timeout", exit_code=0), "timeout", None, None),
        (ENTRY, record("exited", end="cancelled", signal="SIGTERM"), "cancelled", None, None),
        (ENTRY, record("refused", code="user_denied", message="m"), "failed", "user_denied", None),
        (ENTRY, record("orphaned", boot_id="another"), "lost", "rebooted", None),
        (ENTRY, record("orphaned", boot_id="another", alive=True), "lost", "rebooted", None),
        (ENTRY, record("orphaned"), "lost", "keeper_killed", None),
        (None, record("exited", end="exited", exit_code=5), "exited", None, 5),
    ],
)
def test_an_end_is_true_or_lost_and_only_an_end_of_its_own_has_an_exit_code(
    entry, record, end, reason, exit_code
):
    ending = ending_of(entry, record, BOOT, WRITTEN)
    assert (ending.end, ending.reason, ending.exit_code) == (end, reason, exit_code)


def test_what_runs_has_no_end():
    assert ending_of(ENTRY, record("running"), BOOT, WRITTEN) is None


def test_a_decided_end_stands_and_keeps_what_was_written():
    decided = Entry("cmd_1", b"h" * 32, BOOT, end="lost", reason="rebooted", message="m")
    ending = ending_of(decided, record("running"), BOOT, WRITTEN)
    assert (ending.end, ending.reason, ending.message) == ("lost", "rebooted", "m")
    assert (ending.stdout_bytes, ending.stderr_bytes) == WRITTEN
    assert ending.started_ms == 1000


@pytest.mark.parametrize(("alive", "named"), [(True, True), (False, False)])
def test_a_process_is_named_while_it_lives_without_its_keeper(alive, named):
    ending = ending_of(ENTRY, record("orphaned", alive=alive), BOOT, WRITTEN)
    assert ("42" in ending.message) == named


def test_signals_have_the_numbers_of_the_system():
    assert (signal_number("SIGTERM"), signal_number("SIGRTMIN+1")) == (15, 35)
