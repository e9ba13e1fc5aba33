"""docs/backup.md: a backup as it is made, tried out and taken up there; what a hub then knows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.appliance import BASE_ENVIRONMENT, Hub, ending, stopped_agent, wait_for

pytestmark = pytest.mark.slow

DOCUMENT = (Path(__file__).parents[2] / "docs/backup.md").read_text()
MAKING, TAKING_UP = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.fixture
def sh(tmp_path):
    """Runs lines of sh with `cmdop` on the PATH; what they print."""
    program = tmp_path / "bin/cmdop"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cmdop_appliance "$@"\n')
    program.chmod(0o755)

    def run(text: str, **environ: str) -> str:
        path = f"{program.parent}:{BASE_ENVIRONMENT['PATH']}"
        done = subprocess.run(
            ["sh", "-euc", text],
            cwd=tmp_path,
            env={**BASE_ENVIRONMENT, "PATH": path, "HOME": str(tmp_path), **environ},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


def test_a_hub_out_of_a_backup_has_what_was_there_and_its_machines_and_runs_nothing_again(
    tmp_path, sh
):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, marks = Hub(tmp_path / "old"), tmp_path / "marks"
    with (
        stopped_agent(tmp_path, "nas") as nas,
        stopped_agent(tmp_path, "away") as away,
        ending(old),
    ):
        old.start()
        away.join(old)
        away.stop()
        nas.join(old)
        told = old.api.run(nas.machine_id, "seq 4000")  # more than a row holds
        runs = old.api.start(nas.machine_id, f"echo runs >>{marks}; exec sleep 1000")
        waits = old.api.start(
            away.machine_id, f"echo waits >>{marks}", queue=True, queue_timeout=3_600_000
        )
        wait_for(marks.exists, "it runs")
        made = sh(MAKING, CMDOP_DATA_DIR=str(old.data_dir))
        assert made.count("2 machines, 3 commands") == 2
        assert (tmp_path / "hub.tar.gz").stat().st_mode & 0o077 == 0
        late = old.api.start(nas.machine_id, f"echo late >>{marks}; exec sleep 1000")
        away.rejoin(old)
        assert old.api.wait_end(waits)["status"] == "completed"
        old.api.run(away.machine_id, "true")  # for which its agent first forgets that
        wait_for(lambda: "late" in marks.read_text(), "it runs")
        old.kill()
        sh(TAKING_UP)
        (tmp_path / "restored").rename(tmp_path / "new/data")
        new = Hub(tmp_path / "new", old._listen)  # where its machines look for it
        with ending(new):
            new.start()
            for agent in (nas, away):
                agent.wait_connected(new)
            assert new.api.output(told["id"]) == b"".join(b"%d\n" % n for n in range(1, 4001))
            assert new.api.get(f"/commands/{runs}")["status"] == "running"
            there = f"/commands/{late}"
            wait_for(lambda: new.api.call("GET", there).status == 200, "it is told of")
            assert new.api.get(there)["unknown_to_hub"]
            ended = new.api.wait_end(waits)
            assert (ended["status"], ended["error"]["code"]) == ("lost", "forgotten")
            for command_id in (runs, late):
                new.api.delete(f"/commands/{command_id}")
                assert new.api.wait_end(command_id)["status"] == "cancelled"
            assert new.api.run(nas.machine_id, "echo there")["stdout"] == "there\n"
            assert new.api.get("/audit?action=hub.restored")
    assert sorted(marks.read_text().split()) == ["late", "runs", "waits"]
