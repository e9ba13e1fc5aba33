"""What the documents show is run here as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.appliance import running_agent, running_hub

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("access", "audit", "commands", "files", "monitoring", "sessions")
BLOCKS = [
    pytest.param(*block, id=f"{name}-{number}")
    for name in DOCUMENTS
    for number, block in enumerate(
        re.findall(r"```(sh|python)\n(.*?)```", (ROOT / f"docs/{name}.md").read_text(), re.DOTALL)
    )
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environ(tmp_path_factory):
    """A hub with the machine `nas`, and `cmdop` on the PATH."""
    place = tmp_path_factory.mktemp("docs")
    program = place / "bin/cmdop"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cmdop_appliance "$@"\n')
    program.chmod(0o755)
    with running_hub(place) as hub, running_agent(hub, place, "nas") as agent:
        yield {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CMDOP_URL": hub.api.url,
            "CMDOP_API_KEY": hub.api.key,
            "MACHINE_ID": agent.machine_id,
        }


@pytest.mark.parametrize(("language", "text"), BLOCKS)
def test_an_example_does_what_it_says(environ, language, text):
    if "curl" in text and shutil.which("curl") is None:
        pytest.skip("no curl")
    program = ["sh", "-euc"] if language == "sh" else [sys.executable, "-c"]
    done = subprocess.run(
        [*program, text], capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    answers = re.findall(r'"code":"(\w+)"', done.stdout)
    assert answers == (["conflict"] if "/resume" in text else [])
    if "Idempotency-Key" in text:
        first, second = re.findall(r'"id":"(cmd_\w+)"', done.stdout)
        assert first == second
