"""What was promised of speed, what was measured, and whether that is enough."""

import operator
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_SALT_ROUNDS = 5
_IS: dict[str, Callable[[float, float], bool]] = {"≤": operator.le, "≥": operator.ge}


@dataclass(frozen=True)
class _Row:
    what: str
    figure: str
    value: float  # as its target is: a ratio, or the figure itself
    unit: str
    sign: str
    bound: float


@dataclass
class Targets:
    """Collects them while other parts measure; prints one table at the end."""

    rows: list[_Row] = field(default_factory=list)

    def note(self, what: str, figure: str, value: float, unit: str, sign: str, bound: float) -> str:
        """Take a figure; the target in words. `sign` is ≤ or ≥."""
        self.rows.append(_Row(what, figure, value, unit, sign, bound))
        return f"{sign} {bound:g} {unit}"

    def show(self) -> None:
        """Print them."""
        if not self.rows:
            return
        salt_s = _salt_s()
        beside = "" if salt_s is None else f"{'salt':>12}"
        print(f"\n{'target':<36} {'figure':>14} {'measured':>22} {'target':>22}  {beside}")
        for row in self.rows:
            measured, bound = f"{row.value:.2f} {row.unit}", f"{row.sign} {row.bound:g} {row.unit}"
            verdict = "hit" if _IS[row.sign](row.value, row.bound) else "MISSED"
            told = (
                f"{salt_s * 1000:.0f} ms" if salt_s is not None and "1 caller" in row.what else ""
            )
            print(f"{row.what:<36} {row.figure:>14} {measured:>22} {bound:>22}  {verdict} {told}")


def _salt_s() -> float | None:
    """Seconds of `salt '*' test.ping` where Salt is installed and has minions; None: it is not."""
    if shutil.which("salt") is None:
        return None
    took = []
    for _ in range(_SALT_ROUNDS):
        begun = time.perf_counter()
        done = subprocess.run(["salt", "*", "test.ping"], capture_output=True, check=False)
        if done.returncode:
            return None
        took.append(time.perf_counter() - begun)
    return statistics.median(took)
