"""Measure POST /commands beside posix_spawn and warm OpenSSH, output beside `ssh host cat`, files
beside scp, lists of a full store beside those of an empty one, schedules beside croniter, a minute
of 1,000 of them beside one, calls beside webhooks, a key's echo beside ssh, and the first page of
the dashboard beside one that does nothing.

All in one run on one machine: absolute figures of a shared machine mean little, so every line
carries its ratio to what was measured in the same run. Prints a table, asserts nothing.
"""

import argparse
import json
import os
import re
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scripts import (
    bench_dashboard,
    bench_fanout,
    bench_files,
    bench_firing,
    bench_fleet,
    bench_lists,
    bench_schedules,
    bench_start,
    bench_terminals,
)
from scripts.bench_hub import (
    Hub,
    appliance,
    content_length,
    processes_naming,
    read_answer,
    serving,
)
from scripts.bench_targets import Targets
from tests.support.ssh import warm_ssh

OUTPUT_BYTES = 200_000_000  # of one command: long enough that its start does not count
OUTPUT_ROUNDS = 3


def percentile(samples: list[float], share: float) -> float:
    """The sample below which `share` of them lie, in ms."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


def spawn_samples(count: int) -> list[float]:
    """Seconds per `sh -c true` by posix_spawn and waitpid: the floor of any remote execution."""
    samples = []
    for _ in range(count):
        begun = time.perf_counter()
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", "true"], os.environ)
        os.waitpid(pid, 0)
        samples.append(time.perf_counter() - begun)
    return samples


@dataclass(frozen=True)
class Load:
    """What callers saw: milliseconds, and commands per second."""

    p50: float
    p99: float
    rate: float


def load(hub: Hub, callers: int, count: int) -> Load:
    """POST /commands `true` about `count` times, by wrk where it is installed."""
    if shutil.which("wrk") is None:
        return load_by_ourselves(hub, callers, count)
    before = hub.completed()
    body = json.dumps({"machine_id": hub.machine(), "command": "true"})
    headers = {"Authorization": f"Bearer {hub.key}", "Content-Type": "application/json"}
    script = hub.data_dir / "wrk.lua"
    script.write_text(
        "wrk.method = 'POST'\n"
        + "".join(f"wrk.headers['{name}'] = '{value}'\n" for name, value in headers.items())
        + f"wrk.body = '{body}'\n"
    )
    host, port = hub.address
    flags = ["-t1", f"-c{callers}", f"-d{max(2, count // 300)}s", "--latency", "-s", str(script)]
    url = f"http://{host}:{port}/api/v1/commands"
    said = subprocess.run(["wrk", *flags, url], capture_output=True, text=True, check=True).stdout
    answers = int(found(r"(\d+) requests in", said))
    if "Non-2xx" in said or hub.completed() - before < answers:
        raise SystemExit(f"bench: not every command was completed:\n{said}")
    rate = float(found(r"Requests/sec:\s+([\d.]+)", said))
    return Load(milliseconds(said, "50%"), milliseconds(said, "99%"), rate)


def found(pattern: str, text: str) -> str:
    """The group of `pattern` in what wrk printed."""
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"bench: cannot read wrk's figures:\n{text}")
    return match[1]


def milliseconds(said: str, share: str) -> float:
    """A latency from wrk's table, which changes its unit with the size."""
    text = found(rf"{share}\s+([\d.]+(?:us|ms|s))", said)
    number = float(text.rstrip("ums"))
    return (
        number / 1000 if text.endswith("us") else number if text.endswith("ms") else number * 1000
    )


def load_by_ourselves(hub: Hub, callers: int, count: int) -> "Load":
    """`callers` keep-alive connections from one loop: it costs the machine more than wrk does."""
    request = hub.request("POST", "/commands", {"machine_id": hub.machine(), "command": "true"})
    selector = selectors.DefaultSelector()
    samples: list[float] = []
    sent_at: dict[int, float] = {}
    buffers: dict[int, bytes] = {}
    left = count

    def send(connection: socket.socket) -> None:
        nonlocal left
        left -= 1
        buffers[connection.fileno()] = b""
        sent_at[connection.fileno()] = time.perf_counter()
        connection.sendall(request)

    with ExitStack() as stack:
        begun = time.perf_counter()
        for _ in range(callers):
            connection = stack.enter_context(socket.create_connection(hub.address))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ)
            send(connection)
        while len(samples) < count:
            for key, _ in selector.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                number = key.fd
                buffers[number] += connection.recv(65536)
                head, blank, body = buffers[number].partition(b"\r\n\r\n")
                if not blank or len(body) < content_length(head):
                    continue
                samples.append(time.perf_counter() - sent_at[number])
                if b'"status":"completed"' not in body:
                    raise SystemExit(f"bench: not completed: {body[:300]!r}")
                if left > 0:
                    send(connection)
        rate = count / (time.perf_counter() - begun)
        return Load(percentile(samples, 0.5), percentile(samples, 0.99), rate)


def ssh_samples(ssh: list[str], count: int) -> list[float]:
    """Seconds per `ssh host true` over the warm connection."""
    samples = []
    for _ in range(count):
        begun = time.perf_counter()
        subprocess.run([*ssh, "true"], check=True, stdin=subprocess.DEVNULL)
        samples.append(time.perf_counter() - begun)
    return samples


def output_rates(hub: Hub, ssh: list[str] | None, folder: Path) -> tuple[float, float]:
    """MB/s of one command's output, stored by the hub, and of `ssh host cat` of the same file.

    Medians, taken in turn; 0: no ssh.
    """
    path = folder / "output"
    with path.open("wb") as file:
        for million in range(OUTPUT_BYTES // 1_000_000):
            file.write((b"%07d\n" % million) * (1_000_000 // 8))
    body = {"machine_id": hub.machine(), "command": f"cat {path}", "timeout": 600_000}
    ours, theirs = [0.0], [0.0]
    for _ in range(OUTPUT_ROUNDS):
        begun = time.perf_counter()
        with socket.create_connection(hub.address) as connection:
            connection.sendall(hub.request("POST", "/commands", body))
            record = json.loads(read_answer(connection))["data"]
        ours.append(OUTPUT_BYTES / 1e6 / (time.perf_counter() - begun))
        if (record["status"], record["stdout_bytes"]) != ("completed", OUTPUT_BYTES):
            raise SystemExit(f"bench: the output is not whole: {record['stdout_bytes']} bytes")
        if ssh is not None:
            begun = time.perf_counter()
            subprocess.run([*ssh, f"cat {path}"], check=True, stdout=subprocess.DEVNULL)
            theirs.append(OUTPUT_BYTES / 1e6 / (time.perf_counter() - begun))
    return statistics.median(ours[1:]), statistics.median(theirs[1:] or theirs)


def memory_mb(pids: list[int]) -> float:
    """Proportional set size of processes together, MB."""
    total = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += next(int(ln.split()[1]) for ln in rollup.splitlines() if ln.startswith("Pss:"))
    return total / 1024


def report(label: str, figure: str, ratio: str = "", target: str = "") -> None:
    """One row."""
    print(f"{label:<42} {figure:>22} {ratio:>24}  {target}", flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="calls by one caller")
    parts = (
        "commands",
        "dashboard",
        "fanout",
        "files",
        "fleet",
        "lists",
        "schedules",
        "start",
        "terminals",
    )
    parser.add_argument("--only", choices=parts, help="one part of it")
    parser.add_argument("--agents", type=int, default=bench_fleet.AGENTS, help="of the fleet")
    parser.add_argument("--size-mb", type=int, default=bench_files.SIZE_MB, help="of a large file")
    asked = parser.parse_args()
    tool = "wrk" if shutil.which("wrk") else "this script"
    python = f"{sys.version.split()[0]} at {os.path.realpath(sys.executable)}"
    print(f"load by {tool}, Python {python}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    targets = Targets()
    if asked.only in (None, "commands"):
        bench_commands(asked.count, targets)
    if asked.only in (None, "fanout"):
        bench_fanout_to_all(targets)
    if asked.only in (None, "files"):
        bench_files.run(asked.size_mb, report)
    if asked.only in (None, "fleet"):
        bench_fleet.run(report, percentile, asked.agents)
    if asked.only in (None, "lists"):
        list_stores(asked.count)
    if asked.only in (None, "schedules"):
        bench_schedules.run(report)
        bench_firing.run(asked.count, load, report)
    if asked.only in (None, "start"):
        bench_start.run(report, targets)
    if asked.only in (None, "terminals"):
        bench_terminals.run(report, percentile, memory_mb)
    if asked.only in (None, "dashboard"):
        bench_dashboard.run(report, percentile)
    targets.show()


def list_stores(count: int) -> None:
    """The lists of a full store beside those of an empty one."""
    print(
        f"{'list':<36} {'total':>9} {'empty p50':>10} {'p99':>7} {'full p50':>10} {'p99':>7}"
        "   p99 beside empty"
    )
    with tempfile.TemporaryDirectory(prefix="cmdop-bench-") as name:
        empty, full = Path(name) / "empty", Path(name) / "full"
        bench_lists.fill(empty, machines=1, commands=0)
        bench_lists.fill(full, machines=bench_lists.MACHINES, commands=bench_lists.COMMANDS)
        # No agent comes: its machines must not go offline while they are listed.
        calm = {"CMDOP_SESSIONS_GRACE_MS": "3600000"}
        with serving(empty, **calm) as small, serving(full, **calm) as large:
            rows = []
            for row in bench_lists.measure(small, large, count, read_answer):
                rows.append(row)
                print(
                    f"{row.name:<36} {row.total:>9}"
                    f" {row.empty[0]:>7.2f} ms {row.empty[1]:>7.2f} {row.full[0]:>7.2f} ms"
                    f" {row.full[1]:>7.2f}   {row.ratio:>5.2f} ×",
                    flush=True,
                )
    slow = [row.name for row in rows if row.ratio > bench_lists.TARGET]
    verdict = f"beyond it: {'; '.join(slow)}" if slow else "all within it"
    print(f"target: p99 ≤ {bench_lists.TARGET:.0f} × that of an empty store: {verdict}")


def bench_fanout_to_all(targets: Targets) -> None:
    """One command for many machines."""
    with tempfile.TemporaryDirectory(prefix="cmdop-bench-") as name:
        folder = Path(name)
        with (
            serving(folder / "data") as hub,
            warm_ssh(folder) as ssh,
            bench_fanout.machines(hub, folder) as ids,
        ):
            ours, theirs = bench_fanout.samples(hub, ids, ssh)
    took, target = statistics.median(ours), ""
    label, figure = f"one command on {len(ids)} machines", f"{took * 1000:.0f} ms"
    if theirs:
        ratio = took / statistics.median(theirs)
        target = targets.note(label, figure, ratio, "× warm ssh", "≤", 1)
        report(label, figure, f"{ratio:.2f} × warm ssh to as many", target)
    else:
        report(label, figure, "no sshd here")


def bench_commands(count: int, targets: Targets) -> None:
    """POST /commands and output beside what they are made of."""
    report("what", "figure", "beside", "target")
    settings = {"CMDOP_OUTPUT_MAX_BYTES": str(2 * OUTPUT_BYTES)}
    with tempfile.TemporaryDirectory(prefix="cmdop-bench-") as name:
        folder = Path(name)
        with appliance(folder, **settings) as hub, warm_ssh(folder) as ssh:
            agents = processes_naming(f"--state-dir {hub.data_dir}/local-agent")
            keepers = processes_naming(f"keeper {hub.data_dir}/local-agent")
            idle = memory_mb([hub.pid]), memory_mb(agents + keepers)
            load(hub, 1, 50)  # warm up
            # Floors are taken on both sides of what they are held against: the machine drifts.
            floor = spawn_samples(count // 2)
            one = load(hub, 1, count)
            floor = percentile(floor + spawn_samples(count // 2), 0.5)
            report("posix_spawn sh -c true, p50", f"{floor:.2f} ms")
            ratio = f"{one.p50 / floor:.1f} × posix_spawn"
            what, figure = "POST /commands true, 1 caller, p50", f"{one.p50:.2f} ms"
            target = targets.note(what, figure, one.p50 / floor, "× posix_spawn", "≤", 4)
            report(what, figure, ratio, target)
            report("POST /commands true, 1 caller, p99", f"{one.p99:.2f} ms")
            if ssh is None:
                report("ssh, ControlMaster", "no sshd here")
            else:
                warm = percentile(ssh_samples(ssh, count // 4), 0.5)
                report("ssh host true, ControlMaster, p50", f"{warm:.2f} ms")
                target = targets.note(what, figure, one.p50 / warm, "× warm ssh", "≤", 0.4)
                report("POST /commands beside warm ssh", "", f"{one.p50 / warm:.2f} ×", target)
            for callers in (16, 64):
                many = load(hub, callers, count * 5)
                side = f"{many.rate * floor / 1000:.2f} × 1/posix_spawn"
                label, figure = f"POST /commands true, {callers} callers", f"{many.rate:.0f}/s"
                target = ""
                if callers == 64:
                    target = targets.note(label, figure, many.rate, "commands/s", "≥", 900)
                report(label, figure, side, target)
                report("  p50 / p99", f"{many.p50:.0f} / {many.p99:.0f} ms")
            ours, theirs = output_rates(hub, ssh, folder)
            ratio = f"{ours / theirs:.2f} × ssh host cat" if theirs else "no sshd here"
            what, figure, target = "output of one command", f"{ours:.0f} MB/s", ""
            if theirs:
                target = targets.note(what, figure, ours / theirs, "× ssh host cat", "≥", 0.7)
            report(what, figure, ratio, target)
            if theirs:
                report("ssh host cat, ControlMaster", f"{theirs:.0f} MB/s")
            busy = memory_mb([hub.pid]), memory_mb(agents + keepers)
            report(
                "hub, idle / after load (PSS)", f"{idle[0]:.0f} / {busy[0]:.0f} MB", "", "≤ 80 MB"
            )
            report(
                "agent + keeper, idle / after (PSS)",
                f"{idle[1]:.0f} / {busy[1]:.0f} MB",
                "",
                "≤ 50 MB",
            )


if __name__ == "__main__":
    main()
