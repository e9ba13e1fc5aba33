"""Which machine, or machines, a person means."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.names import split
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.types import Machine

_TAG: Final = "tag:"
_LISTED: Final = 5  # candidates named in one error message


def find_machine(client: Client, wanted: str) -> Machine:
    """The one machine that `wanted` names. Raises: see `pick`."""
    return pick(wanted, list(client.machines.list()))


def is_selector(wanted: str) -> bool:
    """True: it may fit any number of machines, by tags (`tag:a,b`) or by a pattern (`web-*`)."""
    return wanted.startswith(_TAG) or any(char in wanted for char in "*?[")


def split_target(text: str) -> tuple[str, str] | None:
    """(the machine or selector that `WANTED:PATH` begins with, its path); None: it is a path only.

    As with scp, what has a slash before its first colon is one, and so is what begins with a colon.
    """
    tagged = text.startswith(_TAG) and ":" in text.removeprefix(_TAG).partition("/")[0]
    tag = _TAG if tagged else ""
    head, colon, path = text.removeprefix(tag).partition(":")
    wanted = tag + head
    return (wanted, path) if wanted and colon and "/" not in wanted else None


def find_machines(client: Client, wanted: str) -> list[Machine]:
    """All machines that a selector fits, by name: those with all of its tags, or by a pattern.

    Raises:
        Failure: there is none.
    """
    if wanted.startswith(_TAG):
        tags = split(wanted.removeprefix(_TAG))
        if not tags:  # most likely a variable of a script that is not set: it must not mean all
            raise Failure(f'no tag is given in "{wanted}"', exit_code=failures.USAGE)
        found = list(client.machines.list(tags=tags))
    else:
        found = [m for m in client.machines.list() if fnmatchcase(m["name"], wanted)]
    if not found:
        raise Failure(
            f'no machine fits "{wanted}"', exit_code=failures.NOT_FOUND, hint="cmdop machines ls"
        )
    return sorted(found, key=lambda machine: machine["name"])


def pick(wanted: str, machines: Sequence[Machine]) -> Machine:
    """By id, else by name, else by host name, else by the beginning of any of them.

    Raises:
        Failure: none fits, or more than one does.
    """
    ways: list[Callable[[Machine], bool]] = [
        lambda machine: machine["id"] == wanted,
        lambda machine: machine["name"] == wanted,
        lambda machine: machine["hostname"] == wanted,
        lambda machine: any(name.startswith(wanted) for name in _names(machine)),
    ]
    for fits in ways if wanted else []:
        found = [machine for machine in machines if fits(machine)]
        if len(found) == 1:
            return found[0]
        if found:
            raise _ambiguous(wanted, found)
    raise _unknown(wanted, machines)


def _names(machine: Machine) -> list[str]:
    return [name for name in (machine["id"], machine["name"], machine["hostname"]) if name]


def _ambiguous(wanted: str, found: Sequence[Machine]) -> Failure:
    listed = [f"{machine['name']} ({machine['id']})" for machine in found[:_LISTED]]
    more = ["…"] if len(found) > _LISTED else []
    return Failure(
        f'"{wanted}" fits {len(found)} machines: {", ".join(listed + more)}',
        exit_code=failures.USAGE,
        hint="use the id",
    )


def _unknown(wanted: str, machines: Sequence[Machine]) -> Failure:
    from difflib import get_close_matches  # 5 ms, which only a typing error costs

    close = get_close_matches(wanted, [name for machine in machines for name in _names(machine)])
    return Failure(
        f'machine "{wanted}" not found',
        exit_code=failures.NOT_FOUND,
        did_you_mean=close[0] if close else "",
        hint="cmdop machines ls" if machines else "add one: cmdop machines add",
    )
