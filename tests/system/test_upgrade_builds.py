"""Two real builds: from the one to the other, also when somebody is killed meanwhile."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cmdop_appliance.service.folders import Home
from tests.support.appliance import Hub, ending, stopped_agent, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.long]

ROOT = Path(__file__).parents[2]
BUILD_S = 1800
PATIENCE_S = 180
NEW = "99.0.0"


@pytest.fixture(scope="module")
def builds(tmp_path_factory) -> tuple[Path, Path]:
    """The program of this checkout, and the same as a later version.

    CMDOP_TEST_BUILDS may name a folder that has them: `old` and `new`.
    """
    place = Path(os.environ.get("CMDOP_TEST_BUILDS") or tmp_path_factory.mktemp("builds"))
    for name, version in (("old", ()), ("new", ("--version", NEW))):
        if not (place / name).exists():
            shutil.move(build(place / f"{name}-checkout", *version), place / name)
    return place / "old", place / "new"


def build(checkout: Path, *args: str) -> Path:
    """What scripts/build makes of a copy of this checkout."""
    names = ("scripts", "packaging", "cmdop_appliance", "docs", "CHANGELOG.md")
    checkout.mkdir()
    subprocess.run(["cp", "-r", *names, checkout], cwd=ROOT, check=True)
    (checkout / "scripts/build-web").write_text("#!/bin/sh\n")  # it is in the copy, if it was built
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.base_prefix}/bin/python3 "$@"\n')
    python.chmod(0o755)
    shutil.copy(ROOT / "packaging/requirements.lock", checkout / ".venv")
    subprocess.run([checkout / "scripts/build", *args], check=True, timeout=BUILD_S)
    return checkout / "dist/cmdop"


@pytest.fixture(scope="module")
def bundle(builds, tmp_path_factory) -> tuple[Path, str]:
    """A bundle of the later version, made as its maker does, and the key to trust."""
    place = tmp_path_factory.mktemp("release")
    script = [sys.executable, "-I", ROOT / "scripts/release.py"]
    made = subprocess.run(
        [*script, "key", place / "release.key"], capture_output=True, text=True, check=True
    )
    shutil.copy(builds[1], place / "cmdop")
    sign = ["bundle", "--key", place / "release.key", place / "new.bundle", place / "cmdop"]
    subprocess.run([*script, *sign], check=True)
    return place / "new.bundle", made.stdout.strip()


class Built(Hub):
    """A hub that is installed from a real build."""

    def __init__(self, place: Path, program: Path, key: str) -> None:
        super().__init__(place)
        self.home = Home(place / "cmdop")
        self.home.switch(self.home.add(program))
        self.program = [str(self.home.path / "current/cmdop")]
        self.variables = {"CMDOP_UPGRADE_KEYS": key}

    def upgrade(self, bundle: Path) -> "subprocess.Popen[str]":
        """`cmdop upgrade`, under way."""
        return subprocess.Popen(
            [*self.program, "--data-dir", self.data_dir, "upgrade", bundle, "--hub-only"],
            env={"PATH": os.environ["PATH"], "HOME": str(self._place)},
            stderr=subprocess.PIPE,
            text=True,
        )


def version_of(program: Path) -> str:
    said = subprocess.run([program, "version"], capture_output=True, text=True, check=True)
    return said.stdout.strip().removeprefix("cmdop ")


def test_a_real_build_becomes_another_one_and_what_runs_is_not_disturbed(builds, bundle, tmp_path):
    file, key = bundle
    hub = Built(tmp_path, builds[0], key)
    with ending(hub):
        hub.start()
        old, new = hub.ready["version"], version_of(builds[1])
        with stopped_agent(tmp_path, "one") as agent:
            agent.program = [str(hub.home.versions()[0].program)]  # it stays what it is
            agent.join(hub)
            gate = tmp_path / "gate"
            command = f"seq 1000; until [ -e {gate} ]; do sleep 0.05; done; seq 1001 2000; exit 5"
            command_id = hub.api.start(agent.machine_id, command)
            hub.api.wait_output(command_id, "1000\n")

            # kill -9 while the new one is on trial
            with hub.upgrade(file) as upgrade:
                wait_for((hub.data_dir / "upgrade.json").exists, "it is tried", PATIENCE_S)
                hub.kill()
                hub.start()
                upgrade.wait(PATIENCE_S)
                assert upgrade.returncode == 1
                assert "the hub was stopped while it tried the new release" in upgrade.stderr.read()
            assert (hub.ready["version"], hub.home.current().number) == (old, old)
            agent.wait_connected(hub)

            pid = hub.pid
            with hub.upgrade(file) as upgrade:
                upgrade.wait(PATIENCE_S)
                assert (upgrade.returncode, upgrade.stderr.read().splitlines()[1:]) == (
                    0,
                    [f"the hub runs {new}"],
                )
            wait_for(hub._is_ready, "it says so")
            assert (hub.ready["version"], hub.ready["pid"]) == (new, pid)
            assert hub.home.current().number == new
            agent.wait_connected(hub)
            gate.touch()
            record = hub.api.wait_end(command_id)
            assert (record["status"], record["exit_code"]) == ("failed", 5)
            assert record["stdout"] == "".join(f"{n}\n" for n in range(1, 2001))
