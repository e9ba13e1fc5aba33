"""TLS trusts the system's authorities also where the packed program was not made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmdop_appliance.authorities import find_authorities

ROOT = Path(__file__).parents[1]
PACKED = """
import os, sys
sys._MEIPASS, sys.argv = "/bundle", ["cmdop", "version"]
from cmdop_appliance.__main__ import main
from cmdop_appliance.agent.keeper.environment import process_environment
try:
    main()
finally:
    print(os.environ.get("SSL_CERT_FILE"), process_environment().get("SSL_CERT_FILE"))
"""


def test_the_first_that_this_system_has_is_named(tmp_path):
    files = [tmp_path / "debian", tmp_path / "fedora"]
    environ = {}
    find_authorities(environ, map(str, files))
    assert environ == {}
    files[1].touch()
    find_authorities(environ, map(str, files))
    assert environ == {"SSL_CERT_FILE": str(files[1])}


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_what_somebody_has_chosen_stays(tmp_path, name):
    environ = {name: "/chosen"}
    find_authorities(environ, [str(Path(__file__))])
    assert environ == {name: "/chosen"}


@pytest.mark.parametrize("chosen", [None, "/chosen"])
def test_the_packed_program_does_so_at_its_start_and_tells_no_command(chosen):
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    if chosen is not None:
        environ["SSL_CERT_FILE"] = chosen
    done = subprocess.run(
        [sys.executable, "-c", PACKED],
        capture_output=True,
        text=True,
        env=environ,
        timeout=60,
        check=False,
    )
    named = {}
    find_authorities(named)
    ours = chosen or named.get("SSL_CERT_FILE")
    assert done.stdout.splitlines()[-1] == f"{ours} {chosen}"
