"""The sources of the dashboard: their own tests, and what is built of them."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.dashboard import NODE, ROOT, UI, needs_dashboard

pytestmark = [pytest.mark.slow, needs_dashboard]
NOT_FOR_BUILDS = ("typescript", "@typescript", "axe-core", "build")


def build(place: Path) -> dict[str, str]:
    """The sha256 of each file of a dashboard that is built below `place`."""
    shutil.copytree(UI, place / "ui", ignore=shutil.ignore_patterns(*NOT_FOR_BUILDS))
    subprocess.run([NODE, "build.mjs"], cwd=place / "ui", check=True, timeout=60)
    static = place / "static"
    return {
        str(path.relative_to(static)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in static.rglob("*")
        if path.is_file()
    }


def test_two_builds_in_two_places_are_the_same_bytes(tmp_path):
    first, second = build(tmp_path / "a"), build(tmp_path / "an other/place")
    assert first == second
    assert "index.html" in first


def test_the_tests_of_the_sources_pass():
    done = subprocess.run(
        [ROOT / "scripts/build-web", "test"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
