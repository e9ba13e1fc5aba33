"""The client that others published, unchanged: cmdop 2.0.0 from the package index.

It has a package and a program of our name, so it lives in a directory of its own, and runs in a
process of its own.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LOCK = Path(__file__).parents[2] / "packaging/requirements-sdk2.lock"
_INSTALL_S = 300  # 33 MB, over whatever network there is
_RUN_S = 120


def published_client(config: pytest.Config) -> Path:
    """Where the package is, exactly as its lock pins it: installed by the first test run.

    Where the index cannot be reached, the tests that need it are skipped, loudly; in CI they fail.
    """
    digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]
    kept = config.cache.mkdir("published") / digest
    if kept.exists():
        return kept
    fresh = kept.with_name(f"{digest}.{os.getpid()}")
    pip = [sys.executable, "-I", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    exact = ["--require-hashes", "--no-deps", "-r", LOCK, "--target", fresh]
    done = subprocess.run(
        [*pip, *exact], capture_output=True, text=True, timeout=_INSTALL_S, check=False
    )
    if done.returncode:
        shutil.rmtree(fresh, ignore_errors=True)
        why = "the published client cannot be installed"
        if os.environ.get("CI"):
            pytest.fail(f"{why}: {done.stderr}")
        reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        reporter.write_line(f"\n{why}: TESTS THAT NEED IT ARE SKIPPED", red=True, bold=True)
        pytest.skip(why)
    fresh.rename(kept)
    return kept


def run_published(
    package: Path, script: str, *args: str, url: str, key: str, home: Path
) -> subprocess.CompletedProcess[str]:
    """Run `script`, which finds the package as any program of its user would."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(package)}
    return subprocess.run(
        [sys.executable, "-c", script, *args],
        env={**environment, "CMDOP_BASE_URL": url, "CMDOP_TOKEN": key},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )
