import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmdop_appliance.agent.keeper.environment import original_environment

BUNDLE = "/tmp/_MEIabc"


def test_a_program_from_source_passes_all_on_but_our_own_settings():
    given = {"PATH": "/bin", "LD_LIBRARY_PATH": "/opt/lib", "LD_LIBRARY_PATH_ORIG": "/x"}
    assert original_environment({**given, "CMDOP_API_KEY": "secret"}, None) == given


@pytest.mark.parametrize(
    ("packed", "original"),
    [
        ({"LD_LIBRARY_PATH": BUNDLE}, {}),
        ({"LD_LIBRARY_PATH": BUNDLE, "LD_LIBRARY_PATH_ORIG": "/a"}, {"LD_LIBRARY_PATH": "/a"}),
        ({"LD_LIBRARY_PATH": BUNDLE, "LD_LIBRARY_PATH_ORIG": ""}, {"LD_LIBRARY_PATH": ""}),
        ({"_PYI_ARCHIVE_FILE": "x", "_PYI_PARENT_PROCESS_LEVEL": "1", "_MEIPASS2": "y"}, {}),
        ({"PYINSTALLER_RESET_ENVIRONMENT": "1"}, {}),
        ({"PYTHONHOME": BUNDLE, "PYTHONPATH": f"{BUNDLE}/lib"}, {}),
        ({"PYTHONPATH": "/home/me/lib"}, {"PYTHONPATH": "/home/me/lib"}),
        ({"HOME": "/root", "_": "/usr/bin/x"}, {"HOME": "/root", "_": "/usr/bin/x"}),
    ],
)
def test_nothing_of_the_packed_program_is_left(packed, original):
    assert original_environment(packed, BUNDLE) == original


@pytest.mark.parametrize("bundle", [None, BUNDLE])
def test_a_temporary_folder_that_we_set_is_put_back(bundle):
    ours = {"TMPDIR": "/state/keeper/run"}
    assert original_environment({**ours, "CMDOP_ORIGINAL_TMPDIR": ""}, bundle) == {}
    assert original_environment({**ours, "CMDOP_ORIGINAL_TMPDIR": "/t"}, bundle) == {"TMPDIR": "/t"}
    assert original_environment(ours, bundle) == ours


def test_the_given_environment_is_not_changed():
    given = {"CMDOP_X": "1", "TMPDIR": "/x", "CMDOP_ORIGINAL_TMPDIR": ""}
    before = dict(given)
    original_environment(given, BUNDLE)
    assert given == before


@pytest.mark.parametrize("given", [{}, {"LC_CTYPE": "C.UTF-8"}, {"LC_CTYPE": "C"}])
def test_what_python_adds_in_the_c_locale_was_not_there(given):
    """PEP 538: a command would print UTF-8 where the machine's own environment says C."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from cmdop_appliance.agent.keeper.environment import process_environment;"
        "print(process_environment().get('LC_CTYPE'))"
    )
    argv = [sys.executable, "-I", "-c", program, str(Path(__file__).parents[3])]
    environ = {"PATH": os.defpath, **given}
    said = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(given.get("LC_CTYPE"))
