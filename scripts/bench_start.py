"""What it costs to start the command line, beside the bare interpreter: CPU time, not waiting."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.bench_hub import serving
from scripts.bench_targets import Targets

ROUNDS = 15
ONEFILE = Path(__file__).parents[1] / "dist/cmdop"
BARE = "python -c pass"
INSTALLED = "installed cmdop --version"
STARTS = 3  # of a hub
PYTHON = (sys.executable, "-I")
PROGRAMS = {
    BARE: (*PYTHON, "-c", "pass"),
    "cmdop version": (*PYTHON, "-m", "cmdop_appliance", "version"),
    "cmdop --help": (*PYTHON, "-m", "cmdop_appliance", "--help"),
}

Report = Callable[..., None]


def run(report: Report, targets: Targets) -> None:
    """The least of some rounds, taken in turn: what is above it is the machine's noise."""
    with tempfile.TemporaryDirectory() as place:
        programs = {**PROGRAMS, **_built(Path(place))}
        least = dict.fromkeys(programs, float("inf"))
        for _ in range(ROUNDS):
            for name, argv in programs.items():
                least[name] = min(least[name], _cpu_ms(argv))
        ready_s = min(_ready_s(Path(place) / str(number)) for number in range(STARTS))
    for name, cpu_ms in least.items():
        figure, target = f"{cpu_ms:.0f} ms", ""
        if name == INSTALLED:
            target = targets.note(f"{name}, CPU", figure, cpu_ms, "ms", "≤", 150)
        report(f"{name}, CPU", figure, f"python + {cpu_ms - least[BARE]:.0f} ms", target)
    target = targets.note("cmdop serve: ready", f"{ready_s:.2f} s", ready_s, "s", "≤", 1)
    report("cmdop serve, new store: ready", f"{ready_s:.2f} s", "", target)


def _ready_s(data_dir: Path) -> float:
    begun = time.perf_counter()
    with serving(data_dir):
        return time.perf_counter() - begun


def _built(place: Path) -> dict[str, Sequence[str]]:
    """What scripts/build has made: as it is installed, and as the one file, already unpacked."""
    if not ONEFILE.exists():
        return {}
    folder = place / "installed"
    subprocess.run([ONEFILE], env={"CMDOP_UNPACK_TO": str(folder)}, check=True)
    unpacked = f"CMDOP_UNPACK_DIR={place / 'unpacked'}"
    return {
        INSTALLED: (str(folder / "cmdop"), "--version"),
        "one file, cmdop --version": ("/usr/bin/env", unpacked, str(ONEFILE), "--version"),
    }


def _cpu_ms(argv: Sequence[str]) -> float:
    """User and system time of one run, which prints to nobody."""
    nobody = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[nobody])
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"bench: {' '.join(argv)} ended with {status}")
    return (used.ru_utime + used.ru_stime) * 1000
