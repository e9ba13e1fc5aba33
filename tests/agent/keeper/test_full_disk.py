"""A keeper on a full disk: what it cannot say must not end it, nor what it keeps."""

import subprocess
import sys
from pathlib import Path


def test_a_keeper_whose_log_is_on_a_full_disk_goes_on():
    program = "from cmdop_appliance.agent.keeper.main import _say; _say('no room'); print('on')"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, check=False
        )
    assert (done.returncode, done.stdout) == (0, b"on\n")
