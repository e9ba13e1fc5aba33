"""The lists of a hub with 10,000 machines and 1,000,000 commands beside those of an empty one."""

import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import trio

from cmdop_appliance.protocol.messages import Spec
from cmdop_appliance.store.engine import open_store
from cmdop_appliance.store.transaction import Tx, to_json
from tests.support.records import FACTS

MACHINES = 10_000
COMMANDS = 1_000_000
DAY_MS = 86_400_000
DAYS = 30  # over which the commands are spread
TARGET = 3.0  # p99 beside that of the same call on an empty store (issue 4)

# Of ten machines four are tagged prod, one web and one both; of four, three are online, in their
# second session. In the empty store there is one machine, with no history to ask for.
FILL = """
INSERT INTO machine (
    id, workspace_id, name, public_key, enrolment_id, tags_json, hostname, facts_json, ip, epoch,
    created_ms, last_seen_ms, is_online, search_text
)
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :machines)
SELECT
    printf('mach_%026d', i), 'ws_default', 'web-' || i, CAST(printf('%032d', i) AS BLOB), 'enr_0',
    CASE i % 10
        WHEN 0 THEN '["prod","web"]' WHEN 1 THEN '["web"]' WHEN 2 THEN '["prod"]'
        WHEN 4 THEN '["prod"]' WHEN 6 THEN '["prod"]' WHEN 8 THEN '["prod"]' ELSE '["lab"]'
    END,
    'host-' || (i * 7919 % :machines), :facts, '192.0.2.7', 1, :now_ms - 40 * :day_ms + i,
    :now_ms - i * 31 % 60000, i % 4 <> 0, 'web-' || i || ' host-' || (i * 7919 % :machines)
FROM n;

INSERT INTO machine_tag (machine_id, tag)
SELECT machine.id, tag.value FROM machine, json_each(machine.tags_json) AS tag;

INSERT INTO session (
    id, workspace_id, machine_id, machine_hostname, status, epoch, created_ms, connected_ms,
    last_heartbeat_ms, ended_ms
)
SELECT
    replace(id, 'mach_0', 'sess_1'), workspace_id, id, hostname, 'DISCONNECTED', 1, created_ms,
    created_ms, created_ms, created_ms + 5
FROM machine;

INSERT INTO session (
    id, workspace_id, machine_id, machine_hostname, status, epoch, created_ms, connected_ms,
    last_heartbeat_ms
)
SELECT
    replace(id, 'mach_', 'sess_'), workspace_id, id, hostname, 'CONNECTED', 1, created_ms + 5,
    created_ms + 5, last_seen_ms
FROM machine WHERE is_online = 1;

INSERT INTO batch (id, workspace_id, concurrency, canary, refused_json, created_ms)
VALUES (:batch, 'ws_default', 1000, 0, '{}', :now_ms);

INSERT INTO command (
    id, workspace_id, machine_id, session_id, batch_id, command, spec_json, spec_hash, status,
    operator, created_ms, start_until_ms, is_bounded, is_queued, is_held, is_late,
    is_unknown_to_hub, started_ms, finished_ms, duration_ms, exit_code, stdout_bytes,
    stderr_bytes, stdout_sha256, stderr_sha256
)
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :commands),
made AS (
    SELECT
        i, 1 + i * 7919 % :machines AS machine, i * 48271 % 60013 AS duration_ms,
        :now_ms - (:commands - i) * :days * :day_ms / :commands AS created_ms,
        CASE
            WHEN i % 500 = 499 THEN 'running' WHEN i % 1000 = 7 THEN 'lost'
            WHEN i % 20 = 3 THEN 'failed' ELSE 'completed'
        END AS status
    FROM n WHERE :commands > 0
)
SELECT
    printf('cmd_%026d', i), 'ws_default', printf('mach_%026d', machine),
    printf(CASE WHEN machine % 4 THEN 'sess_%026d' ELSE 'sess_1%025d' END, machine),
    CASE WHEN i > :commands - 1000 THEN :batch END, 'systemctl is-active nginx', :spec, :hash,
    status, 'bench@default', created_ms, created_ms, 0, 0, 0, 0, 0, created_ms,
    CASE WHEN status <> 'running' THEN created_ms + duration_ms END,
    CASE WHEN status NOT IN ('running', 'lost') THEN duration_ms END,
    CASE status WHEN 'completed' THEN 0 WHEN 'failed' THEN 1 END, 7, 0, :hash, :hash
FROM made;
"""
BATCH = f"batch_{1:026d}"
MACHINE = f"mach_{1:026d}"
SESSION = f"sess_{1:026d}"


class Hub(Protocol):
    """A running hub."""

    address: tuple[str, int]

    def request(self, method: str, path: str) -> bytes:
        """The bytes of a request."""
        ...


@dataclass(frozen=True)
class Row:
    """One call: milliseconds on the empty store and on the full one."""

    name: str
    total: int
    empty: tuple[float, float]  # p50, p99
    full: tuple[float, float]

    @property
    def ratio(self) -> float:
        """How many times as long the slowest of a hundred take."""
        return self.full[1] / self.empty[1]


def fill(data_dir: Path, machines: int, commands: int) -> None:
    """A store with so much in it, in one transaction."""
    values = {
        "machines": machines,
        "commands": commands,
        "days": DAYS,
        "day_ms": DAY_MS,
        "now_ms": int(time.time() * 1000),
        "facts": to_json(FACTS),
        "spec": to_json(Spec(argv=["/bin/sh", "-c", "systemctl is-active nginx"])),
        "hash": b"h" * 32,
        "batch": BATCH,
    }

    def write(tx: Tx) -> None:
        for sql in FILL.strip().split(";\n\n"):
            tx.execute(sql, **values)

    async def run() -> None:
        async with open_store(data_dir) as store:
            await store.run(write)

    data_dir.mkdir(mode=0o700)
    trio.run(run)


def calls() -> dict[str, str]:
    """What is asked → the path of the request."""

    def ago(days: float) -> str:
        then = time.gmtime(time.time() - days * 86_400)
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", then)

    return {
        "machines": "/machines",
        "machines, status": "/machines?status=offline",
        "machines, one tag": "/machines?tags=prod",
        "machines, two tags": "/machines?tags=prod,web",
        "machines, search": "/machines?search=B-123",
        "machines, sort=name": "/machines?sort=name",
        "machines, sort=-last_seen": "/machines?sort=-last_seen",
        "machines, status, sort=hostname": "/machines?status=online&sort=hostname",
        "sessions": "/sessions",
        "sessions, status": "/sessions?status=GRACE_PERIOD",
        "sessions, machine": f"/sessions?machine_id={MACHINE}",
        "sessions, hostname": "/sessions?machine_hostname=host-0",
        "sessions, sort=-connected_at": "/sessions?sort=-connected_at",
        "commands": "/commands",
        "commands, limit=100": "/commands?limit=100",
        "commands, machine": f"/commands?machine_id={MACHINE}",
        "commands, status": "/commands?status=failed",
        "commands, running": "/commands?status=running",
        "commands, machine, status": f"/commands?machine_id={MACHINE}&status=completed",
        "commands, since an hour": f"/commands?since={ago(1 / 24)}",
        "commands, since 20 days": f"/commands?since={ago(20)}",
        "commands, status, since 20 days": f"/commands?status=lost&since={ago(20)}",
        "commands, session": f"/commands?session_id={SESSION}",
        "commands, batch": f"/commands?batch_id={BATCH}",
        "commands, sort=-duration": "/commands?sort=-duration",
        "commands, machine, sort=-duration": f"/commands?machine_id={MACHINE}&sort=-duration",
        "commands, status, sort=-duration": "/commands?status=failed&sort=-duration",
        "commands, sort=finished_at": "/commands?sort=finished_at",
        "commands, offset=900000": "/commands?offset=900000",
        "history of a machine": f"/machines/{MACHINE}/commands",
        "history of a session": f"/sessions/{SESSION}/history",
        "api keys": "/api-keys",
    }


def measure(
    empty: Hub, full: Hub, count: int, read_answer: Callable[[socket.socket], bytes]
) -> Iterator[Row]:
    """Each call `count` times on either hub, in turn, over one warm connection each."""
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(hub.address)) for hub in (empty, full)
        ]
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, path in calls().items():
            requests = [hub.request("GET", path) for hub in (empty, full)]
            samples: tuple[list[float], list[float]] = ([], [])
            answer: dict[str, Any] = {}
            for _ in range(count):
                for connection, request, taken in zip(connections, requests, samples, strict=True):
                    begun = time.perf_counter()
                    connection.sendall(request)
                    body = read_answer(connection)
                    taken.append((time.perf_counter() - begun) * 1000)
                    answer = json.loads(body)
                    if "data" not in answer:
                        raise SystemExit(f"bench: {path} was refused: {body[:300]!r}")
            yield Row(name, answer["meta"]["total"], *map(_spread, samples))


def _spread(samples: list[float]) -> tuple[float, float]:
    parts = statistics.quantiles(samples, n=100)
    return parts[49], parts[98]
