"""Records as a test needs them, and the rows that must be there before them."""

from typing import Any

import msgspec

from cmdop_appliance.auth import Reach
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import (
    ApiKey,
    Batch,
    Client,
    Command,
    Delivery,
    Enrolment,
    Event,
    Machine,
    Notify,
    Run,
    Schedule,
    SignIn,
    Terminal,
    Upgrade,
    Webhook,
)
from cmdop_appliance.protocol.messages import Facts, Sample, Samples, Spec, Telemetry
from cmdop_appliance.protocol.terminals import Coding, Shell, Worktree
from cmdop_appliance.store import commands, machines, sessions
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.idempotency import Once

WORKSPACE = "ws_default"
REACH = Reach(WORKSPACE)
NOW = 1_700_000_000_000

FACTS = Facts(
    hostname="web-1",
    platform="linux",
    os="Debian 13",
    arch="x86_64",
    kernel="6.12",
    user="root",
    home="/root",
    agent_version="0.1.0",
    cpu_cores=2,
    memory_bytes=2**31,
)
TELEMETRY = Telemetry(
    cpu_percent=1.5,
    memory_percent=50,
    disk_percent=10,
    memory_total=100,
    memory_used=50,
    memory_free=50,
    disk_total=100,
    disk_used=10,
    disk_free=90,
    network_rx_bytes=1,
    network_tx_bytes=2,
    uptime_seconds=3,
)

WORKTREE = Worktree(
    repository="/src/shop", path="/src/shop-worktrees/fix", branch="cmdop-fix", name="fix"
)


def samples(*numbers: int, age_ms: int = 0, series: bytes = b"s" * 16, **load) -> Samples:
    """A message of samples of one moment."""
    telemetry = msgspec.structs.replace(TELEMETRY, **load)
    taken = [Sample(number=number, age_ms=age_ms, telemetry=telemetry) for number in numbers]
    return Samples(series=series, samples=taken)


def machine(**fields) -> Machine:
    made = new_id("mach")
    plain = Machine(
        id=made,
        workspace_id=WORKSPACE,
        name="web-1",
        public_key=made.encode().ljust(32, b"\0")[:32],
        tags=["prod"],
        facts=FACTS,
        ip="192.0.2.7",
        created_ms=NOW,
        last_seen_ms=NOW,
        clone_seen_ms=None,
    )
    return msgspec.structs.replace(plain, **fields)


def command(machine_id: str, session_id: str | None, **fields) -> Command:
    plain = Command(
        id=new_id("cmd"),
        workspace_id=WORKSPACE,
        machine_id=machine_id,
        session_id=session_id,
        command="true",
        spec=Spec(argv=["true"]),
        spec_hash=b"h" * 32,
        status="pending",
        operator="ci@default",
        created_ms=NOW,
        start_until_ms=NOW + 30_000,
        is_bounded=False,
    )
    return msgspec.structs.replace(plain, **fields)


def upgrade(**fields) -> Upgrade:
    plain = Upgrade(
        id=new_id("upg"),
        version="99.0.0",
        released_ms=NOW,
        manifest=b"{}",
        signature=b"s" * 64,
        machine_ids=None,
        status="machines",
        operator="ci@default",
        created_ms=NOW,
        hub_ms=NOW,
    )
    return msgspec.structs.replace(plain, **fields)


def batch(**fields) -> Batch:
    plain = Batch(
        id=new_id("batch"),
        workspace_id=WORKSPACE,
        concurrency=2,
        canary=0,
        max_errors=None,
        refused={},
        created_ms=NOW,
    )
    return msgspec.structs.replace(plain, **fields)


def schedule(machine_id: str | None, **fields) -> Schedule:
    """A daily one; without a machine it needs `machine_ids` or `tags`."""
    plain = Schedule(
        id=new_id("sched"),
        workspace_id=WORKSPACE,
        name="backup",
        description="",
        machine_id=machine_id,
        machine_ids=None,
        tags=None,
        command="true",
        spec=Spec(argv=["true"]),
        cron="0 3 * * *",
        timezone="UTC",
        is_enabled=True,
        overlap="skip",
        misfire="run_once",
        misfire_window_ms=86_400_000,
        notify=Notify(),
        operator="ci@default",
        created_ms=NOW,
        updated_ms=NOW,
        next_ms=NOW + 3_600_000,
        decided_ms=NOW,
    )
    return msgspec.structs.replace(plain, **fields)


def run(of: Schedule, command_id: str | None, **fields) -> Run:
    """A firing of a schedule; without a command, one that was skipped."""
    plain = Run(
        id=new_id("run"),
        workspace_id=of.workspace_id,
        schedule_id=of.id,
        scheduled_ms=None,
        position=0,
        machine_id=of.machine_id,
        command_id=command_id,
        status="skipped" if command_id is None else "started",
        reason="overlap" if command_id is None else None,
        message="another is in the way" if command_id is None else None,
        created_ms=NOW,
    )
    return msgspec.structs.replace(plain, **fields)


def terminal(machine_id: str, **fields) -> Terminal:
    """One that was asked for."""
    plain = Terminal(
        id=new_id("term"),
        workspace_id=WORKSPACE,
        machine_id=machine_id,
        kind="terminal",
        name="main",
        status="starting",
        what=Shell(),
        cols=80,
        rows=24,
        caller_email="ci@default",
        is_recorded=False,
        created_ms=NOW,
        changed_ms=NOW,
    )
    return msgspec.structs.replace(plain, **fields)


def coding_session(machine_id: str, **fields) -> Terminal:
    """The same with an AI coding agent in it."""
    plain = {
        "id": new_id("session"),
        "kind": "coding_session",
        "name": "codex-1",
        "what": Coding(directory="~/work", flavour="codex", model="o3"),
    }
    return terminal(machine_id, **plain | fields)


def webhook(**fields) -> Webhook:
    """One that hears of everything."""
    plain = Webhook(
        id=new_id("hook"),
        workspace_id=WORKSPACE,
        url="https://hooks.example/path",
        events=["*"],
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        preset=None,
        headers={},
        description="",
        tags=[],
        is_enabled=True,
        created_ms=NOW,
        updated_ms=NOW,
    )
    return msgspec.structs.replace(plain, **fields)


def event(**fields) -> Event:
    """A machine came online."""
    plain = Event(
        workspace_id=WORKSPACE,
        seq=1,
        id=new_id("evt"),
        type="machine.online",
        subject="mach_1",
        machine_id="mach_1",
        data={"machine_id": "mach_1"},
        created_ms=NOW,
    )
    return msgspec.structs.replace(plain, **fields)


def trial(webhook: Webhook, **fields) -> Delivery:
    """What somebody sends to see whether it arrives."""
    made = new_id("dlv")
    plain = Delivery(
        id=made,
        webhook_id=webhook.id,
        seq=0,
        event_id=new_id("evt"),
        type="webhook.test",
        subject=made,
        data={"webhook_id": webhook.id},
        status="pending",
        next_attempt_ms=NOW,
        created_ms=NOW,
    )
    return msgspec.structs.replace(plain, **fields)


def attempt(**fields) -> dict[str, Any]:
    """What came of one that failed."""
    plain = {
        "at_ms": NOW,
        "duration_ms": 3,
        "response_status": 500,
        "error": "it answered 500",
        "excerpt": None,
    }
    return plain | fields


def once(**fields) -> Once:
    """A request with an Idempotency-Key."""
    plain = {
        "api_key_id": "key_1",
        "key": "k",
        "request_hash": b"h" * 32,
        "salt": b"s" * 32,
        "now_ms": NOW,
        "caller_key": "cmdop_apikey_x",
    }
    return Once(**{**plain, **fields})


def enrolment(**fields) -> Enrolment:
    plain = Enrolment(
        id=new_id("enr"),
        workspace_id=WORKSPACE,
        tags=["prod"],
        max_uses=1,
        uses=0,
        created_ms=NOW,
        expires_ms=NOW + 3_600_000,
    )
    return msgspec.structs.replace(plain, **fields)


def api_key(**fields) -> ApiKey:
    plain = ApiKey(
        id=new_id("key"),
        workspace_id=WORKSPACE,
        namespace="default",
        name="ci",
        key_prefix="cmdop_apikey_abcdef",
        scopes=["admin"],
        created_ms=NOW,
        expires_ms=None,
    )
    return msgspec.structs.replace(plain, **fields)


def sign_in(key: ApiKey, **fields) -> SignIn:
    """A browser that acts as this key, for a minute yet."""
    plain = SignIn(
        id=new_id("sign"),
        api_key_id=key.id,
        key_name=key.name,
        created_ms=NOW,
        last_seen_ms=NOW,
        ip="192.0.2.7",
        user_agent="Firefox",
        expires_ms=NOW + 3_600_000,
        ends_ms=NOW + 60_000,
    )
    return msgspec.structs.replace(plain, **fields)


def client(session_id: str, api_key_id: str, **fields) -> Client:
    plain = Client(
        session_id=session_id,
        id=new_id("cli"),
        api_key_id=api_key_id,
        caller_email="ci@default",
        mode="operator",
        attached_ms=NOW,
    )
    return msgspec.structs.replace(plain, **fields)


async def joined(store: Store, **fields) -> Machine:
    """A machine of the store that never connected."""
    made = machine(**fields)
    await store.run(machines.insert, made, new_id("enr"))
    return made


async def connected(store: Store, now_ms: int = NOW, **fields) -> tuple[Machine, str, int]:
    """A connected machine; its session and the epoch of its connection."""
    made = await joined(store, **fields)
    session_id, epoch = await store.run(
        sessions.connect, made, facts=made.facts, ip="192.0.2.7", now_ms=now_ms
    )
    assert await store.run(sessions.ready, session_id, epoch, now_ms)
    return made, session_id, epoch


async def recorded(store: Store, machine_id: str, session_id: str, **fields) -> Command:
    """A command of the store."""
    made = command(machine_id, session_id, **fields)
    await store.run(commands.insert, made)
    return made


async def running(store: Store, machine_id: str, session_id: str, **fields) -> Command:
    """A command of the store that runs."""
    made = await recorded(store, machine_id, session_id, **fields)
    assert await store.run(commands.started, made.id, machine_id, NOW + 1)
    return await store.run(commands.get, REACH, made.id)


def ended(of: Command, **fields) -> Command:
    """How `of` looks once it has ended well."""
    end = {
        "status": "completed",
        "started_ms": NOW + 1,
        "finished_ms": NOW + 5,
        "duration_ms": 4,
        "exit_code": 0,
        "stdout_bytes": 3,
        "stderr_bytes": 0,
        "stdout_sha256": b"o" * 32,
        "stderr_sha256": b"e" * 32,
    }
    return msgspec.structs.replace(of, **{**end, **fields})
