"""A running hub against its own document: schemathesis asks whatever that allows, and more."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.appliance import BASE_ENVIRONMENT, Hub, running_hub
from tests.support.pretender import pretending_machines

ROOT = Path(__file__).parents[2]
MACHINES = 3
# Wrong keys without number come from here; what waits for a machine shall not hold up the run.
_CONFIG = """
[auth]
attempts = 0
[commands]
sync_timeout_ms = 2000
queue_timeout_ms = 1000
"""
_PHASES = "examples,coverage,fuzzing,stateful"


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """How a run went."""

    examples: int
    is_good: bool  # nothing was found, and every operation was tried
    told: str  # by schemathesis, with how to repeat what it found


@contextmanager
def fuzzed_hub(place: Path) -> Iterator[Hub]:
    """A hub whose machines only pretend, so that any command may be asked of them."""
    with running_hub(place, config=_CONFIG) as hub, pretending_machines(hub, MACHINES):
        yield hub
        log = hub.log.read_text()
        assert '"level": "error"' not in log, log
        assert "Traceback" not in log, log


def fuzz(hub: Hub, place: Path, *, seed: int, each: int) -> Fuzzed:
    """Ask up to `each` generated requests of every operation, beside those that cover its rules."""
    machine = hub.api.get("/machines?sort=created_at&limit=1")[0]["id"]
    batch = hub.api.post("/commands/batch", machine_ids=[machine], command="x", max_errors=0)
    rule = {"cron": "0 0 29 2 *", "command": "x", "machine_id": machine}
    variables = {
        "FUZZ_HUB": hub.api.url,
        "FUZZ_KEY": hub.api.key,
        "FUZZ_KEY_ID": hub.api.get("/auth/me")["id"],
        "FUZZ_MACHINE": machine,
        "FUZZ_SESSION": hub.api.get(f"/machines/{machine}/session")["session_id"],
        "FUZZ_BATCH": batch[machine]["batch_id"],
        "FUZZ_SCHEDULE": hub.api.post("/schedules", name="leap day", **rule)["id"],
    }
    report = place / f"schemathesis-{seed}.json"
    config = ROOT / "tests/api/schemathesis.toml"
    argv = [sys.executable, "-m", "schemathesis.cli", f"--config-file={config}", "run"]
    options = [f"--phases={_PHASES}", f"--seed={seed}", f"--max-examples={each}", "--no-color"]
    done = subprocess.run(
        [*argv, *options, f"--report-json-path={report}", f"{hub.api.url}/openapi.json"],
        cwd=place,  # where it keeps what `st replay` reads
        env={**BASE_ENVIRONMENT, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout + done.stderr
    if not report.exists():
        return Fuzzed(0, False, told)
    found = json.loads(report.read_text())
    operations = found["operations"]
    is_good = done.returncode == 0 and operations["tested"] == operations["total"] > 0
    return Fuzzed(found["test_cases"]["generated"], is_good, told)
