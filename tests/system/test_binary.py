"""The one file, as it is shipped: hub, agent, keeper and command line out of it.

How it unpacks itself: tests/test_launcher.py. On other systems: scripts/torture --only roots.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.cli.served import processes, served, swept, wait_until
from tests.support.dashboard import STATIC, needs_dashboard

ROOT = Path(__file__).parents[2]
BINARY = ROOT / "dist" / "cmdop"
BUILD_S = 600
pytestmark = pytest.mark.slow  # a build takes half a minute


@pytest.fixture(scope="module")
def binary():
    sources = [
        *(ROOT / "cmdop_appliance").rglob("*.py"),
        *(ROOT / "cmdop_appliance").rglob("*.sql"),
        *(ROOT / "cmdop_appliance/web/static").rglob("*"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "packaging").glob("*"),
        ROOT / "scripts" / "build",
    ]
    newest = max(path.stat().st_mtime for path in sources)
    if not BINARY.exists() or BINARY.stat().st_mtime < newest:
        subprocess.run([ROOT / "scripts" / "build"], check=True, timeout=BUILD_S)
    return BINARY


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """Where the one file unpacks itself, in the environment of whoever starts it."""
    return {"CMDOP_UNPACK_DIR": str(tmp_path_factory.mktemp("unpacked"))}


@pytest.fixture(scope="module")
def place(tmp_path_factory, binary, unpacked):
    """The directory of a running hub."""
    with swept(tmp_path_factory.mktemp("binary")) as place, served([binary], place, **unpacked):
        yield place


@pytest.fixture
def cmdop(binary, unpacked, place):
    """Runs the one file against that hub."""

    def run(*args, place=place):
        return subprocess.run(
            [binary, *args],
            capture_output=True,
            text=True,
            cwd=place,
            env={"PATH": os.environ["PATH"], "CMDOP_DATA_DIR": str(place / "data"), **unpacked},
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def execute(cmdop):
    """Runs a command on the hub's own machine."""
    return partial(cmdop, "exec", os.uname().nodename, "--")


def test_a_command_runs_from_the_one_file(execute):
    done = execute("uname", "-a")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == subprocess.check_output(["uname", "-a"], text=True)


def _get(place, path):
    url = json.loads((place / "data" / "hub.json").read_text())["url"]
    with urlopen(url + path, timeout=60) as answer:
        return answer.read()


def test_the_documentation_is_in_the_one_file(place):
    for path in ("/openapi.json", "/docs", "/docs/swagger-ui-bundle.js", "/help", "/help/files"):
        assert _get(place, path)


@needs_dashboard
def test_the_dashboard_is_in_the_one_file(place):
    page = _get(place, "/").decode()
    (script,) = re.findall('src="(/assets/[^"]+)"', page)
    assert _get(place, script) == (STATIC / script.removeprefix("/")).read_bytes()


def test_machines_fetch_the_one_file_from_the_hub_that_it_is(binary, place):
    (listed,) = json.loads(_get(place, "/dl"))["files"]
    content = _get(place, f"/dl/{listed['name']}")
    assert content == binary.read_bytes()
    assert hashlib.sha256(content).hexdigest() == listed["sha256"]


def test_the_time_zones_are_in_the_one_file(binary, cmdop, unpacked, tmp_path):
    none = {"PYTHONTZPATH": "", **unpacked}  # a system that has no zones
    with swept(tmp_path), served([binary], tmp_path, **none):
        preview = ("schedules", "preview", "30 2 29 3 *", "--tz", "Europe/Berlin")
        shown = cmdop(*preview, place=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "02:30" in shown.stdout


def test_the_exit_code_passes_through(execute):
    done = execute("sh", "-c", "exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_nothing_of_the_packer_reaches_a_command(execute):
    done = execute("env")
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    foreign = ("_MEI", "_PYI", "PYINSTALLER", "LD_", "PYTHON")
    assert "PATH" in names
    assert not [name for name in names if name.startswith(foreign)]
    assert "_internal" not in done.stdout


def test_hub_agent_and_keeper_run_from_one_folder_and_hold_it(place, unpacked):
    (folder,) = Path(unpacked["CMDOP_UNPACK_DIR"]).glob("[0-9a-f]*")
    running = processes(place)
    assert len(running) == 3
    for pid in running:
        assert Path(f"/proc/{pid}/exe").readlink() == folder / "cmdop"
        held = [fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
        assert folder in held


def test_the_one_file_lists_its_parts(cmdop):
    parts = json.loads(cmdop("version", "--sbom").stdout)["components"]
    assert {"cpython", "openssl", "trio", "preact"} <= {part["name"] for part in parts}
    packages = (ROOT / "packaging/requirements.lock").read_text()
    for part in parts:
        if part.get("purl", "").startswith("pkg:pypi/"):
            assert f"{part['name']}=={part['version']}" in packages


def test_sigterm_ends_it_with_0_and_a_keeper_without_work_can_be_ended(binary, unpacked, tmp_path):
    with swept(tmp_path), served([binary], tmp_path, **unpacked) as hub:
        hub.terminate()
        assert hub.wait(10) == 0
        (lock,) = (tmp_path / "data").rglob("keeper.lock")
        os.kill(int(lock.read_text()), signal.SIGTERM)
        wait_until(lambda: not processes(tmp_path), tmp_path)
