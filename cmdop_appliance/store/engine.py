"""The one door to the database: `await store.run(fn, …)` runs a plain function as a transaction.

How it works. Writes queue up for one thread with one connection; it takes whatever waits, runs
each function in a savepoint of one transaction, and commits them together, so that one fsync
serves them all (measured: ×6 on a fast disk, ×65 at 5 ms an fsync). The callers wake when their
bytes are on disk, in one go. Functions marked `@reads` run on connections of their own, in worker
threads, against the last commit; those that are also `@brief` have threads that no long list is
read by. The driver brings its own SQLite: distributions still ship
versions with the WAL-reset bug (3.7.0–3.51.2).

To the thread and back takes longer than a commit does on a quick disk. So while the disk is quick
and the thread has nothing to do, functions marked `@brief` are committed by the event loop itself:
those that come in one pass of the scheduler together. Only the event loop decides, and it counts
what the thread has not given back (`_handed`): while that is not zero, it leaves the connection
alone, and while it is zero, so does the thread.

What thousands of machines say of themselves all the time is marked `@unhurried`: it is committed
four times a second at the most, all that came together.

Exclusive use of the data directory is a lock file's job (`directory.py`), not SQLite's: its
exclusive locking mode would shut out our own readers.
"""

import contextlib
import errno
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw
import trio
from trio.lowlevel import cancel_shielded_checkpoint

from cmdop_appliance.errors import StartupError, StorageFull, Unavailable
from cmdop_appliance.store import migrate
from cmdop_appliance.store.transaction import Tx

P = ParamSpec("P")
T = TypeVar("T")

DATABASE_FILE = "cmdop.db"
# Two cores and short queries: more readers only wait for each other.
_READERS = 4
# Beside them, for brief reads: without a caller's key nobody gets anything.
_BRIEF_READERS = 2
# A reader never waits for the writer in WAL mode; only a checkpoint restart can make it, briefly.
_BUSY_MS = 5000
# Pages of 4 KiB between checkpoints: fewer and longer ones than the default of 1000.
_CHECKPOINT_PAGES = 4000
# The event loop may wait so long for a commit (as the agent does for its journal) …
_QUICK_S = 0.001
# … if so many in a row were that quick: a disk that is busy is quick now and then.
_QUICK_COMMITS = 8
# Commits of what nobody waits for are at least so far apart.
_UNHURRIED_S = 0.25
# What the driver says when the disk lost or refused something: it is never asked again.
_DISK_FAILED = (apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.CantOpenError)
# … while a disk that hangs in the middle of a commit or a checkpoint only keeps readers waiting.
_HELD_UP = (apsw.BusyError, apsw.ProtocolError)
# Of a failure, these pass: somebody's quota is used up, or a file may grow no larger.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_log = logging.getLogger("cmdop.store")


class _Unit:
    """A function waiting for the writer, and the task waiting for it."""

    __slots__ = ("call", "error", "result", "task")

    def __init__(self, call: Callable[[Tx], Any], task: trio.lowlevel.Task) -> None:
        self.call = call
        self.task = task
        self.result: Any = None
        self.error: BaseException | None = None


class Store:
    """An open database. Made by `open_store`."""

    def __init__(self, path: Path, *, inline: bool, checkpoint_pages: int, is_trial: bool) -> None:
        self._path = path
        self._inline = inline
        self._checkpoint_pages = checkpoint_pages
        self._is_trial = is_trial
        self._writer = _connect(path)
        if is_trial:  # else whoever closes it last moves the log to the database
            self._writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._readers: list[apsw.Connection] = []
        self._reader_slots = trio.CapacityLimiter(_READERS)
        self._brief_slots = trio.CapacityLimiter(_BRIEF_READERS)
        self._gathered: list[_Unit] = []  # for the event loop to commit
        self._waiting: list[_Unit] = []  # for the thread
        self._unhurried: list[_Unit] = []  # for a commit that is not due yet …
        self._unhurried_due = -math.inf  # … until then, Trio's clock
        self._handed = 0  # units that the thread has, or is about to have
        self._quick_commits = 0  # in a row
        self._log_pages = 0  # in the write-ahead log, since the last checkpoint
        self._has_written = False  # whether the last transaction left something in that log
        self._last_handed = 0.0  # Trio time: when the thread got or gave back units last
        self.commits = 0  # that changed something, since the store was opened
        self.commit_s = 0.0  # how long they took, all together
        self._writer.set_wal_hook(self._note_log)
        self._wake = threading.Condition(threading.Lock())
        self._closing = False
        self._failed = False
        self._broken = trio.Event()
        self._deliver: Callable[[str], None] = _nobody_listens
        # Asked, in any thread, when the disk is full; True: there is room now, and we try again.
        self.make_room: Callable[[], bool] = _nobody_makes_room
        self._met_full = False
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._write_loop, name="store writer", daemon=True)

    async def run(
        self, fn: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What `fn(tx, …)` returned, after its transaction is on disk; if it raises, rolled back.

        Cancellation waits for the transaction to end: a cancelled caller may find its change
        committed, never half of it.

        Raises:
            StorageFull: the disk is full; nothing was recorded.
            Unavailable: the disk failed; nothing was acknowledged, and the hub is about to exit.
        """

        def call(tx: Tx) -> T:
            return fn(tx, *args, **kwargs)

        if self._inline:  # tests: a thread looks idle to MockClock, and its autojump would leap
            await trio.lowlevel.checkpoint()
            unit = _Unit(call, trio.lowlevel.current_task())
            _, notified = self._commit([unit])
            self._tell(notified)
            self._checkpoint_if_due()
        elif getattr(fn, "reads", False):
            slots = self._brief_slots if getattr(fn, "brief", False) else self._reader_slots
            return await trio.to_thread.run_sync(self._read, call, limiter=slots)
        else:
            unit = _Unit(call, trio.lowlevel.current_task())
            await trio.lowlevel.checkpoint_if_cancelled()
            if getattr(fn, "unhurried", False):
                await self._commit_when_due(unit)
            elif self._handed == 0 and self._is_quick and getattr(fn, "brief", False):
                await self._commit_here(unit)
            else:
                self._hand_over([unit])
                await _wait_done()
        if unit.error is not None:
            raise unit.error
        result: T = unit.result
        return result

    def listen(self, deliver: Callable[[str], None]) -> None:
        """From now on `deliver` gets each subject that a transaction notifies, once committed.

        It is called in the event loop, before the transaction's caller goes on.
        """
        self._deliver = deliver

    @property
    def is_broken(self) -> bool:
        """True: the disk has failed; nothing was acknowledged since."""
        return self._failed

    def fail(self, exc: OSError) -> Unavailable:
        """The disk has failed beside the database: nothing is acknowledged any more, either.

        A failed fsync must not be tried again: the kernel reports it once, and drops the pages.
        """
        _log.critical("the disk under the data directory failed", exc_info=exc)
        self._failed = True
        self._broken.set()
        return Unavailable("the hub's disk failed")

    @property
    def queue_depth(self) -> int:
        """How many writes have come and are not on disk yet."""
        return self._handed + len(self._gathered) + len(self._unhurried)

    @property
    def stuck_s(self) -> float:
        """For how long nothing of what waits for the disk has got there."""
        return trio.current_time() - self._last_handed if self._handed else 0.0

    def log_bytes(self) -> int:
        """The size of the write-ahead log; asks the disk."""
        return Path(f"{self._path}-wal").stat().st_size

    async def wait_broken(self) -> None:
        """Return when the disk has failed: the only right thing left is to stop the process."""
        await self._broken.wait()

    @property
    def _is_quick(self) -> bool:
        """True: a commit will not keep the event loop for long."""
        return self._quick_commits >= _QUICK_COMMITS and self._log_pages < self._checkpoint_pages

    async def _commit_here(self, unit: _Unit) -> None:
        self._gathered.append(unit)
        if len(self._gathered) > 1:
            await _wait_done()  # for the one who came first
            return
        await cancel_shielded_checkpoint()  # here come the others
        units, self._gathered = self._gathered, []
        if self._handed:
            self._hand_over(units)
            await _wait_done()
            return
        seconds, notified = self._commit(units)
        self._note_time(seconds)
        self._tell(notified)
        _reschedule(units[1:])

    async def _commit_when_due(self, unit: _Unit) -> None:
        """Who is cancelled before it is due waits no longer, and has changed nothing."""

        def abort(_: object) -> trio.lowlevel.Abort:
            if unit not in self._unhurried:
                return trio.lowlevel.Abort.FAILED
            self._unhurried.remove(unit)
            return trio.lowlevel.Abort.SUCCEEDED

        self._unhurried.append(unit)
        if len(self._unhurried) == 1:  # the others wait for the one who came first
            try:
                await trio.sleep_until(self._unhurried_due)
            except trio.Cancelled:
                self._unhurried.remove(unit)
                raise
            finally:
                units, self._unhurried = self._unhurried, []
                self._unhurried_due = trio.current_time() + _UNHURRIED_S
                self._hand_over(units)
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _hand_over(self, units: list[_Unit]) -> None:
        if not self._handed:
            self._last_handed = trio.current_time()
        self._handed += len(units)
        with self._wake:
            self._waiting += units
            self._wake.notify()

    def _take_back(self, units: list[_Unit], seconds: float | None, notified: set[str]) -> None:
        self._handed -= len(units)
        self._last_handed = trio.current_time()
        self._note_time(seconds)
        self._tell(notified)
        _reschedule(units)

    def _tell(self, notified: set[str]) -> None:
        for subject in notified:
            self._deliver(subject)

    def _note_time(self, seconds: float | None) -> None:
        if seconds is None:  # that tells nothing of the disk
            return
        self.commits += 1
        self.commit_s += seconds
        self._quick_commits = self._quick_commits + 1 if seconds < _QUICK_S else 0

    def _note_log(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._log_pages = pages
        self._has_written = True
        return apsw.SQLITE_OK

    def _read(self, call: Callable[[Tx], T]) -> T:
        while True:
            try:
                return self._read_once(call)
            except _HELD_UP as exc:
                _log.warning("a reader is held up: is the disk slow?", extra={"why": str(exc)})
                trio.from_thread.check_cancelled()  # else it waits, as writers do

    def _read_once(self, call: Callable[[Tx], T]) -> T:
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = _connect(self._path)
            connection.execute("PRAGMA query_only = ON")
        try:
            connection.execute("BEGIN")
            return call(Tx(connection))
        except _DISK_FAILED as exc:
            raise self._judge(exc) from exc
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._readers.append(connection)

    def _write_loop(self) -> None:
        while True:
            with self._wake:
                while not self._waiting:
                    if self._closing:
                        return
                    self._wake.wait()
                units, self._waiting = self._waiting, []
            seconds, notified = self._commit(units)
            self._checkpoint_if_due()
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._take_back, units, seconds, notified)

    def _commit(self, units: list[_Unit]) -> tuple[float | None, set[str]]:
        """Run all units in one transaction; how many seconds that took, and who is to be woken.

        No seconds: there was nothing to commit. A failing unit is undone alone; a failing disk,
        all. What did not fit is tried once more if somebody can make room.
        """
        self._met_full = False
        seconds, notified = self._commit_once(units)
        if self._met_full and self.make_room():
            refused = [unit for unit in units if isinstance(unit.error, StorageFull)]
            for unit in refused:
                unit.error = None
            seconds, more = self._commit_once(refused)
            notified |= more
        return seconds, notified

    def _commit_once(self, units: list[_Unit]) -> tuple[float | None, set[str]]:
        begun = 0.0
        self._has_written = False
        tx = Tx(self._writer)
        try:
            if self._failed:
                raise Unavailable("the hub's disk failed")  # noqa: TRY301 - every unit gets it
            self._writer.execute("BEGIN IMMEDIATE")
            for unit in units:
                self._run_unit(tx, unit, alone=len(units) == 1)
            begun = time.perf_counter()  # what they do takes as long in the thread
            self._writer.execute("COMMIT")
        except BaseException as exc:  # noqa: BLE001 - every unit must learn of it, whatever it is
            error = self._judge(exc)
            for unit in units:
                unit.error = unit.error or error
            if self._writer.in_transaction:
                with contextlib.suppress(apsw.Error):
                    self._writer.execute("ROLLBACK")
            tx.notified.clear()
        return time.perf_counter() - begun if self._has_written else None, tx.notified

    def _checkpoint_if_due(self) -> None:
        """Move what is in the log to the database; what readers still need stays for later."""
        if self._log_pages < self._checkpoint_pages or self._failed or self._is_trial:
            return
        try:
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as exc:
            if isinstance(self._judge(exc), StorageFull):  # the log goes on, and so do we
                self.make_room()
        else:
            self._log_pages = 0

    def _run_unit(self, tx: Tx, unit: _Unit, *, alone: bool) -> None:
        if alone:
            unit.result = unit.call(tx)
            return
        self._writer.execute("SAVEPOINT unit")
        try:
            unit.result = unit.call(tx)
        except Exception as exc:
            if isinstance(exc, _DISK_FAILED) or not self._writer.in_transaction:
                raise  # no unit of this batch may count any more: SQLite undid them, or must
            self._writer.execute("ROLLBACK TO unit")
            unit.error = self._judge(exc)
        self._writer.execute("RELEASE unit")

    def _judge(self, exc: BaseException) -> BaseException:
        """The error its caller gets; a failed disk also ends the store (fsync is never retried)."""
        if isinstance(exc, apsw.FullError) or self._is_shortage(exc):
            self._met_full = True
            return StorageFull("the hub's disk is full", hint="free some space on the hub")
        if isinstance(exc, _DISK_FAILED):
            _log.critical("the disk under the store failed", exc_info=exc)
            self._failed = True
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._broken.set)
            return Unavailable("the hub's disk failed")
        return exc

    def _is_shortage(self, exc: BaseException) -> bool:
        """True: what SQLite takes for a failure is a disk without room, too."""
        code = getattr(exc, "extendedresult", 0)
        return code == apsw.SQLITE_IOERR_SHMSIZE or (
            code == apsw.SQLITE_IOERR_WRITE and self._writer.system_errno in _NO_ROOM
        )

    def _start(self) -> None:
        if not self._inline:
            self._thread.start()

    async def _close(self) -> None:
        if not self._inline:
            with self._wake:
                self._closing = True
                self._wake.notify()
            await trio.to_thread.run_sync(self._thread.join)
        for connection in [*self._readers, self._writer]:
            with contextlib.suppress(apsw.Error):  # of a disk that failed, which was said before
                connection.close()


def _nobody_listens(_subject: str) -> None:
    """Before `listen`."""


def _nobody_makes_room() -> bool:
    return False


async def _wait_done() -> None:
    """Wait for `_reschedule`, also when cancelled."""
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


def _reschedule(units: list[_Unit]) -> None:
    for unit in units:
        trio.lowlevel.reschedule(unit.task)


def _connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    try:
        _set_up(connection)
    except BaseException:
        with contextlib.suppress(apsw.Error):
            connection.close()
        raise
    return connection


def _set_up(connection: apsw.Connection) -> None:
    connection.set_busy_timeout(_BUSY_MS)
    # Else SQLite, which looks into its statistics for the values that a range is asked for, plans a
    # statement anew whenever they change: that took half of the time of recording a command.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.execute(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
        "PRAGMA temp_store = MEMORY"
    ).fetchall()  # the driver stops at each row that a statement answers


@contextlib.asynccontextmanager
async def open_store(
    data_dir: Path,
    *,
    inline: bool = False,
    checkpoint_pages: int = _CHECKPOINT_PAGES,
    is_trial: bool = False,
) -> AsyncIterator[Store]:
    """The store in `data_dir`, brought up to this version's schema.

    `inline` runs everything in the calling task, for tests under a mock clock.
    `checkpoint_pages`: so many pages of the log are moved to the database at a time. `is_trial`:
    none are, and nothing is lost by it that `trial.take_back` does not drop.

    Raises:
        StartupError: the store was written by a newer version, or it is none.
    """
    path = data_dir / DATABASE_FILE
    try:
        path.touch(mode=0o600)  # SQLite gives its side files the mode of this one
        store = Store(path, inline=inline, checkpoint_pages=checkpoint_pages, is_trial=is_trial)
    except (OSError, apsw.Error) as exc:
        raise StartupError(f"cannot open the store {path}: {exc}") from exc
    try:
        store._start()  # noqa: SLF001 - the two are one
        await store.run(migrate.to_latest)
        yield store
    finally:
        with trio.CancelScope(shield=True):
            await store._close()  # noqa: SLF001
