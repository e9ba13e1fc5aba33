"""Commands: pending, running, one end."""

import msgspec
import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import (
    CommandNotFound,
    CommandNotRunning,
    MachineNotFound,
    SessionNotActive,
)
from cmdop_appliance.model import COMMAND_STATUSES, OPEN_STATUSES
from cmdop_appliance.protocol.messages import Spec
from cmdop_appliance.store import commands, machines, sessions
from cmdop_appliance.store.listing import Paging
from tests.support.records import (
    NOW,
    REACH,
    command,
    connected,
    ended,
    joined,
    recorded,
    running,
)


async def find(store, command_id: str):
    return await store.run(commands.get, REACH, command_id)


async def test_a_command_is_read_as_it_was_recorded(store):
    machine, session_id, _ = await connected(store)
    spec = Spec(argv=["sh", "-c", "échø\0"], env={"A": "1"}, stdin=b"\xff\0", timeout_ms=5)
    made = await recorded(store, machine.id, session_id, spec=spec, command="échø '\0'")
    assert await find(store, made.id) == made


async def test_a_command_goes_from_pending_to_running_to_its_end(store):
    machine, session_id, _ = await connected(store)
    made = await recorded(store, machine.id, session_id)
    assert await store.run(commands.started, made.id, machine.id, NOW + 1)
    now_running = await find(store, made.id)
    assert (now_running.status, now_running.started_ms) == ("running", NOW + 1)
    end = ended(now_running)
    assert await store.run(commands.finish, end)
    assert await find(store, made.id) == end


@pytest.mark.parametrize("status", sorted(set(COMMAND_STATUSES) - set(OPEN_STATUSES)))
async def test_an_end_is_recorded_once_and_nothing_changes_it(store, status):
    machine, session_id, _ = await connected(store)
    made = await recorded(store, machine.id, session_id)
    first = ended(made, status=status)
    assert await store.run(commands.finish, first)
    for later in ("completed", "failed", "cancelled", "timeout", "lost", "expired"):
        other = ended(made, status=later, exit_code=99, finished_ms=NOW + 999)
        assert not await store.run(commands.finish, other)
    assert not await store.run(commands.started, made.id, machine.id, NOW + 999)
    with pytest.raises(CommandNotRunning) as caught:
        await store.run(commands.request_cancel, REACH, made.id, NOW + 999)
    assert caught.value.details == {"status": status}
    assert await find(store, made.id) == first


async def test_a_start_is_recorded_once(store):
    machine, session_id, _ = await connected(store)
    made = await running(store, machine.id, session_id)
    assert not await store.run(commands.started, made.id, machine.id, NOW + 999)
    assert await find(store, made.id) == made


async def test_a_machine_cannot_start_or_end_the_command_of_another(store):
    machine, session_id, _ = await connected(store)
    other, _, _ = await connected(store)
    made = await recorded(store, machine.id, session_id)
    assert not await store.run(commands.started, made.id, other.id, NOW)
    assert not await store.run(
        commands.finish, ended(msgspec.structs.replace(made, machine_id=other.id))
    )
    assert await find(store, made.id) == made


async def test_a_cancel_is_remembered_from_its_first_request(store):
    machine, session_id, _ = await connected(store)
    made = await recorded(store, machine.id, session_id)
    for later in range(3):
        await store.run(commands.request_cancel, REACH, made.id, NOW + later)
    cancelled = await find(store, made.id)
    assert (cancelled.cancel_requested_ms, cancelled.status) == (NOW, "pending")
    await store.run(commands.finish, ended(cancelled))  # it ends by itself first
    assert (await find(store, made.id)).cancel_requested_ms == NOW


async def test_a_command_of_another_workspace_is_not_found(store):
    machine, session_id, _ = await connected(store)
    made = await recorded(store, machine.id, session_id)
    for look in (commands.get, lambda tx, *key: commands.request_cancel(tx, *key, NOW)):
        with pytest.raises(CommandNotFound):
            await store.run(look, Reach("ws_other"), made.id)
    assert (await find(store, made.id)).cancel_requested_ms is None


# ── where a command can go ───────────────────────────────────────────────────────────────────────


async def test_a_connected_machine_takes_commands(store):
    machine, session_id, _ = await connected(store)
    assert await store.run(commands.live_session, REACH, machine.id) == session_id


async def test_a_machine_that_is_not_connected_takes_none_and_its_status_is_named(store):
    async def status_of(machine) -> object:
        with pytest.raises(SessionNotActive) as caught:
            await store.run(commands.live_session, REACH, machine.id)
        assert caught.value.details["machine_id"] == machine.id
        return caught.value.details["current_status"]

    machine = await joined(store)
    assert await status_of(machine) == "DISCONNECTED"
    facts = {"facts": machine.facts, "ip": "::1", "now_ms": NOW}
    session_id, epoch = await store.run(sessions.connect, machine, **facts)
    assert await status_of(machine) == "PENDING"
    await store.run(sessions.ready, session_id, epoch, NOW)
    await store.run(sessions.lose, session_id, epoch, now_ms=NOW, grace_until_ms=NOW + 1)
    assert await status_of(machine) == "GRACE_PERIOD"
    await store.run(sessions.end_expired, NOW + 2)
    assert await status_of(machine) == "DISCONNECTED"


async def test_an_unknown_machine_takes_none(store):
    machine, _, _ = await connected(store)
    for reach, machine_id in ((REACH, "mach_x"), (Reach("ws_other"), machine.id)):
        with pytest.raises(MachineNotFound):
            await store.run(commands.live_session, reach, machine_id)
    await store.run(machines.remove, REACH, machine.id, NOW)
    with pytest.raises(MachineNotFound):
        await store.run(commands.live_session, REACH, machine.id)


async def test_a_command_needs_a_machine_and_a_session_that_exist(store):
    with pytest.raises(Exception, match="FOREIGN KEY"):
        await store.run(commands.insert, command("mach_x", "sess_x"))


# ── lists ────────────────────────────────────────────────────────────────────────────────────────


async def test_open_commands_come_oldest_first_and_ended_ones_not_at_all(store):
    machine, session_id, _ = await connected(store)
    other, other_session, _ = await connected(store)
    late = await recorded(store, machine.id, session_id, created_ms=NOW + 2)
    early = await running(store, machine.id, session_id, created_ms=NOW + 1)
    gone = await recorded(store, machine.id, session_id)
    await store.run(commands.finish, ended(gone))
    await recorded(store, other.id, other_session)
    found = await store.run(commands.open_on, machine.id)
    assert [one.id for one in found] == [early.id, late.id]


async def test_a_page_has_what_passes_every_filter_newest_first_ties_by_id(store):
    machine, session_id, _ = await connected(store)
    other, other_session, _ = await connected(store)
    ids = [(await recorded(store, machine.id, session_id, created_ms=NOW)).id for _ in range(3)]
    newest = await recorded(store, machine.id, session_id, created_ms=NOW + 5)
    elsewhere = await recorded(store, other.id, other_session)
    await store.run(commands.started, ids[0], machine.id, NOW)

    async def page(paging: Paging = Paging(), **filters) -> tuple[list[str], int]:  # noqa: B008
        found = await store.run(commands.page, REACH, paging, **filters)
        return [one.id for one in found.items], found.total

    everything = [newest.id, elsewhere.id, *reversed(ids)]
    assert await page() == (everything, 5)
    assert await page(Paging(2, 1)) == (everything[1:3], 5)
    assert await page(Paging(2, 5)) == ([], 5)
    assert await page(Paging(sort="created_at")) == (everything[::-1], 5)
    assert await page(machine_id=machine.id, statuses=("pending",)) == (
        [newest.id, *reversed(ids[1:])],
        3,
    )
    assert await page(session_id=other_session) == ([elsewhere.id], 1)
    assert await page(since_ms=NOW + 5) == ([newest.id], 1)
    assert await page(since_ms=NOW + 6) == ([], 0)
    assert (await store.run(commands.page, Reach("ws_other"), Paging())).total == 0


# ── waiting for a machine ────────────────────────────────────────────────────────────────────────


async def waiting(store, machine_id: str, **fields):
    """A command that was never sent."""
    return await recorded(store, machine_id, None, is_queued=True, **fields)


async def test_what_waits_is_sent_when_its_machine_is_there_and_in_time(store):
    machine = await joined(store)
    other = await joined(store)
    in_time = await waiting(store, machine.id, start_until_ms=NOW + 10)
    too_late = await waiting(store, machine.id, start_until_ms=NOW + 9)
    elsewhere = await waiting(store, other.id)
    cancelled = await waiting(store, machine.id)
    await store.run(commands.finish, ended(cancelled, status="cancelled"))
    _, session_id, _ = await connected(store)
    await store.run(commands.send_queued, machine.id, session_id, NOW + 10)
    sent = await store.run(commands.sent_to, machine.id)
    assert [(each.id, each.session_id) for each in sent] == [(in_time.id, session_id)]
    for unsent in (too_late, elsewhere, cancelled):
        assert (await find(store, unsent.id)).session_id is None
    _, later, _ = await connected(store)
    await store.run(commands.send_queued, machine.id, later, NOW + 10)
    assert (await find(store, in_time.id)).session_id == session_id


async def test_only_what_was_never_sent_and_is_too_late_expires(store):
    machine, session_id, _ = await connected(store)
    late = await waiting(store, machine.id, start_until_ms=NOW + 9)
    await waiting(store, machine.id, start_until_ms=NOW + 10)
    await recorded(store, machine.id, session_id, start_until_ms=NOW)
    over = await waiting(store, machine.id, start_until_ms=NOW)
    await store.run(commands.finish, ended(over, status="cancelled"))
    assert [each.id for each in await store.run(commands.unsent_since, NOW + 10)] == [late.id]


async def test_only_unsent_commands_of_the_same_machine_workspace_and_key_are_superseded(store):
    machine, session_id, _ = await connected(store)
    other = await joined(store)
    old = [await waiting(store, machine.id, supersede_key="upgrade") for _ in range(2)]
    await waiting(store, machine.id, supersede_key="other")
    await waiting(store, machine.id)
    await waiting(store, other.id, supersede_key="upgrade")
    await recorded(store, machine.id, session_id, supersede_key="upgrade")
    over = await waiting(store, machine.id, supersede_key="upgrade")
    await store.run(commands.finish, ended(over, status="cancelled"))
    new = await waiting(store, machine.id, supersede_key="upgrade")
    found = await store.run(commands.superseded_by, new)
    assert {each.id for each in found} == {each.id for each in old}
    stranger = msgspec.structs.replace(new, workspace_id="ws_other")
    assert await store.run(commands.superseded_by, stranger) == []


# ── machines that are away ───────────────────────────────────────────────────────────────────────


async def test_since_when_it_is_unknown_is_told_of_what_is_open_and_was_sent(store):
    machine, session_id, epoch = await connected(store)
    open_ones = [
        await recorded(store, machine.id, session_id),
        await running(store, machine.id, session_id),
    ]
    unsent = await waiting(store, machine.id)
    over = await recorded(store, machine.id, session_id)
    await store.run(commands.finish, ended(over))

    async def stale() -> dict[str, int | None]:
        page = await store.run(commands.page, REACH, Paging())
        told = {each.id: each.stale_ms for each in page.items}
        for command_id, stale_ms in told.items():
            assert (await find(store, command_id)).stale_ms == stale_ms
        return told

    nothing = dict.fromkeys([*(each.id for each in open_ones), unsent.id, over.id])
    assert await stale() == nothing
    await store.run(sessions.heartbeat, session_id, epoch, NOW + 7)
    await store.run(sessions.lose, session_id, epoch, now_ms=NOW + 9, grace_until_ms=NOW + 99)
    told = nothing | dict.fromkeys((each.id for each in open_ones), NOW + 7)
    assert await stale() == told
    await store.run(sessions.end_expired, NOW + 100)
    assert await stale() == told
    facts = {"facts": machine.facts, "ip": "::1", "now_ms": NOW + 200}
    session_id, epoch = await store.run(sessions.connect, machine, **facts)
    assert set((await stale()).values()) == {None, NOW + 200}  # it has not said what it knows
    await store.run(sessions.ready, session_id, epoch, NOW + 200)
    assert await stale() == nothing


async def test_silent_is_who_was_not_heard_of_and_has_no_session(store):
    machine, session_id, epoch = await connected(store)
    sent = await recorded(store, machine.id, session_id)
    runs = await running(store, machine.id, session_id)
    await waiting(store, machine.id)
    over = await recorded(store, machine.id, session_id)
    await store.run(commands.finish, ended(over))

    async def silent(before_ms: int) -> set[str]:
        return {each.id for each in await store.run(commands.silent_since, before_ms)}

    assert await silent(NOW + 1) == set()  # connected
    await store.run(sessions.lose, session_id, epoch, now_ms=NOW, grace_until_ms=NOW + 5)
    assert await silent(NOW + 1) == set()  # in its grace period
    await store.run(sessions.end_expired, NOW + 6)
    assert await silent(NOW) == set()
    assert await silent(NOW + 1) == {sent.id, runs.id}


async def test_what_silence_lost_is_open_again_and_nothing_else(store):
    machine, session_id, _ = await connected(store)
    other, other_session, _ = await connected(store)
    silent = {"status": "lost", "error_code": "silent", "error_message": "m", "exit_code": None}
    sent = await recorded(store, machine.id, session_id)
    runs = await running(store, machine.id, session_id)
    elsewhere = await running(store, other.id, other_session)
    await store.run(commands.finish, ended(sent, **silent | {"started_ms": None}))
    await store.run(commands.finish, ended(runs, **silent))
    await store.run(commands.finish, ended(elsewhere, **silent))
    kept = []
    for status, code in (("lost", "rebooted"), ("lost", None), ("failed", "silent")):
        one = await running(store, machine.id, session_id)
        await store.run(commands.finish, ended(one, status=status, error_code=code))
        kept.append(await find(store, one.id))
    kept.append(await find(store, elsewhere.id))
    await store.run(commands.reopen_silent, machine.id)
    for before, status in ((sent, "pending"), (runs, "running")):
        now = await find(store, before.id)
        assert (now.status, now.is_late, now.finished_ms) == (status, True, None)
        assert (now.error_code, now.error_message) == (None, None)
    for before in kept:
        assert await find(store, before.id) == before


# ── who may speak ────────────────────────────────────────────────────────────────────────────────


async def test_only_the_newest_connection_of_its_machine_may_speak_of_a_command(store):
    machine, session_id, epoch = await connected(store)
    other, _, other_epoch = await connected(store)
    made = await recorded(store, machine.id, session_id)

    async def finds(machine_id: str, of_epoch: int) -> bool:
        found = await store.run(commands.of_connection, machine_id, of_epoch, made.id)
        return found is not None

    assert await finds(machine.id, epoch)
    assert not await finds(machine.id, epoch - 1)
    assert not await finds(machine.id, epoch + 1)
    assert not await finds(other.id, other_epoch)
    facts = {"facts": machine.facts, "ip": "::1", "now_ms": NOW}
    _, newer = await store.run(sessions.connect, machine, **facts)
    assert not await finds(machine.id, epoch)
    assert await finds(machine.id, newer)
    await store.run(machines.remove, REACH, machine.id, NOW)
    assert not await finds(machine.id, newer)
    assert await store.run(machines.epoch_of, machine.id) is None
