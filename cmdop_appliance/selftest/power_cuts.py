"""Power cuts under the store: what it acknowledged is there, and all that is there is whole."""

from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

import trio

from cmdop_appliance.errors import StartupError, Unavailable
from cmdop_appliance.selftest.power import PowerDisk
from cmdop_appliance.selftest.records import BOUND_S, Records
from cmdop_appliance.store.engine import open_store

_CHANGES_MOST: Final = 800  # of the disk, between the start and the cut; often they are few
_CHECKPOINT_PAGES: Final = (5, 200)


class PowerCuts:
    """One store in a folder of its own, whose power is cut again and again."""

    def __init__(self, disk: PowerDisk, folder: Path) -> None:
        """`folder` is made anew whenever the store in it is full."""
        self._disk = disk
        self._records = Records(folder)

    @property
    def acknowledged(self) -> int:
        """How many records were acknowledged, and are there."""
        return self._records.acknowledged

    async def cut(self, dice: Random) -> None:
        """Let callers record until the power goes, and look at what is there afterwards.

        Raises:
            BrokenPromiseError: an acknowledged record is lost, or what is there is not whole.
        """
        records = self._records
        records.make_ready()  # the first cuts of a new store hit its making
        self._disk.plan(round(_CHANGES_MOST ** dice.random()), dice)
        with suppress(StartupError, Unavailable), trio.fail_after(BOUND_S):
            pages = dice.randint(*_CHECKPOINT_PAGES)
            async with open_store(records.folder, checkpoint_pages=pages) as store:
                await records.ask(store, dice)
        self._disk.restore()
        await records.judge()
