"""What the hub holds for certain of an output: small streams whole, large ones as files."""

from cmdop_appliance.model import Record
from cmdop_appliance.protocol.frames import StreamName
from cmdop_appliance.store.transaction import Tx, brief, reads


class StoredStream(Record, frozen=True, kw_only=True):
    """One stream. `content` is None when its bytes are in a file, or forgotten.

    `stored_bytes` is all that was taken; beyond `max_bytes`, its middle is not kept.
    """

    stream: StreamName
    stored_bytes: int
    max_bytes: int
    content: bytes | None
    is_forgotten: bool


class Leftover(Record, frozen=True, kw_only=True):
    """A stream that is forgotten, and whose file is to be deleted."""

    command_id: str
    stream: StreamName


def save(
    tx: Tx,
    command_id: str,
    stream: StreamName,
    stored_bytes: int,
    content: bytes | None,
    *,
    max_bytes: int,
) -> None:
    """Record how much of a stream is safe; `content` None: a file holds it, already synced.

    A stream only grows: an older, shorter state changes nothing.
    """
    tx.execute(
        "INSERT INTO output (command_id, stream, stored_bytes, max_bytes, content)"
        " VALUES (:command_id, :stream, :stored_bytes, :max_bytes, :content)"
        " ON CONFLICT (command_id, stream) DO UPDATE"
        " SET stored_bytes = excluded.stored_bytes, content = excluded.content"
        " WHERE output.stored_bytes <= excluded.stored_bytes",
        command_id=command_id,
        stream=stream,
        stored_bytes=stored_bytes,
        max_bytes=max_bytes,
        content=content,
    )


@reads
def of_command(tx: Tx, command_id: str) -> dict[StreamName, StoredStream]:
    """The streams of a command that are not empty."""
    rows = tx.all(
        StoredStream,
        "SELECT stream, stored_bytes, max_bytes, content, is_forgotten FROM output"
        " WHERE command_id = :command_id",
        command_id=command_id,
    )
    return {row.stream: row for row in rows}


@reads
def is_final(tx: Tx, command_id: str) -> bool:
    """True: the command has ended, its output grows no more."""
    return bool(
        tx.value("SELECT finished_ms IS NOT NULL FROM command WHERE id = :id", id=command_id)
    )


def forget(tx: Tx, command_id: str) -> None:
    """Keep of what an ended command wrote only how much it was.

    Its files are left over, and deleted once this is committed: `leftovers`.
    """
    tx.execute(
        "UPDATE output SET is_forgotten = 1, content = NULL,"
        " is_leftover = CASE WHEN content IS NULL THEN 1 ELSE 0 END"
        " WHERE command_id = :command_id AND is_forgotten = 0",
        command_id=command_id,
    )


@brief
@reads
def leftovers(tx: Tx, most: int) -> list[Leftover]:
    """Some of the streams whose files are to be deleted."""
    return tx.all(
        Leftover,
        "SELECT command_id, stream FROM output WHERE is_leftover = 1"
        " ORDER BY command_id LIMIT :most",
        most=most,
    )


def deleted(tx: Tx, streams: list[Leftover]) -> None:
    """Record that the files of these are no more."""
    for each in streams:
        tx.execute(
            "UPDATE output SET is_leftover = 0 WHERE command_id = :command_id AND stream = :stream",
            command_id=each.command_id,
            stream=each.stream,
        )
