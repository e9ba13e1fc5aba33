"""Events: what happened, recorded in the transaction that made it happen."""

from typing import Any, Final

from cmdop_appliance.auth import Reach
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Event, EventType
from cmdop_appliance.store import outbox
from cmdop_appliance.store.reach import within
from cmdop_appliance.store.transaction import Tx, reads, to_json

# How long an event can be followed up: a week of holidays, as a reader of logs would expect.
KEPT_MS: Final = 7 * 86_400_000
# … and how many of a workspace at the most: about 1 GB.
KEPT_MOST: Final = 1_000_000
# Rows that one sweep drops: some milliseconds of the writer.
_FORGOTTEN: Final = 2000


def subject_of(workspace_id: str) -> str:
    """What is notified when a workspace has a new event."""
    return f"events.{workspace_id}"


def append(
    tx: Tx,
    workspace_id: str,
    kind: EventType,
    *,
    subject: str,
    data: dict[str, Any],
    now_ms: int,
    machine_id: str | None = None,
) -> None:
    """Record that something happened to `subject` (an id), on this machine if on any.

    Whatever is recorded, the webhooks that hear it will be told.
    """
    seq = tx.value(
        "UPDATE workspace SET event_seq = event_seq + 1 WHERE id = :id RETURNING event_seq",
        id=workspace_id,
    )
    event = Event(
        workspace_id=workspace_id,
        seq=seq,
        id=new_id("evt"),
        type=kind,
        subject=subject,
        machine_id=machine_id,
        data=data,
        created_ms=now_ms,
    )
    text = to_json(data)
    tx.execute(
        "INSERT INTO event (workspace_id, seq, id, type, subject, machine_id, data_json,"
        " created_ms) VALUES (:workspace_id, :seq, :id, :type, :subject, :machine_id, :data,"
        " :now_ms)",
        workspace_id=workspace_id,
        seq=seq,
        id=event.id,
        type=kind,
        subject=subject,
        machine_id=machine_id,
        data=text,
        now_ms=now_ms,
    )
    if seq > KEPT_MOST:
        tx.execute(
            "DELETE FROM event WHERE workspace_id = :workspace_id AND seq = :seq",
            workspace_id=workspace_id,
            seq=seq - KEPT_MOST,
        )
    outbox.enter(tx, event, text)
    tx.notify(subject_of(workspace_id))


@reads
def after(tx: Tx, reach: Reach, seq: int, most: int) -> list[Event]:
    """The next events of a workspace behind `seq`, oldest first, each with whether it is in reach.

    What is out of reach is there, too: numbers that are missing are those of events not kept.
    """
    is_within, values = within(reach, "event", "machine_id")
    return tx.all(
        Event,
        f"SELECT event.*, ({is_within}) AS is_within FROM event"  # noqa: S608 - names of our own
        " WHERE workspace_id = :workspace_id AND seq > :seq ORDER BY seq LIMIT :most",
        seq=seq,
        most=most,
        **values,
    )


@reads
def last_seq(tx: Tx, workspace_id: str) -> int:
    """The number of the newest event; 0 before the first."""
    return int(tx.value("SELECT event_seq FROM workspace WHERE id = :id", id=workspace_id))


def forget(tx: Tx, now_ms: int) -> None:
    """Drop some of what is older than is kept; called again and again, it drops all."""
    tx.execute(
        "DELETE FROM event WHERE (workspace_id, seq) IN"
        " (SELECT workspace_id, seq FROM event WHERE created_ms < :before"
        " ORDER BY created_ms LIMIT :most)",
        before=now_ms - KEPT_MS,
        most=_FORGOTTEN,
    )
