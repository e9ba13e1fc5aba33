"""`cmdop files`: what stands on the disks of machines."""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.failures import Failure, as_failure, report
from cmdop_appliance.cli.machine_names import MachinePlace
from cmdop_appliance.cli.output import output_option, show, show_one
from cmdop_appliance.cli.places import (
    Remote,
    below,
    is_directory,
    look,
    name_of,
    named_place,
    read_place,
    remote_place,
)
from cmdop_appliance.cli.targets import find_machine
from cmdop_appliance.cli.text import unicode_text
from cmdop_appliance.sdk import APIError, Client, Conflict, InvalidRequest, NotFound
from cmdop_appliance.sdk.file_paths import is_bytes


@click.group()
def files() -> None:
    """The files of machines. To copy from or to here: cmdop cp."""


@files.command("ls")
@client_options
@output_option
@click.option("-a", "--all", "hidden", is_flag=True, help="Also names that begin with a dot.")
@click.option("-l", "--long", is_flag=True, help="With mode, owner and group.")
@click.argument("place", type=MachinePlace(), metavar="MACHINE[:PATH]")
def list_files(client: Client, form: str | None, place: str, *, hidden: bool, long: bool) -> None:
    """List a directory; without PATH the home of the agent's user."""
    is_machine = not any(char in place for char in ":/")
    at = remote_place(f"{place}:" if is_machine else place)
    machine_id = find_machine(client, at.machine)["id"]
    found: Iterable[Mapping[str, Any]]
    try:
        found = list(client.files.list(machine_id, at.path, hidden=hidden))
    except InvalidRequest as exc:
        if exc.code != "not_a_directory":
            raise
        found = [client.files.stat(machine_id, at.path)]
    columns = ["name", "type", "size_bytes", "modified_at"]
    if long:
        columns = ["name", "type", "mode", "owner", "group", "size_bytes", "modified_at", "target"]
    rows = [_row(entry, form) for entry in found]
    show(rows, columns, form)


@files.command("stat")
@client_options
@output_option
@click.option("--checksum", is_flag=True, help="With the sha256; reads all of the file.")
@click.argument("place", type=MachinePlace(), metavar="MACHINE:PATH")
def stat_file(client: Client, form: str | None, place: str, *, checksum: bool) -> None:
    """Show what stands at a path; a link at its end is not followed."""
    at = remote_place(place)
    machine_id = find_machine(client, at.machine)["id"]
    found = client.files.stat(machine_id, at.path, checksum=checksum)
    record: dict[str, Any] = _as_answered(found)
    if form not in ("json", "jsonl"):
        record = {field: value for field, value in found.items() if not is_bytes(field)}
    show_one(record, form, name="path")


@files.command("cat")
@client_options
@click.argument("places", nargs=-1, required=True, type=MachinePlace(), metavar="MACHINE:PATH…")
def print_files(client: Client, places: tuple[str, ...]) -> int:
    """Print the bytes of files."""

    def print_one(machine_id: str, path: str) -> None:
        for piece in client.files.stream(machine_id, path):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()

    return _each(client, map(remote_place, places), print_one)


@files.command("rm")
@client_options
@click.option("-r", "--recursive", is_flag=True, help="Also directories, with all in them.")
@click.argument("places", nargs=-1, required=True, type=MachinePlace(), metavar="MACHINE:PATH…")
def remove_files(client: Client, places: tuple[str, ...], *, recursive: bool) -> int:
    """Take away files, links (never what they lead to) and empty directories."""

    def remove(machine_id: str, path: str) -> None:
        try:
            client.files.delete(machine_id, path, recursive=recursive)
        except Conflict as exc:
            if exc.code != "directory_not_empty" or recursive:
                raise
            raise Failure(
                f"{path} is a directory with something in it",
                exit_code=failures.OTHER,
                hint="-r removes it, with all in it",
            ) from exc

    return _each(client, map(named_place, places), remove)


@files.command("mkdir")
@client_options
@click.option("-p", "--parents", is_flag=True, help="Also those above; it may be there already.")
@click.argument("places", nargs=-1, required=True, type=MachinePlace(), metavar="MACHINE:PATH…")
def make_directories(client: Client, places: tuple[str, ...], *, parents: bool) -> int:
    """Make directories."""

    def make(machine_id: str, path: str) -> None:
        client.files.mkdir(machine_id, path, parents=parents)

    return _each(client, map(remote_place, places), make)


@files.command("mv")
@client_options
@click.option("-f", "--overwrite", is_flag=True, help="Replace what is there.")
@click.argument("source", type=MachinePlace(), metavar="MACHINE:SOURCE")
@click.argument("destination", type=MachinePlace(), metavar="[MACHINE:]DESTINATION")
def move_file(client: Client, source: str, destination: str, *, overwrite: bool) -> None:
    """Give a file or directory another path on its machine; into DESTINATION if that is one."""
    machine_id, path, target = _two(client, named_place(source), destination, overwrite=overwrite)
    client.files.move(machine_id, path, target, overwrite=overwrite)


@files.command("cp")
@client_options
@click.option("-f", "--overwrite", is_flag=True, help="Replace what is there.")
@click.option("-r", "--recursive", is_flag=True, help="Also a directory, with all in it.")
@click.argument("source", type=MachinePlace(), metavar="MACHINE:SOURCE")
@click.argument("destination", type=MachinePlace(), metavar="[MACHINE:]DESTINATION")
def copy_file(
    client: Client, source: str, destination: str, *, overwrite: bool, recursive: bool
) -> None:
    """Copy a file within its machine; into DESTINATION if that is a directory."""
    machine_id, path, target = _two(client, remote_place(source), destination, overwrite=overwrite)
    if not recursive and client.files.stat(machine_id, path)["type"] == "directory":
        raise Failure(f"{source} is a directory", exit_code=failures.OTHER, hint="-r copies it")
    client.files.copy(machine_id, path, target, overwrite=overwrite)


def _each(client: Client, places: Iterable[Remote], do: Callable[[str, str], None]) -> int:
    """Do it to each; what fails is told and passed over, and makes the exit code."""
    code = 0
    remotes = [*places]
    machines = {at.machine: find_machine(client, at.machine)["id"] for at in remotes}
    for at in remotes:
        try:
            do(machines[at.machine], at.path)
        except (APIError, Failure) as exc:
            if len(remotes) == 1:
                raise
            report(as_failure(exc) if isinstance(exc, APIError) else exc)
            code = failures.OTHER
    return code


def _two(client: Client, at: Remote, destination: str, *, overwrite: bool) -> tuple[str, str, str]:
    """(the machine's id, the one path, the other: in what it names if that is a directory).

    Raises:
        Failure: the other is a link to a directory, which `overwrite` is not meant for.
    """
    to = read_place(destination) or Remote(at.machine, destination)
    machine = find_machine(client, at.machine)
    if to.machine != at.machine and find_machine(client, to.machine)["id"] != machine["id"]:
        raise Failure(
            "source and destination are on two machines",
            exit_code=failures.USAGE,
            hint="copy it here with cmdop cp, and from here",
        )
    name = name_of(at.path)
    target = to.path
    if name and look(client.files, machine["id"], to.path)[0]:
        target = below(to.path, name)
    if overwrite:
        _require_no_way(client, machine["id"], target)
    return machine["id"], at.path, target


def _require_no_way(client: Client, machine_id: str, path: str) -> None:
    """What stands at a path is no link to a directory, such as /bin: much may depend on it."""
    try:
        there = client.files.stat(machine_id, path)
    except NotFound:
        return
    if there["type"] == "symlink" and is_directory(client.files, machine_id, there):
        raise Failure(
            f"{path} is a link to a directory, which -f does not replace",
            exit_code=failures.OTHER,
            hint="cmdop files rm takes it away",
        )


def _row(entry: Mapping[str, Any], form: str | None) -> Mapping[str, Any]:
    if form in ("json", "jsonl"):
        return _as_answered(entry)
    return {**entry, "size_bytes": entry["size"] if entry["type"] == "file" else None}


def _as_answered(record: Mapping[str, Any]) -> dict[str, Any]:
    """With text that every reader of JSON takes; what it is exactly is in `…_base64`."""
    return {
        field: unicode_text(value) if isinstance(value, str) else value
        for field, value in record.items()
    }
