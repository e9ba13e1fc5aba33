"""`cmdop backup` and `cmdop restore`: all that a hub knows, as one file, and a hub out of it."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import client_options, group_options
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.private import sync_directory

if TYPE_CHECKING:
    from cmdop_appliance.archives import Head
    from cmdop_appliance.sdk import Client

_FILE = click.argument("file", type=click.Path(path_type=Path))


class _BackupGroup(click.Group):
    """`cmdop backup FILE` without another word makes one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = (*self.commands, *ctx.help_option_names)
        if args and args[0] not in known:
            args = ["make", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_BackupGroup, subcommand_metavar="FILE | COMMAND [ARGS]...")
def backup() -> None:
    """Write all that the hub knows to a new FILE, while it goes on.

    Who has the file has the keys to all machines: it is readable by you alone, and should stay so.
    """


@backup.command("make", hidden=True)
@client_options
@_FILE
def make(client: "Client", file: Path) -> None:
    """Write all that the hub knows to a new FILE, while it goes on."""
    from cmdop_appliance.archives import read_head  # 20 ms, which only a backup costs

    if file.exists():
        raise Failure(f"{file} is there already", exit_code=failures.USAGE, hint="name a new file")
    if not file.parent.is_dir():
        raise Failure(f"there is no directory {file.parent}", exit_code=failures.USAGE)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with _failures():
            _write(client, part)
            head = read_head(part)
            part.rename(file)
            sync_directory(file.parent)
    finally:
        part.unlink(missing_ok=True)
    print(f"{file}: {file.stat().st_size} bytes, {_contents(head)}")
    print(f"try it out: cmdop backup verify {file}")


def _write(client: "Client", path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as to, closing(client.backup()) as pieces:
        for piece in pieces:
            to.write(piece)
        to.flush()
        os.fsync(handle)


@backup.command("verify")
@_FILE
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where to unpack it for a moment. Default: where temporary files are.",
)
def verify(file: Path, scratch: Path | None) -> None:
    """Boot a hub from FILE, where nobody finds it, and count what it has.

    It needs no hub that runs, and does nothing: no schedule fires, no webhook is told.
    """
    from cmdop_appliance import restoring  # trio and quart: 0.4 s

    with _failures():
        found = restoring.verify(file, scratch)
    print(f"{file} is whole: {_contents(found.head)}")
    print(f"a hub from it counts the same, with {found.audit_entries} entries of its audit log")


@click.command()
@_FILE
@click.option("--data-dir", type=click.Path(path_type=Path), help="A new or empty directory.")
def restore(file: Path, data_dir: Path | None) -> None:
    """Make a data directory out of a backup, for `cmdop serve`."""
    from cmdop_appliance import restoring  # trio and quart: 0.4 s

    place = data_dir or group_options().data_dir
    if place is None:
        raise Failure("no directory is named", exit_code=failures.USAGE, hint="--data-dir DIR")
    with _failures():
        head = restoring.restore(file, place)
    print(f"{place}: {_contents(head)}")
    print("Before you start it: the hub that the backup is of must not run any more.")
    print(f"  cmdop serve --data-dir {place}      and with the settings of that hub")
    print("Since then a key that was revoked is good again: cmdop auth list-keys.")
    print("Machines that joined since then have to join anew. The rest: /help/backup of the hub.")


@contextmanager
def _failures() -> Iterator[None]:
    """What the system refuses is told with the file's name."""
    try:
        yield
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        raise Failure(f"{where}{exc.strerror}", exit_code=failures.OTHER) from exc


def _contents(head: "Head") -> str:
    made = datetime.fromtimestamp(head.created_ms / 1000, UTC)
    counted = ", ".join(f"{number} {name}" for name, number in head.lists.items())
    return f"{counted}; as of {made:%Y-%m-%dT%H:%M:%SZ}, by cmdop {head.version}"
