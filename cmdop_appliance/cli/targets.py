"""Which machine or machines, or which other thing, a person means."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, TypeVar

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.follow import OURS
from cmdop_appliance.cli.names import split
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.types import Machine

R = TypeVar("R", bound=Mapping[str, object])

_ALL: Final = "@all"
_TAG: Final = "tag:"
_LISTED: Final = 5  # candidates named in one error message


def find_machine(client: Client, wanted: str) -> Machine:
    """The one machine that `wanted` names. Raises: see `pick`."""
    return pick(wanted, list(client.machines.list()))


def require_connected(machine: Machine) -> None:
    """Pass if something can be opened on a machine now: the hub's own refusal is waited out.

    Raises:
        Failure: it is not connected.
    """
    if machine["status"] != "online":
        raise Failure(
            f"{machine['name']} is not connected",
            exit_code=OURS,
            hint="is it up, and does its agent run? there: cmdop agent status",
        )


def is_selector(wanted: str) -> bool:
    """True: it may fit any number of machines: `@all`, tags (`tag:a,b`), or a pattern (`web-*`)."""
    return wanted == _ALL or wanted.startswith(_TAG) or any(char in wanted for char in "*?[")


def split_target(text: str) -> tuple[str, str] | None:
    """(the machine or selector that `WANTED:PATH` begins with, its path); None: it is a path only.

    As with scp, what has a slash before its first colon is one, and so is what begins with a colon.
    """
    tagged = text.startswith(_TAG) and ":" in text.removeprefix(_TAG).partition("/")[0]
    tag = _TAG if tagged else ""
    head, colon, path = text.removeprefix(tag).partition(":")
    wanted = tag + head
    return (wanted, path) if wanted and colon and "/" not in wanted else None


def find_machines(client: Client, *wanted: str) -> list[Machine]:
    """All machines that any of these selectors or names fits, each once, by name.

    Raises:
        Failure: one of them fits none, or is a name that could be several machines'.
    """
    machines = list(client.machines.list())
    found = {machine["id"]: machine for each in wanted for machine in _fitting(each, machines)}
    return sorted(found.values(), key=lambda machine: machine["name"])


def _fitting(wanted: str, machines: Sequence[Machine]) -> list[Machine]:
    if not is_selector(wanted):
        return [pick(wanted, machines)]
    if wanted == _ALL:
        found = [*machines]
    elif wanted.startswith(_TAG):
        tags = {*split(wanted.removeprefix(_TAG))}
        if not tags:  # most likely a variable of a script that is not set: it must not mean all
            raise Failure(f'no tag is given in "{wanted}"', exit_code=failures.USAGE)
        found = [machine for machine in machines if tags <= {*machine["tags"]}]
    else:
        found = [machine for machine in machines if fnmatchcase(machine["name"], wanted)]
    if not found:
        raise Failure(
            f'no machine fits "{wanted}"', exit_code=failures.NOT_FOUND, hint="cmdop machines ls"
        )
    return found


def pick(wanted: str, machines: Sequence[Machine]) -> Machine:
    """By id, else by name, else by host name, else by the beginning of any of them.

    Raises:
        Failure: none fits, or more than one does.
    """
    return pick_by(("id", "name", "hostname"), wanted, machines, "machine", "cmdop machines add")


def pick_by(keys: Sequence[str], wanted: str, records: Sequence[R], kind: str, add: str) -> R:
    """By the first of `keys` that has this value anywhere, else by the beginning of any of them.

    The second of `keys` is what people call a record. `kind` is what all are called, and `add`
    makes the first of them.

    Raises: as `pick`.
    """

    def has_value(key: str) -> Callable[[R], bool]:
        return lambda record: record[key] == wanted

    def begins(record: R) -> bool:
        return any(name.startswith(wanted) for name in _names(keys, record))

    for fits in [*map(has_value, keys), begins] if wanted else []:
        found = [record for record in records if fits(record)]
        if len(found) == 1:
            return found[0]
        if found:
            listed = [f"{record[keys[1]]} ({record['id']})" for record in found]
            raise _ambiguous(wanted, listed, kind)
    raise _unknown(wanted, [name for record in records for name in _names(keys, record)], kind, add)


def _names(keys: Sequence[str], record: Mapping[str, object]) -> list[str]:
    return [str(record[key]) for key in keys if record[key]]


def _ambiguous(wanted: str, found: Sequence[str], kind: str) -> Failure:
    more = ["…"] if len(found) > _LISTED else []
    return Failure(
        f'"{wanted}" fits {len(found)} {kind}s: {", ".join([*found[:_LISTED], *more])}',
        exit_code=failures.USAGE,
        hint="use the id",
    )


def _unknown(wanted: str, names: Sequence[str], kind: str, add: str) -> Failure:
    from difflib import get_close_matches  # 5 ms, which only a typing error costs

    close = get_close_matches(wanted, names)
    return Failure(
        f'{kind} "{wanted}" not found',
        exit_code=failures.NOT_FOUND,
        did_you_mean=close[0] if close else "",
        hint=f"cmdop {kind}s ls" if names else f"add one: {add}",
    )
