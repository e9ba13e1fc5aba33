"""What it costs to start the command line, beside the bare interpreter: CPU time, not waiting."""

import os
import sys
from collections.abc import Callable, Sequence

ROUNDS = 15
PROGRAMS = {
    "python -c pass": ("-c", "pass"),
    "cmdop version": ("-m", "cmdop_appliance", "version"),
    "cmdop --help": ("-m", "cmdop_appliance", "--help"),
}

Report = Callable[..., None]


def run(report: Report) -> None:
    """The least of some rounds, taken in turn: what is above it is the machine's noise."""
    least = dict.fromkeys(PROGRAMS, float("inf"))
    for _ in range(ROUNDS):
        for name, args in PROGRAMS.items():
            least[name] = min(least[name], _cpu_ms([sys.executable, "-I", *args]))
    bare = least["python -c pass"]
    for name, cpu_ms in least.items():
        report(f"{name}, CPU", f"{cpu_ms:.0f} ms", f"python + {cpu_ms - bare:.0f} ms")


def _cpu_ms(argv: Sequence[str]) -> float:
    """User and system time of one run, which prints to nobody."""
    nobody = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[nobody])
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"bench: {' '.join(argv)} ended with {status}")
    return (used.ru_utime + used.ru_stime) * 1000
