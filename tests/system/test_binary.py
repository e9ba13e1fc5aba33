"""The one file, as it is shipped: hub, agent, keeper and command line out of it."""

import hashlib
import json
import os
import re
import signal
import subprocess
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
def place(tmp_path_factory, binary):
    """The directory of a running hub."""
    with swept(tmp_path_factory.mktemp("binary")) as place, served([binary], place):
        yield place


def _exec(binary, place, *command):
    return subprocess.run(
        [binary, "exec", os.uname().nodename, "--", *command],
        capture_output=True,
        text=True,
        cwd=place,
        env={"PATH": os.environ["PATH"], "CMDOP_DATA_DIR": str(place / "data")},
        timeout=60,
        check=False,
    )


def test_a_command_runs_from_the_one_file(binary, place):
    done = _exec(binary, place, "uname", "-a")
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


def test_the_time_zones_are_in_the_one_file(binary, tmp_path):
    with swept(tmp_path), served([binary], tmp_path, PYTHONTZPATH=""):  # a system that has none
        shown = subprocess.run(
            [binary, "schedules", "preview", "30 2 29 3 *", "--tz", "Europe/Berlin"],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "CMDOP_DATA_DIR": str(tmp_path / "data")},
            timeout=60,
            check=False,
        )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "02:30" in shown.stdout


def test_the_exit_code_passes_through(binary, place):
    done = _exec(binary, place, "sh", "-c", "exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_nothing_of_the_packer_reaches_a_command(binary, place):
    done = _exec(binary, place, "env")
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    foreign = ("_MEI", "_PYI", "PYINSTALLER", "LD_", "PYTHON")
    assert "PATH" in names
    assert not [name for name in names if name.startswith(foreign)]
    assert "_MEI" not in done.stdout


def test_sigterm_ends_it_with_0_and_a_keeper_without_work_can_be_ended(binary, tmp_path):
    with swept(tmp_path), served([binary], tmp_path) as hub:
        hub.terminate()
        assert hub.wait(10) == 0
        (lock,) = (tmp_path / "data").rglob("keeper.lock")
        os.kill(int(lock.read_text()), signal.SIGTERM)
        wait_until(lambda: not processes(tmp_path), tmp_path)
