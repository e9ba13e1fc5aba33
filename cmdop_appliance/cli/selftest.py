"""`cmdop selftest`: whether this program keeps its promises on this disk."""

import logging
import shutil
import tempfile
from pathlib import Path
from random import Random, SystemRandom

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.durations import Duration
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.text import visible


@click.command()
@click.option(
    "--torture",
    "torture_ms",
    type=Duration(),
    default="1m",
    show_default=True,
    help="For how long; a new way to fall is drawn each time.",
)
@click.option(
    "--dir",
    "parent",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="On which disk: a folder is made in it, and removed again.",
)
@click.option("--seed", type=int, help="Of an earlier run, to draw the same again.")
def selftest(torture_ms: int, parent: Path, seed: int | None) -> int:
    """Cut the power, fill the disk and kill the hub, on this disk, and count what is lost.

    It needs no rights, talks to nobody else, and leaves nothing behind unless something failed:
    then it exits with 1, and says where the evidence is.
    """
    seed = SystemRandom().randrange(10**6) if seed is None else seed
    try:
        folder = Path(tempfile.mkdtemp(prefix="cmdop-selftest-", dir=parent.resolve()))
    except OSError as exc:
        raise Failure(
            f"cannot write to {parent}: {exc.strerror}",
            exit_code=failures.USAGE,
            hint="name another --dir",
        ) from exc
    try:
        is_good = _run(folder, torture_ms / 1000, seed)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if is_good:
        shutil.rmtree(folder)
        return 0
    print(visible(f"evidence   {folder}"))
    return failures.OTHER


def _run(folder: Path, for_s: float, seed: int) -> bool:
    from cmdop_appliance.selftest.parts import run_all
    from cmdop_appliance.selftest.syncs import measure

    logging.getLogger("cmdop").setLevel(logging.CRITICAL + 1)  # each cut is a store's last word
    found = measure(folder)
    times = f"a sync takes {found.median_us} µs, at the worst {found.slowest_us} µs"
    print(visible(f"disk       {found.kind or 'unknown'}; {times}"))
    if found.doubt:
        print(f"warning    {found.doubt}")
    print(f"seed       {seed}\n\n{'part':<12} {'cases':>7} {'failed':>7} {'seconds':>8}  kept")
    is_good = True
    for part in run_all(folder, for_s, Random(seed)):  # noqa: S311 - it draws faults, not secrets
        failed = len(part.failures)
        print(f"{part.name:<12} {part.cases:>7} {failed:>7} {part.seconds:>8.1f}  {part.kept}")
        for why in part.failures:
            print(visible(f"  {why}"))
            is_good = False
    return is_good
