import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmdop_appliance.agent.keeper.environment import original_environment


def test_a_command_gets_all_but_our_own_settings():
    given = {"PATH": "/bin", "LD_LIBRARY_PATH": "/opt/lib", "PYTHONPATH": "/x"}
    ours = {"CMDOP_API_KEY": "secret", "CMDOP_ONEFILE": "/cmdop"}
    assert original_environment({**given, **ours}) == given


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
