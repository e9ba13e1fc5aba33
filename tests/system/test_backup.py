"""docs/backup.md: a copy of the data directory, as it is made and taken up there."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.appliance import Hub, ending, stopped_agent

pytestmark = pytest.mark.slow

DOCUMENT = (Path(__file__).parents[2] / "docs/backup.md").read_text()
MAKING, TAKING_UP = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
DATA_DIR = "cmdop-data"  # as it is called there


def _sh(text: str, place: Path) -> None:
    program = ["sh", "-euc", text.replace(DATA_DIR, "data")]
    done = subprocess.run(program, cwd=place, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_hub_goes_on_from_its_copy_elsewhere_and_its_machines_find_it(tmp_path):
    old_place, new_place = tmp_path / "old", tmp_path / "new"
    old_place.mkdir()
    new_place.mkdir()
    old, new = Hub(old_place), Hub(new_place)
    with stopped_agent(tmp_path, "nas") as agent:
        with ending(old):
            old.start()
            agent.join(old)
            told = old.api.run(agent.machine_id, "seq 4000")  # more than a row holds
            url = old.api.url
        (old.data_dir / "local-agent").mkdir()  # is not the hub's
        assert DATA_DIR in MAKING
        _sh(MAKING, old_place)
        backup = old_place / "cmdop-backup.tgz"
        assert backup.stat().st_mode & 0o077 == 0
        backup.rename(new_place / backup.name)
        _sh(TAKING_UP, new_place)
        assert not (new.data_dir / "local-agent").exists()
        with ending(new):
            new.start()
            assert new.api.url != url
            assert new.api.output(told["id"]) == "".join(f"{n}\n" for n in range(1, 4001)).encode()
            agent.stop()
            agent.begin("--hub", new.api.url)
            agent.wait_connected(new)
            assert new.api.url in (agent.state_dir / "hub.json").read_text()  # from now on
            assert new.api.run(agent.machine_id, "echo there")["stdout"] == "there\n"
