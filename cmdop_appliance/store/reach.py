"""What a caller may know of, as a condition in SQL."""

from typing import Any

from cmdop_appliance.auth import Reach
from cmdop_appliance.store.transaction import to_json


def within(
    reach: Reach, table: str, machine_id: str = "machine_id", *, by_index: bool = True
) -> tuple[str, dict[str, Any]]:
    """The condition that holds a query on `table` to what is in reach, and its parameters.

    `machine_id` is the column of `table` that names the machine to which a row belongs. Without
    `by_index`, no index finds rows by their workspace: there is a better way to them.
    """
    workspace_id = f"{table}.workspace_id" if by_index else f"{table}.workspace_id || ''"
    conditions = [f"{workspace_id} = :workspace_id"]
    values: dict[str, Any] = {"workspace_id": reach.workspace_id}
    for number, tag in enumerate(reach.tags):
        conditions.append(
            "EXISTS (SELECT 1 FROM machine_tag"  # noqa: S608 - names of our own
            f" WHERE machine_tag.machine_id = {table}.{machine_id}"
            f" AND machine_tag.tag = :reach_{number})"
        )
        values[f"reach_{number}"] = tag
    return " AND ".join(conditions), values


def carrying(reach: Reach, table: str) -> tuple[str, dict[str, Any]]:
    """As `within`, for a table whose rows have tags of their own: they must carry the caller's."""
    conditions = [f"{table}.workspace_id = :workspace_id"]
    values: dict[str, Any] = {"workspace_id": reach.workspace_id}
    for number, tag in enumerate(reach.tags):
        conditions.append(carries(table, f"reach_{number}"))
        values[f"reach_{number}"] = to_json(tag)
    return " AND ".join(conditions), values


def carries(table: str, parameter: str) -> str:
    """The condition that a row of `table` has a tag, given as JSON."""
    # Not LIKE, which is of either case in SQLite.
    return f"replace({table}.tags_json, :{parameter}, '') <> {table}.tags_json"
