"""Torture the product with real processes: kills, cuts, and every promise judged from outside.

Each case draws all it does from the seed and its number, so a failure can be repeated as far as
the machine's own timing allows. Prints a ledger; the exit code is 1 when anything failed.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.torture import simulation
from tests.torture.agent_kills import AGENT_KILLS
from tests.torture.backup import BACKUP
from tests.torture.coding_agents import CODING_AGENTS
from tests.torture.cron import CRON
from tests.torture.cuts import CUTS
from tests.torture.disk_full import DISK_FULL
from tests.torture.files_cuts import FILES_CUTS
from tests.torture.files_faults import FILES_FAULTS
from tests.torture.files_kills import FILES_KILLS
from tests.torture.files_swapper import FILES_SWAPPER
from tests.torture.fuzz import FUZZ
from tests.torture.gigabyte import GIGABYTE
from tests.torture.hub_kills_followed import HUB_KILLS_FOLLOWED
from tests.torture.hub_kills_ledger import HUB_KILLS_LEDGER
from tests.torture.lost import LOST
from tests.torture.parts import Outcome, print_ledger, run_part
from tests.torture.power_cuts import POWER_CUTS
from tests.torture.roots import ROOTS
from tests.torture.schedules_kills import SCHEDULES_KILLS
from tests.torture.sweep import SWEEP
from tests.torture.terminals_kills import TERMINALS_KILLS
from tests.torture.webhooks_kills import WEBHOOKS_KILLS

PARTS = (
    AGENT_KILLS,
    HUB_KILLS_FOLLOWED,
    CUTS,
    HUB_KILLS_LEDGER,
    POWER_CUTS,
    DISK_FULL,
    SWEEP,
    LOST,
    GIGABYTE,
    FUZZ,
    FILES_CUTS,
    FILES_KILLS,
    FILES_SWAPPER,
    FILES_FAULTS,
    CRON,
    SCHEDULES_KILLS,
    WEBHOOKS_KILLS,
    TERMINALS_KILLS,
    CODING_AGENTS,
    ROOTS,
    BACKUP,
)

say = partial(print, flush=True)  # the other end may be a file that somebody watches


def main() -> int:
    """Run what the arguments select; the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end what was started then, too
    place = Path(tempfile.mkdtemp(prefix="cmdop-torture-"))
    say(f"seed {options.seed}, {options.jobs} jobs; a failure leaves its evidence in {place}")
    outcomes: list[Outcome] = []
    for part in PARTS:
        if part.name in options.only and not (outcomes and outcomes[-1].was_interrupted):
            count = part.count if options.count is None else min(options.count, part.count)
            numbers = options.case or list(range(count))
            say(f"{part.name}: {len(numbers)} cases")
            outcomes.append(run_part(part, numbers, options.seed, options.jobs, place, say))
    if simulation.NAME in options.only and not (outcomes and outcomes[-1].was_interrupted):
        count = simulation.CASES if options.count is None else options.count
        say(f"{simulation.NAME}: {count} cases")
        outcomes.append(simulation.run_simulation(count, options.jobs, options.seed))
    print_ledger(outcomes, say)
    if not all(outcome.is_good for outcome in outcomes):
        return 1
    shutil.rmtree(place)
    return 0


def _options() -> argparse.Namespace:
    names = [*(part.name for part in PARTS), simulation.NAME]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=names, help="a part; may be repeated")
    parser.add_argument("--count", type=int, help="cases of each part (default: the full number)")
    parser.add_argument("--case", type=int, action="append", help="this case only; may be repeated")
    parser.add_argument("--seed", type=int, help="of an earlier run, to repeat it")
    parser.add_argument("--jobs", type=int, default=2, help="hubs side by side (default 2)")
    options = parser.parse_args()
    options.only = options.only or names
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    return options


if __name__ == "__main__":
    sys.exit(main())
