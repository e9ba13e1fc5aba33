"""What a program of tests/support/installed.py runs: the checkout, as an installed version of it.

Its arguments: the version, Python that it runs first, the place of the program, then its own.
TEST_KILL="VERSION before|after MODULE:NAME" has the agent of that version killed when it comes to a
function; TEST_PATIENCE_S is how long its trial may take.
"""

import functools
import inspect
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import cmdop_appliance

_, number, first, program, *rest = sys.argv
cmdop_appliance.__version__ = number
cmdop_appliance.RELEASED_MS = 4_000_000_000_000
sys.frozen = True  # as PyInstaller says it
sys.executable = os.path.realpath(program)
sys.argv = [sys.executable, *rest]


def do_at(where, when, does, marker=None):
    """Has a function do something, too, "before" or "after" its work.

    Once at the most, if there is a place for a `marker` of it.
    """
    module, _, name = where.partition(":")
    *owners, last = name.split(".")
    owner = import_module(f"cmdop_appliance.{module}")
    for part in owners:
        owner = getattr(owner, part)
    original = getattr(owner, last)

    def act(now):
        if now != when:
            return
        if marker is not None:
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        does()

    async def acting_async(*args, **kwargs):
        act("before")
        result = await original(*args, **kwargs)
        act("after")
        return result

    def acting(*args, **kwargs):
        act("before")
        result = original(*args, **kwargs)
        act("after")
        return result

    new = acting_async if inspect.iscoroutinefunction(original) else acting
    setattr(owner, last, functools.wraps(original)(new))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


exec(first)

if rest[:1] == ["agent"]:
    from cmdop_appliance.agent import trial

    trial.PATIENCE_S = float(os.environ.get("TEST_PATIENCE_S", trial.PATIENCE_S))
    version, _, point = os.environ.get("TEST_KILL", "").partition(" ")
    if version == number:
        when, _, place = point.partition(" ")
        do_at(place, when, die)

from cmdop_appliance.__main__ import main  # noqa: E402 - as it was changed

main()
