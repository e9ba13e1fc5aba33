"""A store that somebody tries: all that it writes is in the write-ahead log, which can be dropped.

A store that is closed has no log: everything is in the database. One that is opened with
`is_trial` writes to the log alone, migrations included, and leaves it there. So to take back a
trial is to delete a file, however large the store is; and to keep it is to do nothing.
"""

from pathlib import Path

from cmdop_appliance.private import sync_directory
from cmdop_appliance.store.engine import DATABASE_FILE

_LOG = f"{DATABASE_FILE}-wal"
_INDEX = f"{DATABASE_FILE}-shm"


def is_closed(data_dir: Path) -> bool:
    """True: what the store holds is all in the database."""
    log = data_dir / _LOG
    return not log.exists() or log.stat().st_size == 0


def take_back(data_dir: Path) -> None:
    """Let the store be as it was before the trial, for good; nobody has it open.

    Raises:
        OSError: it cannot be done.
    """
    for name in (_INDEX, _LOG):
        (data_dir / name).unlink(missing_ok=True)
    sync_directory(data_dir)
