"""One command for 50 machines, beside warm ssh to as many: real agents, all on this machine."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.bench_hub import CMDOP, Hub, processes_naming, read_answer

MACHINES = 50
ROUNDS = 7
_PATIENCE_S = 300.0  # for all of them to join


def ask(
    hub: Hub, method: str, path: str, body: dict[str, object] | None = None
) -> dict[str, object]:
    """The data of one answer."""
    with socket.create_connection(hub.address) as connection:
        connection.sendall(hub.request(method, path, body))
        data: dict[str, object] = json.loads(read_answer(connection))["data"]
        return data


@contextmanager
def machines(hub: Hub, folder: Path) -> Iterator[list[str]]:
    """The ids of `MACHINES` machines, each with an agent and a keeper of its own."""
    token = ask(hub, "POST", "/enrollment-tokens", {"max_uses": MACHINES, "ttl": 3_600_000})[
        "token"
    ]
    host, port = hub.address
    agents = []
    try:
        for number in range(MACHINES):
            flags = ["--state-dir", str(folder / f"agent-{number}"), "--name", f"fan-{number}"]
            argv = [*CMDOP, "agent", "--hub", f"http://{host}:{port}", "--token", "-", *flags]
            with Path(f"{folder}/agents.log").open("ab") as log:
                agents.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log))
            stdin = agents[-1].stdin
            assert stdin is not None
            stdin.write(f"{token}\n".encode())
            stdin.close()
        deadline = time.monotonic() + _PATIENCE_S
        while len(ids := _online(hub)) < MACHINES:
            if time.monotonic() > deadline:
                raise SystemExit(f"bench: {len(ids)} of {MACHINES} machines came")
            time.sleep(0.5)
        yield ids
    finally:
        for agent in agents:
            agent.terminate()
        for agent in agents:
            agent.wait(20)
        for pid in processes_naming(f"keeper {folder}/agent-"):
            os.kill(pid, signal.SIGKILL)


def _online(hub: Hub) -> list[str]:
    found = ask(hub, "GET", "/machines?status=online&limit=100")
    return [each["id"] for each in found if each["name"].startswith("fan-")]  # type: ignore[index]


def samples(hub: Hub, ids: list[str], ssh: list[str] | None) -> tuple[list[float], list[float]]:
    """Seconds until all have ended, by one request and by one warm ssh for each, in turn."""
    ours, theirs = [], []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        answer = ask(hub, "POST", "/commands/batch", {"machine_ids": ids, "command": "true"})
        ours.append(time.perf_counter() - begun)
        if (text := json.dumps(answer)).count('"completed"') < MACHINES:
            raise SystemExit(f"bench: not every machine has completed: {text[:400]}")
        if ssh is not None:
            begun = time.perf_counter()
            running = [
                subprocess.Popen([*ssh, "true"], stdin=subprocess.DEVNULL) for _ in range(MACHINES)
            ]
            codes = [each.wait() for each in running]
            if any(codes):
                raise SystemExit("bench: an ssh has failed")
            theirs.append(time.perf_counter() - begun)
    return ours, theirs
