"""The simulation of hub and agents under a mock clock, as one part of the torture."""

import subprocess
import sys
import time

from tests.torture.parts import Outcome

NAME = "simulation"
CASES = 100_000  # of a full run


def run_simulation(cases: int, jobs: int, seed: int) -> Outcome:
    """Run it in processes of its own; it prints how to repeat what fails."""
    argv = [sys.executable, "-m", "tests.simulation", f"--cases={cases}", f"--jobs={jobs}"]
    begun = time.monotonic()
    code = subprocess.run([*argv, f"--seed={seed}"], check=False).returncode
    outcome = Outcome(NAME, seed, cases, seconds=time.monotonic() - begun)
    if code:  # it alone knows how many
        outcome.failures.append((None, f"exit code {code}; what failed is printed above"))
    else:
        outcome.passed = cases
    return outcome
