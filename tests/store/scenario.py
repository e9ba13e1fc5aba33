"""Every public function of the store, called once: what SQL they run, and that none is missed."""

import inspect
import pkgutil
from collections.abc import Callable, Iterator
from itertools import product
from types import ModuleType

import cmdop_appliance.store
from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import ApplianceError
from cmdop_appliance.protocol.terminals import Size
from cmdop_appliance.store import (
    api_keys,
    audit,
    backups,
    batches,
    clients,
    commands,
    deliveries,
    enrolments,
    events,
    firings,
    idempotency,
    leftovers,
    machine_upgrades,
    machines,
    metrics,
    migrate,
    outbox,
    output,
    quotas,
    restored,
    retention,
    runs,
    schedules,
    sessions,
    settings,
    sign_ins,
    tallies,
    terminals,
    totals,
    upgrades,
    webhooks,
    workspaces,
)
from cmdop_appliance.store.api_keys import Use
from cmdop_appliance.store.listing import Paging
from cmdop_appliance.store.tallies import Asked
from cmdop_appliance.store.transaction import Tx
from tests.support import records
from tests.support.records import NOW, REACH, TELEMETRY, WORKSPACE, samples

NOUNS: tuple[ModuleType, ...] = (
    api_keys,
    audit,
    backups,
    batches,
    clients,
    commands,
    deliveries,
    enrolments,
    events,
    firings,
    idempotency,
    leftovers,
    machine_upgrades,
    machines,
    metrics,
    migrate,
    outbox,
    output,
    quotas,
    restored,
    retention,
    runs,
    schedules,
    sessions,
    settings,
    sign_ins,
    tallies,
    terminals,
    totals,
    upgrades,
    webhooks,
    workspaces,
)
# What a key that is restricted to tags may know of.
FEW = Reach(WORKSPACE, ("prod", "web"))
# What the store is made of, without SQL of its own.
MECHANISMS = {
    "conditions",
    "directory",
    "engine",
    "integrity",
    "listing",
    "reach",
    "transaction",
    "trial",
    "ways",
}


def modules() -> set[str]:
    """The names of all modules of the store."""
    return {module.name for module in pkgutil.iter_modules(cmdop_appliance.store.__path__)}


def public_functions() -> set[str]:
    """`commands.insert` and so on: everything a noun offers that takes a transaction."""
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in NOUNS
        for name, fn in inspect.getmembers(module, inspect.isfunction)
        if fn.__module__ == module.__name__ and not name.startswith("_") and _takes_tx(fn)
    }


def _takes_tx(fn: Callable[..., object]) -> bool:
    return next(iter(inspect.signature(fn).parameters), "") == "tx"


def steps(tx: Tx) -> Iterator[str]:
    """Call them all; yields the name of each call that was made."""

    def call(fn: Callable[..., object], *args: object, **kwargs: object) -> str:
        result[0] = fn(tx, *args, **kwargs)
        return f"{fn.__module__.rpartition('.')[2]}.{fn.__name__}"

    result: list[object] = [None]
    yield call(migrate.to_latest)
    yield call(settings.get_or_set, "hub_key", "00")

    key = records.api_key()
    spare = records.api_key(scopes=["machines:read"], expires_ms=NOW + 1)
    yield call(api_keys.insert, key, "hash-1")
    yield call(api_keys.insert, spare, "hash-2", records.once())
    yield call(idempotency.claim, records.once(key="another"), spare.id)
    yield call(idempotency.find, records.once(key="another"))
    yield call(idempotency.forget, NOW)
    yield call(api_keys.get, REACH, key.id)
    yield call(api_keys.by_id, key.id)
    yield call(api_keys.by_hash, "hash-1", NOW)
    yield call(api_keys.is_good, key.id, NOW)
    yield call(api_keys.count)
    yield call(api_keys.note_uses, [Use(key.id, NOW, "::1")])
    yield from pages(call, api_keys, {})
    yield call(api_keys.oldest_admin, WORKSPACE, NOW)
    for sign_in_id, before in (("sign_1", None), ("sign_2", "sign_1")):
        made = records.sign_in(key, id=sign_in_id)
        yield call(sign_ins.insert, made, f"hash-{sign_in_id}", before)
    yield call(sign_ins.by_hash, "hash-sign_2", NOW)
    yield call(sign_ins.by_id, "sign_2")
    yield call(sign_ins.is_good, "sign_2", NOW)
    yield call(sign_ins.note_uses, [Use("sign_2", NOW, "::1"), Use("sign_2", NOW, None)], 60_000)
    yield from pages(call, sign_ins, {"api_key_id": key.id})
    yield call(sign_ins.delete, REACH, "sign_2")
    yield call(sign_ins.forget, NOW)
    yield call(api_keys.delete, REACH, spare.id)

    yield call(workspaces.insert, records.api_key(workspace_id="ws_2", namespace="two"), "hash-3")
    yield call(workspaces.set_created, NOW)
    for order in workspaces.ORDER:
        yield call(workspaces.page, Paging(20, 0, order))

    token = records.enrolment(max_uses=2)
    yield call(enrolments.insert, token, "secret-hash")
    yield call(enrolments.get, REACH, token.id)
    yield call(enrolments.use, "secret-hash", NOW)
    yield from pages(call, enrolments, {})
    yield call(enrolments.delete, REACH, token.id)

    machine = records.machine()
    yield call(machines.insert, machine, token.id)
    yield call(machines.by_key, machine.public_key)
    yield call(machines.removed_by_key, machine.public_key)
    yield call(machines.next_epoch, machine.id, facts=records.FACTS, ip="::1", now_ms=NOW)

    yield call(sessions.connect, machine, facts=records.FACTS, ip="::1", now_ms=NOW)
    session_id, epoch = result[0]  # type: ignore[misc]
    yield call(sessions.connect, machine, facts=records.FACTS, ip="::1", now_ms=NOW)  # again
    session_id, epoch = result[0]  # type: ignore[misc]
    yield call(sessions.ready, session_id, epoch, NOW)
    yield call(sessions.heartbeat, session_id, epoch, NOW)
    yield call(sessions.sampled, machine.id, epoch, TELEMETRY, NOW, NOW)
    yield call(sessions.set_background, session_id, epoch, on=True)
    yield call(sessions.set_background, session_id, epoch, on=False)
    yield call(metrics.record, machine.id, epoch, samples(1, 2), NOW)
    yield call(metrics.points, REACH, machine.id, from_ms=0, until_ms=NOW, step_ms=60_000)
    yield call(metrics.roll_up, NOW)
    yield call(sessions.get, REACH, session_id)
    yield call(sessions.by_id, session_id)
    session = result[0]
    yield call(sessions.record_event, "session.connected", session, NOW)
    observer = records.client(session_id, key.id)
    yield call(sessions.record_client_event, "session.client_attached", session, observer, NOW)
    yield call(sessions.live_of, REACH, machine.id)
    yield call(sessions.live_on, REACH, [machine.id, "mach_x"])
    yield call(sessions.live_on, FEW, [machine.id])
    yield call(sessions.sampled_machines, REACH)
    yield call(sessions.sampled_machines, FEW)
    yield from pages(
        call,
        sessions,
        {"status": "CONNECTED", "machine_id": machine.id, "machine_hostname": "web-1"},
    )
    yield call(machines.get, REACH, machine.id)
    yield call(machines.workspace_of, machine.id)
    yield call(machines.name_of, machine.id)
    yield from pages(
        call, machines, {"status": "online", "tags": ["a", "b_c"], "search": "w%b_1\\"}
    )
    client = records.client(session_id, key.id)
    yield call(clients.attach, client)
    yield call(clients.find, session_id, client.id)
    yield call(clients.of_session, session_id)
    yield call(clients.require_operator, key.id, machine.id)
    yield call(clients.detach, session_id, client.id, key.id)
    yield call(clients.detach_all, session_id)
    yield call(clients.detach_keyless, NOW)
    yield call(machines.roster, REACH)
    yield call(machines.roster, FEW)
    yield call(totals.machines)
    yield call(totals.live_sessions)
    yield call(totals.open_commands)
    yield call(totals.schedules)
    yield call(totals.deliveries)
    yield call(machines.set_online, machine.id, is_online=True)
    yield call(machines.edit, REACH, machine.id, name="web-2", tags=["prod", "web"])
    yield call(machines.flag_clone, machine.id, NOW)
    yield call(machines.epoch_of, machine.id)

    yield call(audit.append, audit.Entry.by_hub(NOW, "hub.started"))
    yield call(audit.head)
    told = result[0]
    yield call(audit.holds, told)
    yield call(audit.is_news, machine.id, told)
    yield call(audit.testify, machine.id, told, NOW)
    yield call(audit.witnesses, WORKSPACE)
    yield call(audit.walk, audit.START, 10)
    yield call(audit.page, WORKSPACE, Paging())
    asked = {"action": "a", "actor": "b", "target": "c", "outcome": "ok", "since_ms": NOW}
    yield call(audit.page, WORKSPACE, Paging(20, 0, "created_at"), **asked)

    batch = records.batch()
    yield call(batches.insert, batch)
    yield call(batches.get, REACH, batch.id)
    held = records.command(machine.id, None, batch_id=batch.id, is_held=True, supersede_key="k")
    yield call(commands.insert, held)
    yield call(batches.commands_of, REACH, batch.id)
    yield call(batches.progress, batch.id)
    yield call(batches.held, batch.id, 10)
    yield call(batches.resume, batch.id, batch.id)
    yield call(commands.superseder_of, held)
    yield call(commands.newest_of, REACH, machine.id, 10)
    yield call(commands.newest_of, FEW, machine.id, 10, serial_key="k")
    yield call(commands.skip_held, "batch_x", "code", "message", NOW)
    yield call(commands.place, held)
    yield call(commands.superseded_by, records.command(machine.id, None, supersede_key="k"))
    yield call(commands.send_queued, machine.id, session_id, NOW)

    command = records.command(machine.id, session_id)
    yield call(commands.live_session, REACH, machine.id)
    yield call(commands.insert, command)
    yield call(commands.of_connection, machine.id, epoch, command.id)
    yield call(commands.exists, command.id)
    yield call(commands.count_unknown, machine.id)
    yield call(commands.open_on, machine.id)
    yield call(commands.machines_with_open)
    yield call(commands.sent_to, machine.id)
    yield call(commands.unsent_since, NOW)
    yield call(commands.silent_since, NOW)
    yield call(commands.reopen_silent, machine.id)
    yield call(commands.ids_of_machine, machine.id, [command.id])
    yield call(commands.reopen_unsent, machine.id, session_id, command.id)
    yield call(commands.request_cancel, REACH, command.id, NOW)
    yield call(commands.accept, command.id, machine.id)
    yield call(commands.started, command.id, machine.id, NOW)
    yield call(output.save, command.id, "stdout", 3, b"one", max_bytes=1 << 20)
    yield call(output.save, command.id, "stdout", 6, b"onetwo", max_bytes=1 << 20)
    yield call(output.of_command, command.id)
    yield call(output.is_final, command.id)
    yield call(backups.streams, ("", ""))
    written = backups.Stream(command_id=command.id, stream="stdout", stored_bytes=6, max_bytes=9)
    yield call(backups.cut, written, 3)
    for count in (backups.schema, backups.tables, backups.lists):
        yield call(count)
    yield call(output.forget, command.id)
    yield call(output.leftovers, 10)
    yield call(output.deleted, [output.Leftover(command_id=command.id, stream="stdout")])
    yield call(commands.finish, records.ended(command))
    yield call(commands.get, REACH, command.id)
    yield from pages(
        call,
        commands,
        {
            "machine_id": machine.id,
            "session_id": session_id,
            "batch_id": batch.id,
            "statuses": ("completed", "running"),
            "since_ms": NOW,
        },
    )

    schedule = records.schedule(machine.id)
    yield call(schedules.insert, schedule)
    group = records.schedule(None, tags=["prod", "web"])
    yield call(schedules.insert, group)
    yield call(schedules.get, REACH, schedule.id)
    yield from pages(call, schedules, {"machine_id": machine.id, "is_enabled": True})
    yield call(firings.next_due, NOW)
    yield call(firings.due, NOW, 10)
    yield call(firings.ahead, NOW, 10)
    yield call(firings.enabled)
    yield call(schedules.find, schedule.id)
    yield call(firings.members, schedule.id)
    yield call(firings.members_due, group)
    yield call(firings.open_due, group)
    yield call(firings.decided_due, group, NOW)
    yield call(firings.unsent, schedule.id)
    run = records.run(schedule, None, scheduled_ms=NOW + 1)
    yield call(runs.insert, [run])
    yield call(runs.get, run.id)
    yield call(runs.made_by_hand, REACH, run.id)
    yield call(firings.mark_ahead, schedule.id, NOW)
    yield call(schedules.set_last, schedule.id, run.id, NOW)
    yield call(firings.move, [(schedule, NOW)])
    yield call(firings.decide, [(schedule.id, None)], NOW)
    yield call(schedules.update, schedule, records.schedule(None, id=schedule.id, tags=["web"]))
    for reach, since_ms in product((REACH, FEW), (None, NOW)):
        yield call(runs.page, reach, schedule.id, Paging(), since_ms=since_ms)
    yield call(schedules.delete, schedule.id)
    yield call(runs.forget, NOW)

    yield call(sessions.lose, session_id, epoch, now_ms=NOW, grace_until_ms=NOW + 1)
    yield call(sessions.end_expired, NOW + 2)
    yield call(sessions.end, session_id, epoch, NOW)
    yield call(sessions.connect, machine, facts=records.FACTS, ip="::1", now_ms=NOW)
    session_id, epoch = result[0]  # type: ignore[misc]
    yield call(sessions.fail, session_id, epoch, NOW)
    yield call(sessions.end_of, machine.id, NOW)
    yield call(sessions.recover, now_ms=NOW, grace_until_ms=NOW + 1)
    for reach, since_ms in product((REACH, FEW), (None, NOW)):
        yield call(tallies.count, reach, Asked(since_ms=since_ms))
    yield call(tallies.bucket_of, WORKSPACE, None, 0, down=True)
    yield from steps_of_webhooks(tx, call, machine.id)
    yield from steps_of_terminals(call, machine.id)
    yield from steps_of_machine_upgrades(call, machine.id)
    yield call(machines.remove, REACH, machine.id, NOW)

    yield call(quotas.over, 0)
    yield call(quotas.oldest, machine.id, 1)
    yield call(retention.forget_output, NOW + 10_000)
    yield call(retention.forget_commands, NOW + 10_000)
    yield from steps_of_upgrades(call)

    yield call(restored.mark, NOW, NOW, "0.1.0")
    yield call(restored.until_ms)

    yield call(events.append, WORKSPACE, "machine.online", subject=machine.id, data={}, now_ms=NOW)
    yield call(events.last_seq, WORKSPACE)
    yield call(events.after, REACH, 0, 100)
    yield call(events.after, FEW, 0, 100)
    yield call(events.forget, NOW)

    # What is not there.
    of_one_thing = (
        sessions.get,
        machines.get,
        commands.get,
        batches.get,
        schedules.get,
        terminals.get,
        webhooks.get,
        webhooks.delete,
        enrolments.get,
        enrolments.delete,
        api_keys.get,
        api_keys.delete,
    )
    for fn, reach in product(of_one_thing, (REACH, FEW)):
        try:
            fn(tx, reach, "nothing")
        except ApplianceError:
            continue
        raise AssertionError(f"{fn.__name__} found what is not there")


def steps_of_webhooks(tx: Tx, call, machine_id: str) -> Iterator[str]:
    """The same for webhooks, and what they are told."""
    webhook, few = records.webhook(), records.webhook(tags=["prod"])
    yield call(webhooks.insert, webhook)
    yield call(webhooks.insert, few)
    yield call(webhooks.find, webhook.id)
    yield call(webhooks.get, REACH, webhook.id)
    yield call(webhooks.counted, webhook)
    yield from pages(call, webhooks, {"is_enabled": True})
    yield call(webhooks.succeeded, webhook.id, NOW)
    yield call(webhooks.failed, webhook.id, NOW, is_silent=True)

    events.append(
        tx,
        WORKSPACE,
        "machine.online",
        subject=machine_id,
        data={},
        now_ms=NOW,
        machine_id=machine_id,
    )
    event = events.after(tx, REACH, 0, 100)[-1]
    yield call(outbox.enter, event, "{}")
    test = records.trial(webhook)
    yield call(outbox.insert, test)
    yield call(outbox.due, NOW + 10_000, 10)
    yield call(outbox.mend, NOW)
    yield call(deliveries.find, test.id)
    yield call(outbox.attempted, test.id, **records.attempt())
    yield call(deliveries.get, REACH, webhook.id, test.id)
    yield call(outbox.put_off, test, NOW)
    yield call(outbox.end, test, "dead", NOW, "why")
    yield call(outbox.redeliver, webhook.id, [test.id], NOW)
    yield call(deliveries.between, webhook.id, 0, None, "pending")
    asked = {"status": "dead", "kind": "machine.online", "since_ms": NOW}
    yield call(deliveries.page, REACH, webhook.id, Paging())
    paging = Paging(20, 0, "created_at")
    yield call(deliveries.page, REACH, webhook.id, paging, **asked)
    yield call(deliveries.forget, NOW)

    yield call(webhooks.disable, webhook.id, "why", NOW)
    yield call(leftovers.clear_away, webhook.id, NOW)
    yield call(leftovers.leave, webhook.id)
    yield call(leftovers.leave_every)
    yield call(leftovers.first)
    yield call(leftovers.has_any, webhook.id)
    yield call(webhooks.edit, webhook, {"is_enabled": False}, NOW)
    yield call(webhooks.delete, REACH, webhook.id)
    yield call(leftovers.clear_away, webhook.id, NOW)


def steps_of_upgrades(call) -> Iterator[str]:
    """The same for releases that the hub was given."""
    one, two = records.upgrade(machine_ids=[]), records.upgrade(status="machines")
    for each in (one, two):
        yield call(upgrades.insert, each)
        yield call(upgrades.get, each.id)
        yield call(upgrades.open_one)
        yield call(upgrades.hub_upgraded, each, NOW)
    for order in upgrades.ORDER:
        yield call(upgrades.page, Paging(20, 0, order))
    yield call(upgrades.complete, two.id, NOW)
    yield call(upgrades.fail, two.id, "reason", NOW)


def steps_of_machine_upgrades(call, machine_id: str) -> Iterator[str]:
    """The same for what became of them on machines."""
    upgrade = records.upgrade()
    yield call(upgrades.insert, upgrade)
    yield call(machine_upgrades.enter, upgrade, NOW)
    yield call(machine_upgrades.counts, upgrade.id)
    yield call(machine_upgrades.begin_wave, upgrade, percent=20, max_failures=0, now_ms=NOW)
    yield call(machine_upgrades.offered, upgrade.id)
    yield call(machine_upgrades.under_way, machine_id)
    told = {"code": "exited", "reason": "exit code 1", "now_ms": NOW}
    yield call(machine_upgrades.record, upgrade.id, machine_id, "rolled_back", **told)
    until = {"away_before_ms": NOW, "stuck_before_ms": NOW}
    yield call(machine_upgrades.give_up, upgrade.id, **until)
    for field, way, state in product(machine_upgrades.ORDER, ("", "-"), (None, "healthy")):
        paging = Paging(20, 0, f"{way}{field}")
        yield call(machine_upgrades.page, upgrade.id, paging, state=state)
    yield call(upgrades.complete, upgrade.id, NOW)


def steps_of_terminals(call, machine_id: str) -> Iterator[str]:
    """The same for terminals and coding sessions."""
    terminal, coding = records.terminal(machine_id), records.coding_session(machine_id)
    for each in (terminal, coding):
        yield call(terminals.insert, each)
    yield call(terminals.get, REACH, terminal.id)
    yield call(terminals.find, terminal.id)
    yield call(terminals.named, machine_id, terminal.name)
    yield call(terminals.live_of, machine_id)
    yield call(terminals.recorded)
    yield call(terminals.unanswered, NOW)
    yield from pages(
        call, terminals, {"machine_id": machine_id, "kind": "terminal", "status": "starting"}
    )
    where = {"directory": "/work", "worktree": records.WORKTREE}
    yield call(terminals.start, coding, started_ms=NOW, now_ms=NOW, **where)
    yield call(terminals.set_waiting, coding, on=True, now_ms=NOW)
    yield call(terminals.set_size, coding.id, Size(100, 50))
    yield call(terminals.request_end, coding)
    yield call(terminals.end, coding, "exited", ended_ms=NOW, now_ms=NOW, exit_code=0)
    yield call(terminals.forget, NOW)


def pages(call, noun: ModuleType, filters: dict[str, object]) -> Iterator[str]:
    """Each order both ways, without and with every filter, for every kind of caller."""
    for caller, field, way, asked in product((REACH, FEW), noun.ORDER, ("", "-"), (False, True)):
        values = {name: value if asked else None for name, value in filters.items()}
        yield call(noun.page, caller, Paging(20, 0, f"{way}{field}"), **values)
