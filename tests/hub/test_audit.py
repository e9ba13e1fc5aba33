"""What the hub records by itself and for callers, and what its machines remember of that."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cmdop_appliance.errors import CommandNotRunning, Forbidden
from cmdop_appliance.hub import audit as hub_audit
from cmdop_appliance.hub import presence
from cmdop_appliance.hub.commands import Ask
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.messages import (
    AuditHead,
    Dispatch,
    Heartbeat,
    Heartbeatack,
    Notice,
    Ready,
    Rejected,
    Spec,
)
from cmdop_appliance.store import audit
from cmdop_appliance.store.audit import START, Entry
from cmdop_appliance.store.listing import Paging
from tests.support.live_hub import CALLER, Link, LiveHub, ScriptedAgent
from tests.support.records import NOW, WORKSPACE, once

SPEC = Spec(argv=["echo", "s3cret"], env={"TOKEN": "s3cret"}, stdin=b"s3cret")


async def entries(live: LiveHub, *actions: str):
    """What was recorded with these actions, oldest first; all without."""
    page = await live.hub.store.run(audit.page, WORKSPACE, Paging(100, 0, "created_at"))
    return [each for each in page.items if not actions or each.action in actions]


async def told(live: LiveHub, *actions: str) -> list[tuple[str, str, str, dict]]:
    """(actor, target, outcome, details) of `entries`."""
    found = await entries(live, *actions)
    return [(each.actor, each.target, each.outcome, each.details) for each in found]


async def acknowledged(link: Link) -> AuditHead | None:
    """What the hub tells with its next heartbeat."""
    await link.say(Heartbeat())
    return (await link.expect(Heartbeatack)).audit_head


async def attach(live: LiveHub, session_id: str, client_id: str, mode: str) -> None:
    """The caller attaches to a session."""
    now_ms = live.hub.clock.now_ms()
    await live.hub.store.run(
        presence.attach, live.hub.audit, CALLER, session_id, client_id, mode, None, now_ms
    )


async def detach(live: LiveHub, session_id: str, client_id: str) -> None:
    """The caller's client leaves a session."""
    now_ms = live.hub.clock.now_ms()
    await live.hub.store.run(
        presence.detach, live.hub.audit, CALLER, session_id, client_id, None, now_ms
    )


async def refuse(live: LiveHub) -> None:
    """A call of the caller is refused."""
    details = {"route": "delete_machine", "why": "machines:write"}
    now_ms = live.hub.clock.now_ms()
    entry = Entry.by(CALLER, now_ms, "call.refused", "mach_1", **details).refused()
    await live.hub.audit.record_refusal(CALLER.key_id, entry)


async def back(agent: ScriptedAgent, remembered: AuditHead | None) -> Link:
    """A link of an agent that remembers this."""
    link = agent.dial()
    await link.prove(await link.greet())
    await link.welcomed()
    await link.say(Ready(audit_head=remembered))
    await link.heartbeat()
    return link


# ── what callers do ──────────────────────────────────────────────────────────────────────────────


async def test_a_command_is_recorded_with_its_caller_and_machine_and_no_word_of_it(live, agent):
    await agent.join()
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "echo s3cret", SPEC)
    (entry,) = await entries(live, "command.accepted")
    assert (entry.actor, entry.api_key_id, entry.target) == (CALLER.email, "key_1", command.id)
    assert entry.details == {"machine_id": machine.id}
    await live.hub.commands.cancel(CALLER, command.id)
    await live.hub.commands.cancel(CALLER, command.id)  # the same again changes nothing
    (cancelled,) = await told(live, "command.cancelled")
    assert cancelled == (CALLER.email, command.id, "ok", {"machine_id": machine.id})
    assert "s3cret" not in repr(await entries(live))


async def test_the_same_request_again_is_recorded_once(live, agent):
    await agent.join()
    machine = await agent.machine()
    for _ in range(2):
        ask = Ask(once=once(now_ms=live.hub.clock.now_ms()))
        await live.hub.commands.start(CALLER, machine.id, "true", SPEC, ask)
    assert len(await entries(live, "command.accepted")) == 1


async def test_what_was_refused_for_its_state_is_not_recorded(live, agent):
    link = await agent.join()
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    await link.expect(Dispatch)
    await live.hub.commands.remove_machine(CALLER, machine.id)
    with pytest.raises(CommandNotRunning):
        await live.hub.commands.cancel(CALLER, command.id)
    assert await entries(live, "command.cancelled") == []
    assert await told(live, "machine.removed") == [(CALLER.email, machine.id, "ok", {})]


async def test_a_batch_and_its_rest_are_recorded_with_the_machines_that_take_it(live, agent):
    await agent.join()
    machine = await agent.machine()
    batch, _ = await live.hub.batches.start(
        CALLER, [machine.id, "mach_x"], "true", SPEC, Ask(), concurrency=2, canary=0, max_errors=0
    )
    started = (CALLER.email, batch.id, "ok", {"machine_ids": [machine.id]})
    assert await told(live, "batch.accepted") == [started]
    rest, _ = await live.hub.batches.resume(CALLER, batch.id, None)
    resumed = {"machine_ids": [machine.id], "resumes": batch.id}
    assert await told(live, "batch.resumed") == [(CALLER.email, rest.id, "ok", resumed)]


async def test_an_observer_in_a_batch_is_recorded_as_refused(live, agent):
    link = await agent.join()
    machine = await agent.machine()
    await attach(live, link.session_id, "cli_1", "observer")
    assert await told(live, "session.client_attached") == [
        (CALLER.email, link.session_id, "ok", {"client_id": "cli_1", "mode": "observer"})
    ]
    with pytest.raises(Forbidden):
        await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    batch, _ = await live.hub.batches.start(
        CALLER, [machine.id], "true", SPEC, Ask(), concurrency=1, canary=0, max_errors=None
    )
    assert await told(live, "batch.accepted", "command.accepted") == [
        (CALLER.email, batch.id, "ok", {"machine_ids": []}),
        (CALLER.email, batch.id, "refused", {"machine_ids": [machine.id]}),
    ]
    await detach(live, link.session_id, "cli_1")
    assert len(await entries(live, "session.client_detached")) == 1


# ── what machines do ─────────────────────────────────────────────────────────────────────────────


async def test_a_machine_that_joins_is_recorded_with_its_token(live, agent):
    await agent.join()
    machine = await agent.machine()
    (token,) = await entries(live, "enrolment_token.created")
    assert (token.actor, token.details) == ("hub", {"max_uses": 1, "tags": ["prod"]})
    joined = {"name": machine.name, "enrolment_id": token.target}
    assert await told(live, "machine.joined") == [(machine.id, machine.id, "ok", joined)]
    await agent.connect()
    assert len(await entries(live, "machine.joined")) == 1


async def test_a_clone_is_recorded_as_refused(live, agent):
    await agent.join()
    machine = await agent.machine()
    clone = ScriptedAgent(live, agent.identity, keeper_id="another keeper").dial()
    await clone.prove(await clone.greet())
    await clone.closed()
    refused = (machine.id, machine.id, "refused", {})
    assert await told(live, "machine.clone_refused") == [refused]


async def test_what_a_machine_says_of_others_is_recorded_so_often_and_no_more(
    live, agent, monkeypatch
):
    monkeypatch.setattr(hub_audit, "_ENTRIES", 1)
    await agent.join()
    for named in (new_id("cmd"), new_id("cmd")):
        link = await agent.connect()
        await link.say(Rejected(id=named, reason="forged"))
        await link.closed()
    assert len(await entries(live, "machine.trespassed")) == 1


async def test_windows_of_a_machine_are_recorded_and_nothing_else_that_it_notes(live, agent):
    link = await agent.join()
    machine = await agent.machine()
    for event in ("grant.opened", "grant.closed", "grant.expired", "api_key.created"):
        await link.say(Notice(event=event, message="by somebody"))
    await link.heartbeat()
    said = (machine.id, machine.id, "ok", {"notice": "by somebody"})
    assert await told(live, "grant.opened", "grant.closed", "grant.expired") == [said] * 3
    assert await entries(live, "api_key.created") == []


async def test_a_dispatch_that_contradicts_what_a_machine_knows_is_recorded(live, agent):
    link = await agent.join()
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
    await link.expect(Dispatch)
    for _ in range(2):
        await link.say(Rejected(id=command.id, reason="spec_mismatch"))
        await link.heartbeat()
    rejected = ("hub", command.id, "refused", {"machine_id": machine.id})
    assert await told(live, "command.rejected") == [rejected]


async def test_a_machine_cannot_fill_the_log(live, agent, monkeypatch, caplog):
    monkeypatch.setattr(hub_audit, "_ENTRIES", 5)
    link = await agent.join()
    for _ in range(3):
        for number in range(3):
            await link.say(Notice(event="grant.opened", message=f"window {number}"))
        await link.heartbeat()
        link = await agent.connect()  # a new link brings no new room
    assert len(await entries(live, "grant.opened")) == 5
    assert len([each for each in caplog.records if each.message == "notice"]) == 5


async def test_a_notice_is_recorded_as_far_as_it_is_short(live, agent, caplog):
    link = await agent.join()
    await link.say(Notice(event="grant.opened", message="é" * 4096))
    await link.heartbeat()
    ((*_, details),) = await told(live, "grant.opened")
    assert details == {"notice": "é" * 256}
    assert [each.notice for each in caplog.records if each.message == "notice"] == ["é" * 256]


async def test_a_machine_that_rejects_everything_cannot_fill_the_log(live, agent, monkeypatch):
    monkeypatch.setattr(hub_audit, "_ENTRIES", 2)
    link = await agent.join()
    machine = await agent.machine()
    for _ in range(4):
        command = await live.hub.commands.start(CALLER, machine.id, "true", SPEC)
        await link.expect(Dispatch)
        await link.say(Rejected(id=command.id, reason="spec_mismatch"))
        await link.heartbeat()
    assert len(await entries(live, "command.rejected")) == 2


# ── what can be had without end ──────────────────────────────────────────────────────────────────


async def test_refusals_are_bounded_for_each_key_and_the_next_one_counts_what_was_left_out(
    live, autojump_clock: MockClock
):
    for _ in range(100):
        await refuse(live)
    refused = await told(live, "call.refused")
    plain = {"route": "delete_machine", "why": "machines:write"}
    assert refused == [(CALLER.email, "mach_1", "refused", plain)] * 60
    await trio.sleep(61)
    for _ in range(2):
        await refuse(live)
    later = [details for *_, details in await told(live, "call.refused")][60:]
    assert later == [{**plain, "left_out": 40}, plain]


async def test_one_key_takes_no_room_from_another(live):
    entry = Entry.by(CALLER, NOW, "call.refused", "")
    bounded = live.hub.audit.bounded
    assert [bounded("key_1", entry) is None for _ in range(61)] == [False] * 60 + [True]
    assert bounded("key_2", entry) == entry


async def test_entries_of_one_kind_take_no_room_from_another(live):
    bounded = live.hub.audit.bounded
    for _ in range(61):
        last = bounded("mach_1", Entry.by_hub(NOW, "grant.opened"))
    assert last is None
    assert bounded("mach_1", Entry.by_hub(NOW, "grant.closed")) is None
    assert bounded("mach_1", Entry.by_hub(NOW, audit.CONTRADICTED)) is not None


async def test_a_clock_that_is_set_back_shuts_nobody_out(live):
    bounded = live.hub.audit.bounded
    for _ in range(61):
        bounded("key_1", Entry.by(CALLER, NOW, "call.refused", ""))
    assert bounded("key_1", Entry.by(CALLER, NOW - 1, "call.refused", "")) is not None


async def test_who_may_only_look_cannot_fill_the_log_by_coming_and_going(live, agent, monkeypatch):
    monkeypatch.setattr(hub_audit, "_ENTRIES", 5)
    session_id = (await agent.join()).session_id
    for _ in range(4):
        await attach(live, session_id, "cli_1", "observer")
        await detach(live, session_id, "cli_1")
    actions = ("session.client_attached", "session.client_detached")
    assert len(await entries(live, *actions)) == 5


async def test_an_observer_cannot_fill_the_log_with_batches(live, agent, monkeypatch):
    monkeypatch.setattr(hub_audit, "_ENTRIES", 5)
    link = await agent.join()
    machine = await agent.machine()
    await attach(live, link.session_id, "cli_1", "observer")
    for _ in range(4):
        await live.hub.batches.start(
            CALLER, [machine.id], "true", SPEC, Ask(), concurrency=1, canary=0, max_errors=None
        )
    assert len(await entries(live, "batch.accepted")) == 5
    await detach(live, link.session_id, "cli_1")
    await live.hub.batches.start(
        CALLER, [machine.id], "true", SPEC, Ask(), concurrency=1, canary=0, max_errors=None
    )
    *_, (_, _, outcome, details) = await told(live, "batch.accepted")
    assert (outcome, details) == ("ok", {"machine_ids": [machine.id]})  # what starts is no refusal


async def test_who_was_refused_long_ago_is_forgotten_and_what_was_left_out_is_not(
    live, monkeypatch
):
    monkeypatch.setattr(hub_audit, "_REMEMBERED", 10)
    entry = Entry.by(CALLER, NOW, "call.refused", "")
    for _ in range(61):
        live.hub.audit.bounded("key_busy", entry)
    for number in range(9):
        live.hub.audit.bounded(f"key_{number}", entry)
    later = Entry.by(CALLER, NOW + 60_000, "call.refused", "")
    live.hub.audit.bounded("key_new", later)
    assert set(live.hub.audit._windows) == {("key_busy", "call"), ("key_new", "call")}
    assert live.hub.audit.bounded("key_busy", later).details == {"left_out": 1}


# ── what machines remember ───────────────────────────────────────────────────────────────────────


async def test_a_heartbeat_tells_how_far_the_log_is(live, agent):
    link = await agent.join()
    head = await live.hub.store.run(audit.head)
    assert head.seq > 1
    assert await acknowledged(link) == head
    await live.hub.store.run(audit.append, Entry.by_hub(NOW, "hub.started"))
    assert (await acknowledged(link)).seq == head.seq + 1


async def test_a_machine_that_remembers_the_same_is_a_witness(live, agent):
    remembered = await acknowledged(await agent.join())
    await back(agent, remembered)
    proof = await live.hub.audit.prove(WORKSPACE)
    assert [(each.seq, each.is_agreeing) for each in proof.witnesses] == [(remembered.seq, True)]
    assert proof.first_bad is None
    assert (proof.entries, proof.head) == (proof.head.seq, await live.hub.store.run(audit.head))


@pytest.mark.parametrize("seq", [1, 1000], ids=["another entry", "an entry that is gone"])
async def test_a_machine_that_remembers_otherwise_is_named_once(live, agent, caplog, seq):
    await agent.join()
    machine = await agent.machine()
    remembered = AuditHead(seq=seq, hash=b"x" * 32)
    for _ in range(3):
        await back(agent, remembered)
    said = {"seq": seq, "hash": (b"x" * 32).hex()}
    assert await told(live, audit.CONTRADICTED) == [("hub", machine.id, "ok", said)]
    (record,) = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert (record.machine_id, record.seq) == (machine.id, seq)
    proof = await live.hub.audit.prove(WORKSPACE)
    (witness,) = proof.witnesses
    assert (witness.machine_id, witness.seq, witness.is_agreeing) == (machine.id, seq, False)
    assert (proof.first_bad, proof.contradictions) == (None, 1)


async def test_a_machine_that_lies_anew_each_time_cannot_fill_the_log(
    live, agent, caplog, monkeypatch
):
    monkeypatch.setattr(hub_audit, "_ENTRIES", 3)
    await agent.join()
    for number in range(5):
        await back(agent, AuditHead(seq=1000 + number, hash=b"x" * 32))
    assert len(await entries(live, audit.CONTRADICTED)) == 3
    assert len([record for record in caplog.records if record.levelname == "CRITICAL"]) == 3


async def test_what_a_machine_remembers_stays_news_until_it_is_recorded(
    live, agent, caplog, autojump_clock: MockClock
):
    await agent.join()
    machine = await agent.machine()
    for _ in range(60):
        entry = Entry.by_hub(live.hub.clock.now_ms(), audit.CONTRADICTED, machine.id)
        assert live.hub.audit.bounded(machine.id, entry) is not None
    remembered = AuditHead(seq=1, hash=b"x" * 32)
    await back(agent, remembered)
    assert await entries(live, audit.CONTRADICTED) == []
    await trio.sleep(60)
    await back(agent, remembered)
    assert len(await entries(live, audit.CONTRADICTED)) == 1


async def test_machines_of_another_workspace_are_not_shown(live, agent):
    await back(agent, await acknowledged(await agent.join()))
    assert (await live.hub.audit.prove("ws_other")).witnesses == []


async def test_a_long_log_is_proved_in_pieces(live, monkeypatch):
    monkeypatch.setattr(hub_audit, "_PIECE", 10)

    def fill(tx) -> None:
        for number in range(95):
            audit.append(tx, Entry.by_hub(NOW, "hub.started", str(number)))

    await live.hub.store.run(fill)
    pieces = []
    run = live.hub.store.run

    async def counted(fn, *args):
        if fn is audit.walk:
            pieces.append(args)
        return await run(fn, *args)

    monkeypatch.setattr(live.hub.store, "run", counted)
    proof = await live.hub.audit.prove(WORKSPACE)
    assert (proof.entries, len(pieces)) == (95, 10)
    assert pieces[0] == (START, 10)


async def test_who_asks_for_a_proof_during_a_walk_shares_the_next_one(live, monkeypatch):
    walks, begun, go_on = [], trio.Event(), trio.Event()
    run = live.hub.store.run

    async def held_up(fn, *args):
        result = await run(fn, *args)
        if fn is audit.walk:
            walks.append(args)
            begun.set()
            await go_on.wait()
        return result

    monkeypatch.setattr(live.hub.store, "run", held_up)
    seqs = []

    async def ask() -> None:
        seqs.append((await live.hub.audit.prove(WORKSPACE)).head.seq)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await begun.wait()
        await run(audit.append, Entry.by_hub(NOW, "hub.started"))
        for _ in range(10):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        go_on.set()
    assert len(walks) == 2
    assert sorted(seqs) == [0] + [1] * 10  # nobody hears of a walk that began before he asked
    await live.hub.audit.prove(WORKSPACE)
    assert len(walks) == 3
