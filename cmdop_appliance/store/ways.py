"""Ways to the commands of a page: which index finds them, and whether it has their order.

Along an index that has the order, the rows that were not asked for are passed over until the page
is full; or all that were asked for are found by what they have in common, and sorted. Without
statistics SQLite takes one or the other blindly. The tallies know which is shorter, and a condition
or an order that is an expression keeps an index out of it.
"""

from dataclasses import replace
from typing import Any, Final

from cmdop_appliance.auth import Reach
from cmdop_appliance.store import tallies
from cmdop_appliance.store.conditions import IS_OPEN
from cmdop_appliance.store.listing import Paging, in_order
from cmdop_appliance.store.reach import within
from cmdop_appliance.store.tallies import Asked
from cmdop_appliance.store.transaction import Tx

ORDER: Final = {
    "created_at": "command.created_ms",
    "finished_at": "command.finished_ms",
    "duration": "command.duration_ms",
}
# From here on it pays to ask the tallies where a page begins.
_GREAT_OFFSET: Final = 1000

Way = tuple[str, dict[str, Any]]  # all that follows WHERE, and its parameters


def way_to(tx: Tx, reach: Reach, asked: Asked, paging: Paging, total: int) -> Way:
    """The way to a page of the `total` commands in reach that are asked for."""
    by_age, has_owner = paging.field == "created_at", asked.has_owner
    if asked.batch_id is not None:
        return _to_all_of_owner(reach, asked, paging)
    if by_age and has_owner:
        return _along_owner(reach, asked, paging)
    by_age = by_age and not asked.has_many_statuses
    if by_age and not reach.tags:
        return _along_age(tx, reach, asked, paging)
    everybody = Reach(reach.workspace_id)
    passed = tallies.count(tx, everybody, asked if by_age else Asked())
    lengths = {"along": (paging.offset + paging.limit) * passed // total}
    if has_owner:
        lengths["owner"] = tallies.count(tx, reach, replace(asked, statuses=None))
    elif not by_age:
        lengths["filters"] = tallies.count(tx, everybody, asked)
    if reach.tags and not has_owner:
        lengths["machines"] = tallies.count(tx, reach, Asked())
    match min(lengths, key=lengths.__getitem__):
        case "along" if by_age:
            return _along_age(tx, reach, asked, paging)
        case "along":
            return _along_order(reach, asked, paging)
        case "owner":
            return _to_all_of_owner(reach, asked, paging)
        case "filters":
            return _to_all_of_workspace(reach, asked, paging)
        case _:
            return _to_all_of_machines(reach, asked, paging)


def _along_age(tx: Tx, reach: Reach, asked: Asked, paging: Paging) -> Way:
    """What the workspace has, by age; a great offset begins at its bucket."""
    is_within, reached = within(reach, "command")
    sql, values = asked.conditions()
    sql = f"{is_within} AND {sql}"
    order = in_order(ORDER["created_at"], paging)
    if paging.offset >= _GREAT_OFFSET and asked.since_ms is None and not reach.tags:
        workspace_id, offset = reach.workspace_id, paging.offset
        (status,) = asked.statuses or (None,)
        found = tallies.bucket_of(tx, workspace_id, status, offset, down=paging.down)
        if found is not None:
            bucket, before = found
            sql += f" AND command.created_ms {'<' if paging.down else '>='} :edge_ms"
            values["edge_ms"] = (bucket + paging.down) * tallies.BUCKET_MS
            values["offset"] = offset - before
    return f"{sql} {order}", reached | values


def _along_owner(reach: Reach, asked: Asked, paging: Paging) -> Way:
    """What a session or a machine has, by age."""
    is_within, reached = within(reach, "command", by_index=False)
    sql, values = asked.conditions()
    if asked.session_id is None and not asked.may_have_ended:
        sql = f"{IS_OPEN} AND {sql}"
    return f"{is_within} AND {sql} {in_order(ORDER['created_at'], paging)}", reached | values


def _along_order(reach: Reach, asked: Asked, paging: Paging) -> Way:
    """What the workspace has, in the order asked for."""
    is_within, reached = within(reach, "command")
    sql, values = asked.conditions(by_index=False)
    return f"{is_within} AND {sql} {in_order(ORDER[paging.field], paging)}", reached | values


def _to_all_of_owner(reach: Reach, asked: Asked, paging: Paging) -> Way:
    """All that a batch, a session or a machine has."""
    is_within, reached = within(reach, "command", by_index=False)
    sql, values = asked.conditions()
    return f"{is_within} AND {sql} {_sorted(paging)}", reached | values


def _to_all_of_workspace(reach: Reach, asked: Asked, paging: Paging) -> Way:
    """All that have this status since that time."""
    is_within, reached = within(reach, "command")
    sql, values = asked.conditions()
    return f"{is_within} AND {sql} {_sorted(paging)}", reached | values


def _to_all_of_machines(reach: Reach, asked: Asked, paging: Paging) -> Way:
    """All that the machines in reach have."""
    are_within, reached = within(reach, "machine", "id")
    sql, values = asked.conditions()
    sql += f" AND command.machine_id IN (SELECT id FROM machine WHERE {are_within})"  # noqa: S608
    return f"{sql} {_sorted(paging)}", reached | values


def _sorted(paging: Paging) -> str:
    return in_order(f"{ORDER[paging.field]} + 0", paging)
