"""The SQL itself: one dialect for SQLite and PostgreSQL, and an index for whatever is hot."""

import re
from collections.abc import Callable
from contextlib import suppress

import apsw
import pglast
import pytest

from cmdop_appliance.errors import NotFound
from cmdop_appliance.hub import lifecycle
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Delivery
from cmdop_appliance.protocol.messages import AuditHead, Started
from cmdop_appliance.store import (
    api_keys,
    audit,
    batches,
    clients,
    commands,
    deliveries,
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
    retention,
    runs,
    schedules,
    sessions,
    sign_ins,
    terminals,
    totals,
    upgrades,
    webhooks,
)
from cmdop_appliance.store.engine import Store, open_store
from cmdop_appliance.store.listing import Paging
from cmdop_appliance.store.transaction import Tx
from cmdop_appliance.webhooks import outcomes
from cmdop_appliance.webhooks.sending import Answer
from tests.store import scenario
from tests.support import records
from tests.support.live_hub import finished
from tests.support.records import NOW, REACH, WORKSPACE

_PARAMETER = re.compile(r"(?<!:):(\w+)")


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path, inline=True) as store:
        yield store


def traced(store: Store) -> list[str]:
    """Every statement that runs on the store from now on."""
    seen: list[str] = []

    def trace(cursor, sql: str, parameters) -> bool:
        seen.append(sql)
        return True

    store._writer.exec_trace = trace
    return seen


def as_postgresql(sql: str) -> str:
    """`sql` with the parameters that PostgreSQL's own parser reads."""
    numbers: dict[str, int] = {}
    return _PARAMETER.sub(lambda m: f"${numbers.setdefault(m[1], len(numbers) + 1)}", sql)


def test_every_module_of_the_store_is_known_to_the_scenario():
    nouns = {module.__name__.rpartition(".")[2] for module in scenario.NOUNS}
    assert scenario.modules() == nouns | scenario.MECHANISMS


async def test_every_statement_of_every_store_function_is_postgresql_too(store):
    seen = traced(store)
    called: set[str] = set()
    await store.run(lambda tx: called.update(scenario.steps(tx)))
    assert called == scenario.public_functions()
    statements = {sql for sql in seen if not sql.startswith(("SAVEPOINT", "RELEASE"))}
    assert len(statements) > 60
    for sql in sorted(statements - {"BEGIN IMMEDIATE"}):
        try:
            pglast.parse_sql(as_postgresql(sql))
        except pglast.parser.ParseError as error:
            pytest.fail(f"{error}: {sql}")


@pytest.mark.parametrize("number", migrate._scripts())
def test_every_migration_is_postgresql_too(number: int):
    script = migrate._scripts()[number]
    parsed = pglast.parse_sql(script)
    pieces = [piece for piece in script.split(";\n") if piece.strip()]
    assert len(parsed) == len(pieces)  # the way the migrations are split is the right one


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT OR REPLACE INTO setting VALUES (:a, :b)",
        "SELECT * FROM setting WHERE name GLOB :a",
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "SELECT `name` FROM setting",
    ],
)
def test_sqlite_alone_would_be_found(sql: str):
    with pytest.raises(pglast.parser.ParseError):
        pglast.parse_sql(as_postgresql(sql))


# ── indexes ──────────────────────────────────────────────────────────────────────────────────────

PAGE = Paging()
ID = "sqlite_autoindex_{}_1"
# Whether the machine of a command is connected.
STALE = {"session_current", ID.format("machine")}
# what → (the call, the indexes that it uses and no others)
HOT = {
    "a command by id": (
        lambda tx: commands.get(tx, REACH, "cmd"),
        {ID.format("command"), *STALE},
    ),
    "what an agent speaks of": (
        lambda tx: commands.of_connection(tx, "mach", 1, "cmd"),
        {ID.format("command"), ID.format("machine")},
    ),
    "the commands that a machine may know": (
        lambda tx: commands.sent_to(tx, "mach"),
        {"command_open"},
    ),
    "what was lost by silence": (
        lambda tx: commands.reopen_silent(tx, "mach"),
        {"command_silent"},
    ),
    "what waits for a machine": (
        lambda tx: commands.send_queued(tx, "mach", "sess", NOW),
        {"command_open"},
    ),
    "the commands of a batch": (
        lambda tx: batches.commands_of(tx, REACH, "batch"),
        {"command_by_batch", *STALE},
    ),
    "the next commands of a batch": (
        lambda tx: batches.held(tx, "batch", 1),
        {"command_by_batch"},
    ),
    "how far a batch is": (lambda tx: batches.progress(tx, "batch"), {"command_by_batch"}),
    "what waits, and another takes its place": (
        lambda tx: commands.superseded_by(tx, records.command("mach", None, supersede_key="k")),
        {"command_open"},
    ),
    "what a machine is to be upgraded to": (
        lambda tx: machine_upgrades.under_way(tx, "mach"),
        {"machine_upgrade_of_machine"},
    ),
    "how far a machine is with it": (
        lambda tx: machine_upgrades.record(
            tx, "upg", "mach", "healthy", code=None, reason=None, now_ms=NOW
        ),
        {"sqlite_autoindex_machine_upgrade_1"},
    ),
    "an upgrade by id": (
        lambda tx: upgrades.get(tx, "upg"),
        {ID.format("upgrade")},
    ),
    "the open commands of a machine": (lambda tx: commands.open_on(tx, "mach"), {"command_open"}),
    "the newest commands of a machine": (
        lambda tx: commands.newest_of(tx, REACH, "mach", 10),
        {"command_by_machine", *STALE},
    ),
    "the newest commands of a line": (
        lambda tx: commands.newest_of(tx, REACH, "mach", 10, serial_key="k"),
        {"command_by_line", *STALE},
    ),
    "the session for a new command": (
        lambda tx: commands.live_session(tx, REACH, "mach"),
        {ID.format("machine"), "session_current"},
    ),
    "an end": (
        lambda tx: commands.finish(tx, records.ended(records.command("mach", "sess"))),
        {ID.format("command")},
    ),
    "a start": (
        lambda tx: commands.started(tx, "cmd", "mach", NOW),
        {ID.format("command")},
    ),
    "an output": (lambda tx: output.of_command(tx, "cmd"), {ID.format("output")}),
    "the head of the audit log": (audit.head, {ID.format("audit")}),
    "an entry of the audit log": (
        lambda tx: audit.append(tx, audit.Entry.by_hub(NOW, "hub.started")),
        {ID.format("audit")},
    ),
    "the audit log of a workspace": (
        lambda tx: audit.page(tx, WORKSPACE, PAGE),
        {"audit_by_workspace"},
    ),
    "a part of the audit log": (
        lambda tx: audit.walk(tx, AuditHead(seq=1, hash=bytes(32)), 10),
        {ID.format("audit")},
    ),
    "what a machine remembers of the audit log": (
        lambda tx: audit.is_news(tx, "mach", audit.START),
        {ID.format("audit"), ID.format("audit_witness")},
    ),
    "a caller": (
        lambda tx: api_keys.by_hash(tx, "hash", NOW),
        {"sqlite_autoindex_api_key_2", ID.format("workspace")},
    ),
    "a browser that is signed in": (
        lambda tx: (sign_ins.by_hash(tx, "hash", NOW), sign_ins.is_good(tx, "sign", NOW)),
        {"sqlite_autoindex_sign_in_2", ID.format("api_key"), ID.format("sign_in")},
    ),
    "when browsers were seen": (
        lambda tx: sign_ins.note_uses(tx, [api_keys.Use("sign", NOW, None)], 60_000),
        {ID.format("sign_in")},
    ),
    "browsers that are signed in no more": (
        lambda tx: sign_ins.forget(tx, NOW),
        {"sign_in_by_end"},
    ),
    "the keys of a workspace": (
        lambda tx: api_keys.page(tx, REACH, PAGE),
        {"api_key_by_workspace", ID.format("workspace")},
    ),
    "a machine by id": (
        lambda tx: machines.get(tx, REACH, "mach"),
        {ID.format("machine")},
    ),
    "a machine by key": (
        lambda tx: machines.by_key(tx, b"key"),
        {"sqlite_autoindex_machine_2"},
    ),
    "a session by id": (lambda tx: sessions.get(tx, REACH, "sess"), {ID.format("session")}),
    "the session of a machine": (
        lambda tx: sessions.live_of(tx, REACH, "mach"),
        {"session_current"},
    ),
    "the sessions of some machines": (
        lambda tx: sessions.live_on(tx, REACH, ["mach_1", "mach_2"]),
        {"session_current"},
    ),
    "the machines whose load is known": (
        lambda tx: sessions.sampled_machines(tx, REACH),
        {"session_by_status"},
    ),
    "sessions whose grace is over": (
        lambda tx: sessions.end_expired(tx, NOW),
        {"session_in_grace"},
    ),
    "who may act on a machine": (
        lambda tx: clients.require_operator(tx, "key", "mach"),
        {"session_current", ID.format("client")},
    ),
    "the events behind one": (
        lambda tx: events.after(tx, REACH, 1, 100),
        {ID.format("event")},
    ),
    "an event": (
        lambda tx: events.append(
            tx, WORKSPACE, "machine.online", subject="mach", data={}, now_ms=NOW
        ),
        {ID.format("workspace"), "webhook_enabled"},
    ),
    "an event that a webhook hears": (
        lambda tx: (
            webhooks.insert(tx, records.webhook(id="hook", seq=outbox.KEPT_MOST)),
            outbox.enter(tx, records.event(), "{}"),
        ),
        {
            ID.format("webhook"),
            "webhook_by_age",
            "webhook_enabled",
            "delivery_in_line",
            "delivery_by_seq",
            ID.format("attempt"),
        },
    ),
    "a webhook by id": (
        lambda tx: webhooks.counted(tx, records.webhook()) and webhooks.get(tx, REACH, "hook"),
        {ID.format("webhook"), "delivery_in_line"},
    ),
    "the webhooks of a workspace": (
        lambda tx: webhooks.page(tx, REACH, PAGE),
        {"webhook_by_age"},
    ),
    "the deliveries of a webhook": (
        lambda tx: (
            webhooks.insert(tx, records.webhook(id="hook")),
            outbox.insert(tx, records.trial(records.webhook(id="hook"))),
            deliveries.page(tx, REACH, "hook", PAGE, since_ms=NOW),
        ),
        {
            ID.format("webhook"),
            "webhook_by_age",
            "delivery_by_age",
            "delivery_in_line",
            ID.format("attempt"),
        },
    ),
    "deliveries that are kept no longer": (
        lambda tx: deliveries.forget(tx, NOW),
        {"delivery_ended", ID.format("delivery"), ID.format("attempt")},
    ),
    "events that are kept no longer": (
        lambda tx: events.forget(tx, NOW),
        {"event_by_age", ID.format("event")},
    ),
    "when something comes due": (
        lambda tx: firings.next_due(tx, NOW),
        {"schedule_ahead", "schedule_due"},
    ),
    "what has come due": (lambda tx: firings.due(tx, NOW, 10), {"schedule_due"}),
    "what was decided before": (
        lambda tx: firings.decided_due(tx, records.schedule("mach"), NOW),
        {"schedule_due", "run_by_instant"},
    ),
    "what of a schedule waits for its machine": (
        lambda tx: firings.unsent(tx, "sched"),
        {"command_of_schedule"},
    ),
    "a schedule by id": (
        lambda tx: schedules.get(tx, REACH, "sched"),
        {ID.format("schedule"), ID.format("run"), ID.format("command")},
    ),
    "the schedules of a workspace": (
        lambda tx: schedules.page(tx, REACH, PAGE),
        {"schedule_by_age", ID.format("run"), ID.format("command")},
    ),
    "the history of a schedule": (
        lambda tx: runs.page(tx, REACH, "sched", PAGE, since_ms=NOW),
        {"run_by_schedule"},
    ),
    "runs that are kept no longer": (
        lambda tx: runs.forget(tx, NOW),
        {"run_by_age", *map(ID.format, ("run", "schedule", "schedule_gone"))},
    ),
    "a terminal by id": (
        lambda tx: terminals.get(tx, REACH, "term"),
        {ID.format("terminal"), *STALE},
    ),
    "a terminal by name": (
        lambda tx: (terminals.named(tx, "mach", "main"), terminals.live_of(tx, "mach")),
        {"terminal_named"},
    ),
    "the terminals of a workspace": (
        lambda tx: terminals.page(tx, REACH, PAGE),
        {"terminal_by_age"},
    ),
    "terminals that no machine has opened": (
        lambda tx: terminals.unanswered(tx, NOW),
        {"terminal_starting"},
    ),
    "terminals that are kept no longer": (
        lambda tx: (terminals._make_room(tx, "mach"), terminals.forget(tx, NOW)),
        {"terminal_ended", "terminal_over", ID.format("terminal")},
    ),
    "a heartbeat": (
        lambda tx: sessions.heartbeat(tx, "sess", 1, NOW),
        {ID.format("session"), ID.format("machine")},
    ),
    "a sample": (
        lambda tx: (
            metrics.record(tx, "mach", 1, records.samples(1), NOW),
            metrics._last_of(tx, "mach"),
        ),
        {"session_current", ID.format("metric_last")},
    ),
}


@pytest.mark.parametrize("name", HOT)
async def test_what_is_hot_finds_its_rows_by_the_right_index_and_in_order(store, name: str):
    seen = traced(store)
    call, indexes = HOT[name]

    def plan(tx: Tx) -> list[str]:
        with suppress(NotFound):  # nothing is there; only the statements count
            call(tx)
        steps: list[str] = []
        for sql in [
            sql for sql in seen if sql.startswith(("SELECT", "UPDATE", "INSERT", "DELETE"))
        ]:
            nothing = dict.fromkeys(_PARAMETER.findall(sql))
            rows = tx._connection.execute(f"EXPLAIN QUERY PLAN {sql}", nothing)
            steps += [row[3] for row in rows]
        return steps

    steps = [step for step in await store.run(plan) if "SUBQUERY" not in step]
    used = [
        re.fullmatch(r"SEARCH \w+ USING (?:COVERING )?INDEX (\w+)(?: .*)?", step) for step in steps
    ]
    assert all(used), steps  # neither a scan nor a sort
    assert {match[1] for match in used} == indexes


# ── however many have ended ──────────────────────────────────────────────────────────────────────

ENDED = 10_000
# Steps of SQLite's machine: to look at each of those that have ended takes several for each.
STEPS_MOST = 2_000


class Past:
    """A connected machine with a long past, and one command that is under way."""

    def __init__(self, tx: Tx) -> None:
        self.tx = tx
        self.machine = records.machine()
        machines.insert(tx, self.machine, "enr_x")
        facts, ip = records.FACTS, "::1"
        self.session_id, self.epoch = sessions.connect(
            tx, self.machine, facts=facts, ip=ip, now_ms=NOW
        ) or ("", 0)
        sessions.ready(tx, self.session_id, self.epoch, NOW)
        self.command = records.command(self.machine.id, self.session_id, supersede_key="k")
        commands.insert(tx, self.command)
        for session_id in (self.session_id, None):  # half of them were never sent
            ended = records.command(self.machine.id, session_id, supersede_key="k")
            commands.insert(tx, ended)
            commands.finish(tx, records.ended(ended))
            self._copy("command", ended.id, ENDED // 2, id="id || n")
        self.webhook = records.webhook()
        webhooks.insert(tx, self.webhook)
        first = self.first = self.delivery(
            1, next_attempt_ms=NOW
        )  # one after the other about one thing …
        self._copy("delivery", first.id, ENDED, id="id || n", seq="1 + n", next_attempt_ms="NULL")
        other = self.delivery(ENDED + 2, next_attempt_ms=NOW + 60_000)  # … each about another …
        more = {"subject": "subject || n", "next_attempt_ms": "next_attempt_ms + n"}
        self._copy("delivery", other.id, ENDED, id="id || n", seq="seq + n", **more)
        self.ended = self.delivery(2 * ENDED + 3, next_attempt_ms=NOW)  # … and those that are over
        outbox.end(tx, self.ended, "delivered", NOW)
        self._copy("delivery", self.ended.id, ENDED, id="id || n", seq="seq + n")
        webhooks.insert(tx, records.webhook(is_enabled=False))
        terminal = records.terminal(self.machine.id)
        terminals.insert(tx, terminal)
        terminals.end(tx, terminal, "exited", ended_ms=NOW, now_ms=NOW)
        self._copy("terminal", terminal.id, ENDED, id="id || n")

    def delivery(self, seq: int, **fields) -> Delivery:
        made = records.trial(self.webhook, seq=seq, **fields)
        outbox.insert(self.tx, made)
        return made

    def _copy(self, table: str, row_id: str, times: int, **values: str) -> None:
        names = [row[1] for row in self.tx._connection.execute(f"PRAGMA table_info({table})")]
        columns = ", ".join(values.get(name, name) for name in names)
        self.tx.execute(
            "WITH RECURSIVE numbers (n) AS"
            " (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :most)"
            f" INSERT INTO {table} SELECT {columns} FROM {table}, numbers"
            f" WHERE {table}.id = :id",
            most=times,
            id=row_id,
        )

    def of_connection(self, fn: Callable[..., object], *more: object) -> object:
        return fn(self.tx, self.machine.id, self.epoch, *more)


AGAIN = {
    "the sweep": lambda past: lifecycle.sweep(past.tx, NOW, NOW),
    "the sweep of what is too late": lambda past: lifecycle.sweep(
        past.tx, NOW + 10**6, NOW + 10**6
    ),
    "sessions whose grace is over": lambda past: sessions.end_expired(past.tx, NOW),
    "events that are kept no longer": lambda past: events.forget(past.tx, NOW),
    "requests that are kept no longer": lambda past: idempotency.forget(past.tx, NOW),
    "runs that are kept no longer": lambda past: runs.forget(past.tx, NOW),
    "samples that are kept no longer": lambda past: metrics.roll_up(past.tx, NOW),
    "output that is kept no longer": lambda past: retention.forget_output(past.tx, NOW),
    "commands that are kept no longer": lambda past: retention.forget_commands(past.tx, NOW),
    "files that are left over": lambda past: output.leftovers(past.tx, 100),
    "what is due for receivers": lambda past: outbox.due(past.tx, NOW, 16),
    "what receivers are to be told of": lambda past: events.append(
        past.tx, WORKSPACE, "machine.online", subject="mach", data={}, now_ms=NOW
    ),
    "an attempt that failed": lambda past: outcomes.record(
        past.tx, past.first.id, Answer(error="no", duration_ms=1), NOW, NOW, 0.0
    ),
    "an attempt that succeeded": lambda past: outcomes.record(
        past.tx, past.first.id, Answer(status=200, duration_ms=1), NOW, NOW, 0.0
    ),
    "a delivery that is made again": lambda past: outbox.redeliver(
        past.tx, past.webhook.id, [past.ended.id], NOW
    ),
    "a webhook that is disabled": lambda past: webhooks.disable(
        past.tx, past.webhook.id, "why", NOW
    ),
    "a webhook that is deleted": lambda past: webhooks.delete(past.tx, REACH, past.webhook.id),
    "what is left of webhooks": lambda past: leftovers.clear_away(past.tx, past.webhook.id, NOW),
    "a webhook that is sent elsewhere": lambda past: webhooks.edit(
        past.tx, past.webhook, {"url": "https://other.example/"}, NOW
    ),
    "deliveries that are kept no longer": lambda past: deliveries.forget(past.tx, NOW),
    "terminals that no machine has opened": lambda past: terminals.unanswered(past.tx, NOW),
    "terminals that are kept no longer": lambda past: terminals.forget(past.tx, NOW),
    "keys that were used": lambda past: api_keys.note_uses(
        past.tx, [api_keys.Use("key", NOW, "::1")]
    ),
    "a machine that connects": lambda past: sessions.connect(
        past.tx, past.machine, facts=records.FACTS, ip="::1", now_ms=NOW
    ),
    "a machine that is ready": lambda past: lifecycle.ready(
        past.tx, past.session_id, past.epoch, past.machine.id, NOW
    ),
    "the machines with open commands": lambda past: commands.machines_with_open(past.tx),
    "what a machine knows": lambda past: commands.ids_of_machine(
        past.tx, past.machine.id, [past.command.id]
    ),
    "what only a machine knows": lambda past: lifecycle.adopt(
        past.tx, past.machine, past.epoch, past.session_id, [past.command.id, new_id("cmd")], NOW
    ),
    "a heartbeat": lambda past: sessions.heartbeat(past.tx, past.session_id, past.epoch, NOW),
    "samples": lambda past: past.of_connection(metrics.record, records.samples(1), NOW),
    "a command that a machine speaks of": lambda past: past.of_connection(
        lifecycle.own, past.command.id
    ),
    "a command that waits on its machine": lambda past: past.of_connection(
        lifecycle.accepted, [past.command.id]
    ),
    "a start": lambda past: past.of_connection(
        lifecycle.started, Started(id=past.command.id, started_ms=NOW), NOW
    ),
    "an end": lambda past: past.of_connection(
        lifecycle.finished, [(finished(past.command.id), {"stdout": 0, "stderr": 0})], [], NOW
    ),
    "a command that its machine has not": lambda past: past.of_connection(
        lifecycle.unknown, past.command.id, "reason", NOW
    ),
    "a link that is gone": lambda past: sessions.lose(
        past.tx, past.session_id, past.epoch, now_ms=NOW, grace_until_ms=NOW
    ),
    "a goodbye": lambda past: sessions.end(past.tx, past.session_id, past.epoch, NOW),
    "what takes the place of others": lambda past: commands.superseded_by(past.tx, past.command),
    "all that is open": lambda past: totals.open_commands(past.tx),
}


@pytest.fixture(scope="module")
def past() -> Past:
    tx = Tx(apsw.Connection(":memory:"))
    migrate.to_latest(tx)
    return Past(tx)


@pytest.mark.parametrize("name", AGAIN)
def test_what_runs_again_and_again_looks_at_nothing_that_has_ended(past: Past, name: str):
    connection, steps = past.tx._connection, []
    connection.execute("SAVEPOINT before")
    connection.set_progress_handler(lambda: bool(steps.append(100)), 100)
    try:
        AGAIN[name](past)
    finally:
        connection.set_progress_handler(None)
        connection.execute("ROLLBACK TO before; RELEASE before")
    assert sum(steps) <= STEPS_MOST
