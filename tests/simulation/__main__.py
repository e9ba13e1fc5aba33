"""Sweep through many cases, or repeat one:

python -m tests.simulation --cases N --jobs J --seed S
python -m tests.simulation --repeat PLAN
"""

import argparse
import gc
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.cases import Block, Outcome, blocks, theatre
from tests.simulation.judge import Finding
from tests.simulation.plans import Plan

# Failures that are printed one by one.
SHOWN = 50


def main() -> int:
    """The exit code: 0 when every promise was kept in every case."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--cases", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="another one, other cases (default 0)")
    parser.add_argument("--repeat", metavar="PLAN", help="one case, step by step")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets decides, too
        arguments = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "PYTHONHASHSEED": "0"})
    if options.repeat:
        return repeat(Plan.parse(options.repeat))
    return sweep(options.cases, options.jobs, options.seed)


def repeat(plan: Plan) -> int:
    """Play one case and print its steps."""
    with theatre() as stage:
        outcome = stage.play(plan)
    print("\n".join(outcome.trace))
    for finding in outcome.found.findings:
        print(f"{finding.kind}: {finding.text}")
    return 1 if outcome.found.findings else 0


class Ledger:
    """The sum of many cases."""

    def __init__(self) -> None:
        self.cases = self.steps = self.starts = 0
        self.commands: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()  # cases, by the kind of what was found
        self.failures: list[tuple[str, list[Finding]]] = []

    def add(self, outcome: Outcome) -> None:
        """Enter one case."""
        found = outcome.found
        self.cases += 1
        self.steps += outcome.steps
        self.starts += found.starts
        self.commands += found.commands
        self.broken.update({finding.kind for finding in found.findings})
        if found.findings:
            self.failures.append((str(outcome.plan), found.findings))

    def merge(self, other: "Ledger") -> None:
        """Enter another ledger."""
        self.cases += other.cases
        self.steps += other.steps
        self.starts += other.starts
        self.commands += other.commands
        self.broken += other.broken
        self.failures += other.failures

    def text(self) -> str:
        """For people."""
        ends = ", ".join(f"{count} {status}" for status, count in self.commands.most_common())
        lines = [
            f"cases              {self.cases}, {self.steps} steps",
            f"commands           {self.commands.total()}: {ends}",
            f"starts             {self.starts}",
            f"double starts      {self.broken['double start']}",
            f"without true end   {self.broken['no true end']}",
            f"output wrong       {self.broken['output']}",
            f"left behind        {self.broken['left behind']}",
            f"program broken     {self.broken['broken']}",
        ]
        for plan, findings in self.failures[:SHOWN]:
            lines.append(f"python -m tests.simulation --repeat {plan}")
            lines += [f"    {finding.kind}: {finding.text}" for finding in findings[:3]]
        if len(self.failures) > SHOWN:
            lines.append(f"and {len(self.failures) - SHOWN} more")
        return "\n".join(lines)


def play_block(block: Block) -> Ledger:
    """All cases of one block."""
    gc.freeze()  # what was imported lives as long as the process
    ledger = Ledger()
    with theatre() as stage:
        steps = stage.play(Plan(block.shape, block.seed)).steps
        for plan in block.plans_of(steps):
            ledger.add(stage.play(plan))
    return ledger


def sweep(cases: int, jobs: int, seed: int) -> int:
    """Play many cases and print the ledger."""
    ledger, begun = Ledger(), time.monotonic()
    with ProcessPoolExecutor(jobs) as pool:
        for part in pool.map(play_block, blocks(seed, cases)):
            ledger.merge(part)
            spent = time.monotonic() - begun
            failed = len(ledger.failures)
            progress = f"\r{ledger.cases} cases, {failed} failed, {spent:.0f} s"
            print(progress, end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(ledger.text())
    return 1 if ledger.failures else 0


if __name__ == "__main__":
    sys.exit(main())
