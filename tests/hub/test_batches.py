"""One command on many machines: in waves, canary first, stopped by errors, resumed."""

from dataclasses import replace

import pytest

from cmdop_appliance.errors import BatchNotFound, Conflict
from cmdop_appliance.hub.commands import Ask
from cmdop_appliance.model import Batch, Command
from cmdop_appliance.protocol.messages import Acknowledge, Cancel, Dispatch, Rejected
from cmdop_appliance.store import commands
from cmdop_appliance.store.listing import Paging
from tests.hub.fleet import HOUR_MS, SPEC
from tests.support.live_hub import CALLER, LiveHub, finished
from tests.support.records import REACH, once

# ── waves ────────────────────────────────────────────────────────────────────────────────────────


async def test_without_a_word_all_go_at_once(fleet):
    batch = await fleet.start()
    for number in range(4):
        await fleet.end(number)
    assert await fleet.statuses(batch) == ["completed"] * 4


async def test_no_more_than_asked_for_are_open_at_a_time_and_in_order(fleet):
    batch = await fleet.start(concurrency=2)
    await fleet.idle(2, 3)
    held = (await fleet.commands(batch))[2:]
    assert {(each.status, each.session_id, each.is_held) for each in held} == {
        ("pending", None, True)
    }
    await fleet.end(1, exit_code=1)  # without `max_errors` an error stops nothing
    command_id = (await fleet.links[2].expect(Dispatch)).id
    await fleet.idle(3)
    await fleet.end(0)
    await fleet.end(3)
    await fleet.links[2].say(finished(command_id))
    await fleet.links[2].expect(Acknowledge)
    assert await fleet.statuses(batch) == ["completed", "failed", "completed", "completed"]


async def test_the_canary_goes_alone_and_the_rest_follows_its_success(fleet):
    batch = await fleet.start(canary=1)
    await fleet.idle(1, 2, 3)
    await fleet.end(0)
    for number in (1, 2, 3):
        await fleet.end(number)
    assert await fleet.statuses(batch) == ["completed"] * 4


async def test_a_canary_of_several_needs_them_all(fleet):
    batch = await fleet.start(canary=2)
    await fleet.end(0)
    await fleet.idle(2, 3)
    await fleet.end(1)
    await fleet.end(2)
    await fleet.end(3)
    assert await fleet.statuses(batch) == ["completed"] * 4


async def test_many_canaries_are_no_more_at_a_time_than_asked_for(fleet):
    await fleet.start(canary=3, concurrency=1)
    await fleet.idle(1, 2, 3)
    await fleet.end(0)
    await fleet.idle(2, 3)
    await fleet.end(1)


@pytest.mark.parametrize("canary", [1, 2])
async def test_a_failed_canary_skips_the_rest(fleet, canary):
    batch = await fleet.start(canary=canary)
    await fleet.end(canary - 1, exit_code=1)
    await fleet.idle(*range(canary, 4))
    ended = await fleet.commands(batch)
    assert [each.status for each in ended[canary:]] == ["skipped"] * (4 - canary)
    for skipped in ended[canary:]:
        assert (skipped.error_code, skipped.exit_code) == ("batch_stopped", None)
        assert (skipped.session_id, skipped.is_held) == (None, False)
        assert batch.id in (skipped.error_message or "")
        assert skipped.finished_ms is not None


async def test_an_error_after_the_canary_stops_nothing_by_itself(fleet):
    batch = await fleet.start(canary=1, concurrency=1)
    await fleet.end(0)
    await fleet.end(1, exit_code=1)
    await fleet.end(2)
    await fleet.end(3)
    assert await fleet.statuses(batch) == ["completed", "failed", "completed", "completed"]


# ── errors ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("max_errors", [0, 1, 2])
async def test_more_errors_than_allowed_skip_the_rest(fleet, max_errors):
    batch = await fleet.start(concurrency=1, max_errors=max_errors)
    for number in range(max_errors + 1):
        await fleet.end(number, exit_code=1)
    await fleet.idle(*range(max_errors + 1, 4))
    failed = ["failed"] * (max_errors + 1)
    assert await fleet.statuses(batch) == failed + ["skipped"] * (3 - max_errors)


async def test_what_is_under_way_when_errors_stop_a_batch_goes_on(fleet):
    batch = await fleet.start(concurrency=2, max_errors=0)
    await fleet.end(0, exit_code=1)
    assert await fleet.statuses(batch) == ["failed", "pending", "skipped", "skipped"]
    await fleet.end(1)
    assert await fleet.statuses(batch) == ["failed", "completed", "skipped", "skipped"]


@pytest.mark.parametrize(
    ("end", "fields"),
    [
        ("exited", {"exit_code": 1}),
        ("failed", {"exit_code": None, "reason": "exec_failed"}),
        ("timeout", {"exit_code": None}),
        ("cancelled", {"exit_code": None}),
        ("expired", {"exit_code": None}),
        ("lost", {"exit_code": None, "reason": "rebooted"}),
    ],
)
async def test_every_end_but_success_is_an_error(fleet, end, fields):
    batch = await fleet.start(concurrency=1, max_errors=0)
    link = fleet.links[0]
    await link.say(finished((await link.expect(Dispatch)).id, end=end, **fields))
    await link.expect(Acknowledge)
    assert (await fleet.statuses(batch))[1:] == ["skipped"] * 3


async def test_a_machine_that_refuses_the_dispatch_is_an_error_and_makes_room(fleet):
    batch = await fleet.start(concurrency=1, max_errors=1)
    link = fleet.links[0]
    await link.say(Rejected(id=(await link.expect(Dispatch)).id, reason="spec_mismatch"))
    await fleet.end(1, exit_code=1)
    assert await fleet.statuses(batch) == ["failed", "failed", "skipped", "skipped"]


async def test_a_machine_that_takes_nothing_is_an_error_from_the_start(fleet):
    batch = await fleet.start(ids=["mach_x", *fleet.ids], concurrency=1, max_errors=0)
    assert batch.refused["mach_x"].code == "machine_not_found"
    await fleet.idle(0, 1, 2, 3)
    assert await fleet.statuses(batch) == ["skipped"] * 4


async def test_cancelling_one_that_is_held_is_an_error_and_it_is_never_sent(fleet):
    batch = await fleet.start(concurrency=1, max_errors=1)
    held = (await fleet.commands(batch))[2]
    await fleet.live.hub.commands.cancel(CALLER, held.id)
    await fleet.end(0, exit_code=1)
    await fleet.idle(1, 2, 3)
    assert await fleet.statuses(batch) == ["failed", "skipped", "cancelled", "skipped"]


async def test_a_cancel_of_one_under_way_is_told_to_its_machine(fleet):
    batch = await fleet.start(concurrency=1)
    command_id = (await fleet.links[0].expect(Dispatch)).id
    await fleet.live.hub.commands.cancel(CALLER, command_id)
    assert (await fleet.links[0].expect(Cancel)).id == command_id
    await fleet.idle(1)
    assert (await fleet.statuses(batch))[0] == "pending"


async def test_removing_a_machine_whose_turn_it_is_lets_the_next_one_go(fleet):
    batch = await fleet.start(concurrency=1)
    await fleet.links[0].expect(Dispatch)
    await fleet.live.hub.commands.remove_machine(CALLER, fleet.ids[0])
    await fleet.end(1)
    await fleet.live.hub.commands.remove_machine(CALLER, fleet.ids[3])  # held
    await fleet.end(2)
    assert await fleet.statuses(batch) == ["lost", "completed", "completed", "cancelled"]


async def test_a_superseded_command_of_a_batch_lets_the_next_one_go(fleet):
    await fleet.links[0].cut()
    ask = Ask(queue_ms=HOUR_MS, supersede_key="upgrade")
    batch = await fleet.start(concurrency=1, ask=ask)
    await fleet.idle(1, 2, 3)
    newer = await fleet.live.hub.commands.start(CALLER, fleet.ids[0], "true", SPEC, ask)
    await fleet.end(1)
    assert await fleet.statuses(batch) == ["cancelled", "completed", "pending", "pending"]
    assert (await fleet.live.command(newer.id)).status == "pending"


async def test_a_command_of_a_batch_takes_the_place_of_others_only_when_its_turn_comes(fleet):
    await fleet.links[1].cut()
    ask = Ask(queue_ms=HOUR_MS, supersede_key="upgrade")
    older = await fleet.live.hub.commands.start(CALLER, fleet.ids[1], "true", SPEC, ask)
    await fleet.start(concurrency=1, max_errors=0, ask=ask, ids=fleet.ids[:2])
    assert (await fleet.live.command(older.id)).status == "pending"
    await fleet.end(0, exit_code=1)  # which stops the batch
    assert (await fleet.live.command(older.id)).status == "pending"


async def test_of_two_batches_with_the_same_key_the_newer_one_runs_everywhere(fleet):
    await fleet.links[0].cut()
    ask = Ask(queue_ms=HOUR_MS, supersede_key="upgrade")
    old = await fleet.start(concurrency=1, ask=ask, ids=fleet.ids[:2])
    new = await fleet.start(ask=ask, ids=fleet.ids[:2])
    assert await fleet.statuses(old) == ["cancelled", "cancelled"]
    dispatched = await fleet.links[1].expect(Dispatch)
    await fleet.idle(1)  # it hears of one of them
    assert dispatched.id == (await fleet.commands(new))[1].id
    assert await fleet.statuses(new) == ["pending", "pending"]


async def test_what_an_older_batch_comes_to_late_is_not_run_after_the_newer(fleet):
    ask = Ask(supersede_key="upgrade")
    old = await fleet.start(concurrency=1, ask=ask, ids=fleet.ids[:2])
    await fleet.live.hub.commands.start(CALLER, fleet.ids[1], "true", SPEC, ask)
    await fleet.end(1)
    await fleet.end(0)
    await fleet.idle(1)
    assert await fleet.statuses(old) == ["completed", "cancelled"]


# ── resumed ──────────────────────────────────────────────────────────────────────────────────────


async def resume(live: LiveHub, batch: Batch, **asked) -> tuple[Batch, list[Command]]:
    caller = asked.pop("caller", CALLER)
    return await live.hub.batches.resume(caller, batch.id, once(**asked) if asked else None)


@pytest.fixture
async def stopped(fleet):
    """A batch of which the last two were skipped."""
    batch = await fleet.start(concurrency=1, max_errors=1, ask=Ask(supersede_key="k"))
    await fleet.end(0, exit_code=1)
    await fleet.end(1, exit_code=1)
    assert (await fleet.statuses(batch))[2:] == ["skipped", "skipped"]
    return batch


async def test_what_was_skipped_and_only_that_is_run_by_one_call_in_the_same_waves(fleet, stopped):
    before = await fleet.commands(stopped)
    other = replace(CALLER, name="someone else")
    batch, new = await resume(fleet.live, stopped, caller=other)
    assert [each.machine_id for each in new] == fleet.ids[2:]
    assert (batch.concurrency, batch.max_errors, batch.refused) == (1, 1, {})
    await fleet.idle(0, 1, 3)
    dispatch = await fleet.links[2].expect(Dispatch)
    assert dispatch.spec.argv == SPEC.argv
    assert dispatch.spec.operator == other.email  # the command is told who really asked
    await fleet.links[2].say(finished(dispatch.id))
    await fleet.links[2].expect(Acknowledge)
    await fleet.end(3)
    assert await fleet.statuses(batch) == ["completed", "completed"]
    assert {(each.operator, each.supersede_key) for each in new} == {(other.email, "k")}
    assert await fleet.commands(stopped) == before


async def test_the_same_request_resumes_once(fleet, stopped):
    first, new = await resume(fleet.live, stopped, key="once")
    again, found = await resume(fleet.live, stopped, key="once")
    assert first == again
    assert {each.id for each in found} == {each.id for each in new}
    page = await fleet.live.hub.store.run(commands.page, REACH, Paging())
    assert page.total == 6


async def test_where_nothing_was_skipped_nothing_is_resumed(fleet):
    batch = await fleet.start()
    with pytest.raises(Conflict):
        await resume(fleet.live, batch)
    stranger = replace(CALLER, workspace_id="ws_other")
    with pytest.raises(BatchNotFound):
        await resume(fleet.live, batch, caller=stranger)
    with pytest.raises(BatchNotFound):
        await fleet.live.hub.batches.find(stranger, batch.id)


async def test_a_queue_is_resumed_with_its_time(fleet):
    batch = await fleet.start(canary=1, ask=Ask(queue_ms=HOUR_MS))
    await fleet.end(0, exit_code=1)
    await fleet.links[1].cut()
    _, new = await resume(fleet.live, batch)
    assert {each.start_until_ms - each.created_ms for each in new} == {HOUR_MS}
    assert all(each.is_queued for each in new)
