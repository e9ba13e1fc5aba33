"""A public C project, fetched from the package index and built through the hub."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.support.appliance import PATIENCE_S

pytestmark = [pytest.mark.slow, pytest.mark.long]

PROJECT = "pycosat==0.6.6"  # PicoSAT inside: 8,500 lines of C, MIT licence
FETCH_S = 60
# Unsatisfiable: 1 and not 1. PicoSAT answers 20, as every SAT solver's exit code does.
MAIN_C = """
#include "picosat.h"
int main(void) {
    PicoSAT *solver = picosat_init();
    picosat_add(solver, 1); picosat_add(solver, 0);
    picosat_add(solver, -1); picosat_add(solver, 0);
    return picosat_sat(solver, -1);
}
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The archive of the project, as it was published."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler on this machine")
    folder = tmp_path_factory.mktemp("sources")
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*fetch, "--no-deps", "--no-binary", ":all:", "--dest", folder, PROJECT],
        capture_output=True,
        text=True,
        timeout=FETCH_S,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"cannot fetch {PROJECT} from the package index: {done.stderr[-300:]}")
    (archive,) = folder.iterdir()
    return archive


def test_a_c_project_is_built_and_every_byte_of_the_compiler_output_is_there(
    api, machine, sources, tmp_path
):
    unpacked = api.run(machine, f"tar xzf '{sources}' --strip-components=1", cwd=str(tmp_path))
    assert unpacked["exit_code"] == 0, unpacked
    (tmp_path / "main.c").write_text(MAIN_C)
    build = (
        "cc -v -H -O1 -g -Wall -Wextra -Wconversion -save-temps -fdiagnostics-color=always"
        " -o solver main.c picosat.c -lm 2>&1 | tee build.log"
    )
    command_id = api.start(machine, build, cwd=str(tmp_path), timeout=PATIENCE_S * 1000)
    live = b"".join(e.data for e in api.events(command_id) if e.name == "stdout")
    record = api.wait_end(command_id)
    assert (record["status"], record["exit_code"], record["stderr"]) == ("completed", 0, "")

    log = (tmp_path / "build.log").read_bytes()
    assert len(log) > 50_000
    assert len(re.findall(rb"warning:", log)) > 100
    assert api.output(command_id) == log
    assert live == log
    assert record["stdout"] == log.decode()
    assert api.run(machine, "./solver", cwd=str(tmp_path))["exit_code"] == 20
