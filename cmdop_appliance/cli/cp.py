"""`cmdop cp`: files to and from machines."""

import queue
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.copying import Copying
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.machine_names import AnyPlace
from cmdop_appliance.cli.output import show
from cmdop_appliance.cli.places import Remote, read_place
from cmdop_appliance.cli.targets import find_machine, find_machines, is_selector
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.types import Machine

_AT_A_TIME: Final = 4  # machines that one file goes to: what a hub's link can usually feed
_SHA256_SHOWN: Final = 12  # characters: enough to see that two are the same
_STDIO: Final = "-"


@click.command("cp")
@client_options
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["table", "json", "jsonl"]),
    help="A record for each file. Default: nothing, or a line for each of many machines.",
)
@click.option("-r", "--recursive", is_flag=True, help="Copy directories, with all in them.")
@click.option("-q", "--quiet", is_flag=True, help="Do not show how far it is.")
@click.argument("sources", nargs=-1, required=True, type=AnyPlace(), metavar="SOURCE…")
@click.argument("destination", type=AnyPlace())
def copy_files(
    client: Client,
    form: str | None,
    sources: tuple[str, ...],
    destination: str,
    *,
    recursive: bool,
    quiet: bool,
) -> int:
    """Copy files to or from a machine, or to many.

    One side is MACHINE:PATH, the other a path here, or - for standard input or output. A path
    without a leading slash counts from the home of the agent's user. What stops in the middle
    goes on there when the same command is run again.

    \b
    cmdop cp backup.tar nas:/srv/backup/
    cmdop cp -r nas:/etc/nginx .
    cmdop cp hosts tag:web:/etc/hosts          every machine with this tag, 4 at a time
    cmdop cp hosts 'web-*:/etc/hosts'          every machine whose name fits

    Exits 1 if something was not copied.
    """
    froms, to = [read_place(source) for source in sources], read_place(destination)
    try:
        if to is not None:
            if any(froms):
                raise Failure(
                    "both sides are on machines",
                    exit_code=failures.USAGE,
                    hint="on one machine: cmdop files cp; between two: copy it here, and from here",
                )
            if is_selector(to.machine):
                return _to_many(client, sources, to, form, recursive=recursive)
            copying = _begin(client, to.machine, recursive=recursive, quiet=quiet)
            if _STDIO in sources:
                _require_one(sources)
                copying.send_stream(to.path)
            else:
                copying.send_all(sources, to.path)
        else:
            copying = _fetch(client, froms, sources, destination, recursive=recursive, quiet=quiet)
    except KeyboardInterrupt:
        if _STDIO in (*sources, destination):
            raise
        print("interrupted; the same command again goes on from here", file=sys.stderr)
        return failures.INTERRUPTED
    if form is not None and destination != _STDIO:
        show(copying.records, ["source", "destination", "size", "sha256", "error"], form)
    return copying.exit_code


def _begin(client: Client, machine: str, *, recursive: bool, quiet: bool) -> Copying:
    found = find_machine(client, machine)
    return Copying(client, found, recursive=recursive, quiet=quiet, aloud=True)


def _fetch(
    client: Client,
    froms: Sequence[Remote | None],
    sources: tuple[str, ...],
    destination: str,
    *,
    recursive: bool,
    quiet: bool,
) -> Copying:
    places = [place for place in froms if place is not None]
    if not places:
        raise Failure(
            "no machine is named, on neither side",
            exit_code=failures.USAGE,
            hint="write MACHINE:PATH for what is on a machine",
        )
    if len(places) < len(sources):
        raise Failure("sources are here and on a machine, too", exit_code=failures.USAGE)
    machines = {place.machine for place in places}
    if len(machines) > 1 or any(map(is_selector, machines)):
        raise Failure(
            "files come from one machine at a time",
            exit_code=failures.USAGE,
            hint="one cmdop cp for each machine, into a directory of its own",
        )
    copying = _begin(client, machines.pop(), recursive=recursive, quiet=quiet)
    if destination == _STDIO:
        _require_one(sources)
        copying.fetch_to_stdout(places[0].path)
    else:
        copying.fetch_all([place.path for place in places], destination)
    return copying


def _to_many(
    client: Client, sources: tuple[str, ...], to: Remote, form: str | None, *, recursive: bool
) -> int:
    if _STDIO in sources:
        raise Failure(
            "standard input can be read once, and so go to one machine only",
            exit_code=failures.USAGE,
        )
    machines = find_machines(client, to.machine)

    def send(machine: Machine) -> list[dict[str, Any]]:
        with client.copy() as own:
            copying = Copying(own, machine, recursive=recursive, quiet=True, aloud=False)
            copying.send_all(sources, to.path)
            return copying.records

    found = _on_each(machines, send)
    records = [record for machine in machines for record in found[machine["id"]]]
    if form in ("json", "jsonl"):
        show(records, [], form)
    else:
        rows = [_row(machine, found[machine["id"]]) for machine in machines]
        show(rows, ["machine", "status", "files", "sha256", "note"], form)
    return failures.OTHER if any(record["error"] for record in records) else 0


def _on_each(
    machines: Sequence[Machine], send: Callable[[Machine], list[dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """What came of each machine, by its id.

    The threads die with the program: after Ctrl-C nobody waits for a machine that is away.
    """
    todo: queue.SimpleQueue[Machine] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, list[dict[str, Any]] | BaseException]] = queue.SimpleQueue()
    for machine in machines:
        todo.put(machine)

    def work() -> None:
        with suppress(queue.Empty):
            while True:
                machine = todo.get_nowait()
                try:
                    done.put((machine["id"], send(machine)))
                except BaseException as exc:  # noqa: BLE001 - it is raised where it is waited for
                    done.put((machine["id"], exc))

    for _ in range(min(_AT_A_TIME, len(machines))):
        threading.Thread(target=work, daemon=True).start()
    found = {}
    for _ in machines:
        machine_id, came = done.get()
        if isinstance(came, BaseException):
            raise came
        found[machine_id] = came
    return found


def _row(machine: Machine, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    errors = [record["error"] for record in records if record["error"]]
    sums = [record["sha256"] for record in records if record["sha256"]]
    return {
        "machine": machine["name"],
        "status": "failed" if errors else "ok",
        "files": len(sums),
        "sha256": sums[0][:_SHA256_SHOWN] if len(sums) == 1 else None,
        "note": "; ".join(errors) or None,
    }


def _require_one(sources: Sequence[str]) -> None:
    if len(sources) > 1:
        raise Failure("with - there is one source", exit_code=failures.USAGE)
