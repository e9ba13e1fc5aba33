"""/docs in a real browser: it shows every route, breaks no rule of its page, asks nobody else."""

import json
import shutil
import subprocess

import pytest

from cmdop_appliance.api import cmdop as cmdop  # fills the table
from tests.support.appliance import running_hub

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
]
# Virtual time, not real: the browser leaps over its own timers until the page is at rest.
REST_MS = 10_000


def test_the_viewer_shows_the_routes_and_asks_only_the_hub(tmp_path):
    net_log = tmp_path / "net.json"
    with running_hub(tmp_path) as hub:
        done = subprocess.run(
            [
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--window-size=1280,30000",  # of so many routes it draws those in sight
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # its own errands
                f"--user-data-dir={tmp_path / 'profile'}",
                f"--log-net-log={net_log}",
                "--enable-logging=stderr",
                f"--virtual-time-budget={REST_MS}",
                "--dump-dom",
                f"{hub.api.url}/docs",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    for path in ("/api/v1/commands", "/api/v1/sessions/{id}/attach", "/healthz"):
        assert f'data-path="{path}"' in done.stdout, path
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []  # a rule of the Content-Security-Policy that is broken is told there
    events = [event.get("params", {}) for event in json.loads(net_log.read_text())["events"]]
    asked = {event["url"] for event in events if event.get("initiator") == hub.api.url}
    assert f"{hub.api.url}/openapi.json" in asked
    assert {url for url in asked if not url.startswith(f"{hub.api.url}/")} == set()
