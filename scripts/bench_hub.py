"""A hub with one agent for the benches, and plain HTTP to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

CMDOP = [sys.executable, "-m", "cmdop_appliance"]
START_S = 20.0  # hub and agent are up long before this, or never


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: {what} did not come up within {START_S:.0f} s")
        time.sleep(0.02)


@contextmanager
def appliance(folder: Path, **settings: str) -> Iterator["Hub"]:
    """A hub with one agent, started and stopped as a user would."""
    data_dir = folder / "data"
    try:
        with serving(data_dir, "--local-agent", **settings) as hub:
            wait_for(hub.machine, "the agent")
            yield hub
    finally:
        for pid in processes_naming(f"keeper {data_dir}"):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def serving(data_dir: Path, *flags: str, **settings: str) -> Iterator["Hub"]:
    """A hub over a data directory."""
    argv = [*CMDOP, "serve", "--data-dir", str(data_dir), "--listen", "127.0.0.1:0", *flags]
    with Path(f"{data_dir}.log").open("wb") as log:
        environment = {**os.environ, **settings}
        process = subprocess.Popen(
            argv, stdout=log, stderr=log, cwd=data_dir.parent, env=environment
        )
        try:
            wait_for((data_dir / "hub.json").exists, "the hub")
            yield Hub(process.pid, data_dir)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


class Hub:
    """What the bench needs to know of a running hub."""

    def __init__(self, pid: int, data_dir: Path) -> None:
        ready = json.loads((data_dir / "hub.json").read_text())
        self.pid = pid
        self.data_dir = data_dir
        self.address = (urlsplit(ready["url"]).hostname, urlsplit(ready["url"]).port)
        self.key = (data_dir / "admin.key").read_text().strip()

    def request(self, method: str, path: str, body: dict[str, object] | None = None) -> bytes:
        """The bytes of a request."""
        payload = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} /api/v1{path} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        return head.encode() + payload

    def completed(self) -> int:
        """How many commands have ended with exit code 0."""
        with socket.create_connection(self.address) as connection:
            connection.sendall(self.request("GET", "/commands?status=completed&limit=1"))
            total: int = json.loads(read_answer(connection))["meta"]["total"]
            return total

    def machine(self) -> str | None:
        """The id of the one machine, once it is online."""
        with socket.create_connection(self.address) as connection:
            connection.sendall(self.request("GET", "/machines?status=online"))
            answer = read_answer(connection)
        machines = json.loads(answer)["data"]
        return machines[0]["id"] if machines else None


def read_answer(connection: socket.socket) -> bytes:
    """The body of one answer with a Content-Length."""
    data = b""
    while True:
        chunk = connection.recv(65536)
        if not chunk:
            raise SystemExit("bench: the hub closed a connection")
        data += chunk
        head, blank, body = data.partition(b"\r\n\r\n")
        if blank and len(body) >= content_length(head):
            return body


def content_length(head: bytes) -> int:
    """The Content-Length in a response head."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    raise SystemExit(f"bench: an answer without a length: {head!r}")


def processes_naming(text: str) -> list[int]:
    """Pids whose command line contains `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            if text in line:
                found.append(int(entry.name))
    return found
