"""What a backup takes out of the store: the database of one instant, and the files it names."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Self

import apsw

from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.model import Record
from cmdop_appliance.protocol.frames import StreamName
from cmdop_appliance.store.conditions import IS_OPEN
from cmdop_appliance.store.transaction import Tx, reads

# Pages that are copied at a time: 2 MB, some milliseconds of the disk.
_STEP_PAGES: Final = 512
_ROWS: Final = 1000


class Stream(Record, frozen=True, kw_only=True):
    """A stream of a command whose bytes are in a file."""

    command_id: str
    stream: StreamName
    stored_bytes: int
    max_bytes: int


@contextmanager
def failures() -> Iterator[None]:
    """Within, what is wrong with a database is told in words of ours.

    Raises:
        StorageFull: the copy has no room.
        Unavailable: the hub's database, or the copy, cannot be read.
    """
    try:
        yield
    except apsw.FullError as exc:
        raise StorageFull("the hub's disk is full", hint="free some space on the hub") from exc
    except apsw.Error as exc:
        raise Unavailable("the hub's database cannot be copied") from exc


@contextmanager
def opened(database: Path) -> Iterator[Tx]:
    """A database that no hub has, to be read."""
    with closing(apsw.Connection(str(database))) as connection:
        yield Tx(connection)


class Snapshot:
    """A copy of a database under way: whatever is written meanwhile is not in it.

    Its methods block, some milliseconds each: call them in threads, one after another.
    """

    def __init__(self, database: Path, to: Path) -> None:
        """Begin a copy at `to`, a new file. From this instant on nothing more comes into it."""
        to.touch(mode=0o600)
        self._database = database
        self._source = apsw.Connection(str(database))
        self._source.execute("PRAGMA query_only = ON; BEGIN")
        self._tx = Tx(self._source)
        # With the first read its instant is fixed.
        self.live = _open_streams(self._tx)  # which grow on
        self._target = apsw.Connection(str(to))
        # Nobody reads it before it is whole, and half of one is thrown away.
        pragmas = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF"
        self._target.execute(pragmas).fetchall()
        self._backup = self._target.backup("main", self._source, "main")
        self._file = os.open(to, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of both."""
        os.close(self._file)
        self._backup.close(True)
        self._target.close(True)
        self._source.close(True)

    def step(self) -> bool:
        """Copy some more. True: that was all, and the hub's database is left alone."""
        if not self._backup.done:
            self._backup.step(_STEP_PAGES)
            os.fdatasync(self._file)  # little by little: commits wait behind much at once
            return False
        self._backup.finish()
        self._source.execute("ROLLBACK")
        self._target.execute("PRAGMA journal_mode = DELETE").fetchall()  # one file, no log
        return True

    def stored_now(self, stream: Stream) -> int:
        """How much of a stream is safe by now, in the hub's database."""
        with closing(apsw.Connection(str(self._database))) as now:
            return int(
                Tx(now).value(
                    "SELECT stored_bytes FROM output"
                    " WHERE command_id = :command_id AND stream = :stream",
                    command_id=stream.command_id,
                    stream=stream.stream,
                )
            )

    @property
    def copy(self) -> Tx:
        """The copy, once it is whole."""
        return Tx(self._target)


def _open_streams(tx: Tx) -> list[Stream]:
    return tx.all(
        Stream,
        "SELECT output.command_id, output.stream, output.stored_bytes, output.max_bytes"  # noqa: S608
        " FROM command JOIN output ON output.command_id = command.id"
        f" WHERE {IS_OPEN} AND output.content IS NULL AND output.is_forgotten = 0",
    )


@reads
def streams(tx: Tx, after: tuple[str, str]) -> list[Stream]:
    """Some streams that are files, those behind (command, stream) `after`, in this order."""
    return tx.all(
        Stream,
        "SELECT command_id, stream, stored_bytes, max_bytes FROM output"
        " WHERE (command_id, stream) > (:command_id, :stream)"
        " AND content IS NULL AND is_forgotten = 0 ORDER BY command_id, stream LIMIT :most",
        command_id=after[0],
        stream=after[1],
        most=_ROWS,
    )


def cut(tx: Tx, stream: Stream, stored_bytes: int) -> None:
    """Record that of a stream only so much is here: its machine sends the rest again."""
    tx.execute(
        "UPDATE output SET stored_bytes = :stored_bytes"
        " WHERE command_id = :command_id AND stream = :stream",
        command_id=stream.command_id,
        stream=stream.stream,
        stored_bytes=stored_bytes,
    )


@reads
def schema(tx: Tx) -> int:
    """The number of the last migration."""
    return int(tx.value("SELECT max(number) FROM migration"))


@reads
def tables(tx: Tx) -> dict[str, int]:
    """How many rows each table has."""
    names = tx.value(
        "SELECT group_concat(name) FROM sqlite_master"
        " WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    )
    return {
        name: tx.value(f"SELECT count(*) FROM {name}")  # noqa: S608 - names of our own
        for name in sorted(names.split(","))
    }


@reads
def lists(tx: Tx) -> dict[str, int]:
    """How many records the lists of the API have, of all workspaces together."""
    return {
        "machines": tx.value("SELECT count(*) FROM machine WHERE removed_ms IS NULL"),
        **{
            f"{name}s": tx.value(f"SELECT count(*) FROM {name}")  # noqa: S608 - names of our own
            for name in ("command", "session", "schedule", "webhook")
        },
    }
