"""Telemetry and the background with real agents: no hole, no double, and what people see of it."""

import json
import os
import signal
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest
import trio

from tests.support.agents import QUICK, clean_state_dir
from tests.support.agents import running_agent as agent_here
from tests.support.appliance import PATIENCE_S, Hub, cmdop, wait_for
from tests.support.fault_proxy import FaultProxy, running_proxy

LONG_AGO = "2000-01-01T00:00:00Z"


def ask(hub: Hub, *args: object) -> subprocess.CompletedProcess[str]:
    return cmdop(*args, **hub.credentials)


def wait_status(hub: Hub, machine_id: str, status: str) -> str:
    def session() -> str:
        answer = hub.api.call("GET", f"/machines/{machine_id}/session")
        if answer.status != 200 or answer.data["status"] != status:
            return ""
        return str(answer.data["session_id"])

    return wait_for(session, f"it is {status}")


# ── what people see ──────────────────────────────────────────────────────────────────────────────


def test_a_machine_tells_how_it_is_and_how_it_was(hub, agent):
    machine_id = agent.machine_id
    status = wait_for(
        lambda: (s := hub.api.get(f"/machines/{machine_id}/status"))["cpu"] and s, "a sample"
    )
    assert set(status) == {
        "connected",
        "uptime",
        "last_ping",
        "cpu",
        "memory",
        "disk",
        "sampled_at",
    }
    assert status["connected"] is True
    assert status["uptime"] > 0
    assert 0 <= status["cpu"]["usage"] <= 100
    assert status["cpu"]["cores"] == os.cpu_count()
    for part in ("memory", "disk"):
        assert set(status[part]) == {"total", "used", "free"}
        assert 0 < status[part]["used"] <= status[part]["total"]

    metrics = hub.api.get(f"/machines/{machine_id}/metrics")
    assert metrics["machine_id"] == machine_id
    assert metrics["step"] == 60_000
    point = metrics["points"][-1]
    assert set(point) == {
        "at",
        "cpu_percent",
        "cpu_percent_max",
        "memory_percent",
        "memory_percent_max",
        "disk_percent",
        "disk_percent_max",
        "network_rx_bytes",
        "network_tx_bytes",
    }
    assert point["at"].endswith(":00.000Z")
    assert 0 < point["memory_percent"] <= point["memory_percent_max"] <= 100


def test_the_command_line_shows_a_machine_and_its_load(hub, agent):
    wait_for(lambda: hub.api.get(f"/machines/{agent.machine_id}/status")["cpu"], "a sample")
    shown = ask(hub, "machines", "show", agent.name)
    assert (shown.returncode, shown.stderr) == (0, "")
    fields = dict(line.split("\t", 1) for line in shown.stdout.splitlines())
    assert fields["id"] == agent.machine_id
    assert fields["connected"] == "true"
    assert f"% of {os.cpu_count()}" in fields["cpu"]
    assert fields["memory"].endswith(" GiB")
    record = json.loads(ask(hub, "machines", "show", agent.name, "-o", "json").stdout)
    assert record["now"]["cpu"]["cores"] == os.cpu_count()
    assert record["facts"]["hostname"] == os.uname().nodename

    lines = ask(hub, "machines", "metrics", agent.name, "-o", "jsonl").stdout.splitlines()
    assert json.loads(lines[-1])["memory_percent"] > 0
    table = ask(hub, "machines", "metrics", agent.name, "--since", "7d", "-o", "table").stdout
    header, line, *_ = table.splitlines()
    assert header.replace(" ", "") == "TIMECPU%MAX%MEMORY%DISK%RECEIVEDSENT"
    assert line.startswith("20")
    wrong = ask(hub, "machines", "metrics", agent.name, "--since", "7d", "--step", "1m")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "--step must be a multiple of 1m, or of 15m for what is older" in wrong.stderr
    named = ask(hub, "machines", "show", agent.name, "-o", "name")
    assert named.stdout in ask(hub, "machines", "ls", "-o", "name").stdout.splitlines(True)


@pytest.mark.parametrize(
    ("query", "step"),
    [
        ("", 60_000),
        ("?step=120000", 120_000),
        ("?from=2020-01-01T00:00:00Z&to=2020-01-01T00:00:01Z", 900_000),
        (f"?from={LONG_AGO}", 7_200_000),
        (f"?from={LONG_AGO}&to=9999-12-31T23:59:59Z", 7_200_000),
        (f"?from={LONG_AGO}&step=86400000", 86_400_000),
        ("?from=2998-01-01T00:00:00Z&to=2999-01-01T00:00:00%2B01:00", 60_000),
    ],
)
def test_the_step_fits_the_time_that_is_asked_for(hub, agent, query, step):
    metrics = hub.api.get(f"/machines/{agent.machine_id}/metrics{query}")
    assert metrics["step"] == step
    assert len(metrics["points"]) <= 1000


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("step=59999", "multiple of 60000"),
        ("step=1", "multiple of 60000"),
        ("step=9007199254740991", "multiple of 60000"),
        (f"from={LONG_AGO}&step=60000", "multiple of 900000"),
        (f"from={LONG_AGO}&step=900000", "more than 1000 points"),
        ("from=2999-01-01T00:00:00Z", "from: must be before to"),
        ("to=0001-01-01T00:00:00Z", "from: must be before to"),
        ("from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "from: must be before to"),
        ("from=yesterday", "from: must be a time"),
        ("to=2026-01-01T00:00:00", "to: must be a time"),
    ],
)
def test_a_time_or_step_that_makes_no_sense_is_refused_with_its_remedy(hub, agent, query, said):
    answer = hub.api.call("GET", f"/machines/{agent.machine_id}/metrics?{query}")
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    assert said in answer.error["message"]
    (name,) = answer.error["details"]
    assert f"parameter {name}: " in answer.error["message"]
    if "points" in said:
        assert "step=7200000" in answer.error["hint"]


# ── the background ───────────────────────────────────────────────────────────────────────────────


def test_an_agent_goes_to_the_background_and_back_and_says_so_after_each_reconnect(hub, agent):
    machine_id = agent.machine_id
    session_id = agent.wait_connected(hub)
    told = ask(hub, "agent", "background", "--state-dir", agent.state_dir)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == f"the agent, process {agent.pid}, is in the background\n"
    assert wait_status(hub, machine_id, "BACKGROUND") == session_id
    assert hub.api.get(f"/machines/{machine_id}/status")["connected"] is True
    assert hub.api.run(machine_id, "echo here")["stdout"] == "here\n"

    hub.stop()
    hub.start()
    wait_status(hub, machine_id, "BACKGROUND")
    told = ask(hub, "agent", "foreground", "--state-dir", agent.state_dir)
    assert told.stdout == f"the agent, process {agent.pid}, is in the foreground\n"
    wait_status(hub, machine_id, "CONNECTED")
    os.kill(agent.pid, signal.SIGUSR1)
    wait_status(hub, machine_id, "BACKGROUND")
    os.kill(agent.pid, signal.SIGUSR2)
    wait_status(hub, machine_id, "CONNECTED")
    assert agent.is_running


def test_without_an_agent_nobody_is_signalled(hub, tmp_path):
    """A state directory may name any process: this one would die of the signal."""
    for named in (None, "", "nonsense", "-1", "0", "9" * 30, str(os.getpid()), "1"):
        if named is not None:
            (tmp_path / "agent.lock").write_text(named)
        told = ask(hub, "agent", "background", "--state-dir", tmp_path)
        assert (told.returncode in (2, 5), told.stdout) == (True, ""), named
        assert "Traceback" not in told.stderr
        assert "state" in told.stderr


def test_an_agent_that_does_not_listen_yet_is_not_killed(hub, tmp_path):
    lock = tmp_path / "agent.lock"
    with (
        lock.open("w") as held,
        subprocess.Popen(["sleep", "60"], stdout=held) as process,
    ):
        try:
            lock.write_text(f"{process.pid}\n")
            told = ask(hub, "agent", "background", "--state-dir", tmp_path)
            assert told.returncode == 2
            assert "does not listen yet" in told.stderr
            assert process.poll() is None
        finally:
            process.kill()


# ── no hole, no double ───────────────────────────────────────────────────────────────────────────


def counted(hub: Hub, machine_id: str) -> tuple[int, int]:
    """(samples counted, number of the last): equal if each counted once."""
    path = hub.data_dir / "cmdop.db"
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        row = connection.execute(
            "SELECT (SELECT COALESCE(SUM(samples), 0) FROM metric WHERE machine_id = :id),"
            " COALESCE((SELECT number FROM metric_last WHERE machine_id = :id), 0)",
            {"id": machine_id},
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def test_samples_of_a_link_that_is_cut_all_the_time_count_once_each(hub, tmp_path):
    """Confirmations are lost as often as samples are."""
    with clean_state_dir(tmp_path / "fast") as state_dir, running_proxy(hub.address) as proxy:
        trio.run(_cut_all_the_time, hub, state_dir, proxy)


async def _cut_all_the_time(hub: Hub, state_dir: Path, proxy: FaultProxy) -> None:
    def number() -> int:
        path = state_dir / "hub.json"
        if not path.exists():
            return 0
        samples, last = counted(hub, json.loads(path.read_text())["machine_id"])
        assert samples == last
        return last

    async def wait_number(least: int) -> None:
        with trio.fail_after(PATIENCE_S):
            while await trio.to_thread.run_sync(number) < least:  # noqa: ASYNC110
                await trio.sleep(0.01)

    target = SimpleNamespace(url=proxy.url, token=hub.new_token())
    pace = replace(QUICK, first_sample_s=0.01, sample_s=0.01)
    async with agent_here(state_dir, target, pace=pace):  # type: ignore[arg-type]
        await wait_number(5)
        for cut in range(1, 20):
            await wait_number(await trio.to_thread.run_sync(number) + cut % 7)
            await trio.to_thread.run_sync(proxy.cut)
            if cut % 5 == 0:
                await trio.to_thread.run_sync(proxy.freeze)
                await trio.sleep(1.5)  # an outage that leaves more than one message
                await trio.to_thread.run_sync(proxy.cut)
                await trio.to_thread.run_sync(proxy.thaw)
        assert proxy.cuts >= 15
        await wait_number(await trio.to_thread.run_sync(number) + 20)
