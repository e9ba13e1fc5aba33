"""`cmdop upgrade`: a release for the hub itself, and then for its machines."""

import sys
import time
from pathlib import Path
from typing import Final

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import Hub, client_options, hub_options, open_client
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.names import Names
from cmdop_appliance.cli.output import output_option, show
from cmdop_appliance.cli.progress import Progress, StatusLine
from cmdop_appliance.cli.targets import find_machines
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.types import MachineUpgrade, Upgrade

# A hub that tries a release is away for a minute at the most; a slow disk takes its time before.
_HUB_S: Final = 600.0
_LOOK_S: Final = 0.5
_GOOD: Final = ("healthy",)
_BAD: Final = ("refused", "failed", "rolled_back")


class _UpgradeGroup(click.Group):
    """`cmdop upgrade FILE` without another word begins one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Like click's, with `begin` in front of a file."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["begin", *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Those that go with a file, and the commands."""
        self.commands["begin"].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=_UpgradeGroup, subcommand_metavar="FILE | COMMAND [ARGS]...")
def upgrade() -> None:
    """Upgrade the hub and its machines to the release in FILE, a bundle that its maker signed.

    Commands and terminals run on. A hub or a machine on which the new release is not healthy goes
    on with the one that it has.
    """


@upgrade.command("begin", hidden=True)
@hub_options
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--check", is_flag=True, help="Only have the hub look whether it would take it.")
@click.option("--hub-only", is_flag=True, help="The hub, and no machine.")
@click.option("--machines", type=Names(), metavar="A,B", help="The hub, and only these machines.")
@click.option("--detach", is_flag=True, help="Do not wait for its end: cmdop upgrade status tells.")
def begin(
    hub: Hub,
    file: Path,
    *,
    check: bool,
    hub_only: bool,
    machines: list[str] | None,
    detach: bool,
) -> int:
    """Upgrade the hub and its machines to the release in FILE."""
    if hub_only and machines:
        raise click.UsageError("--hub-only and --machines exclude each other")
    with (
        open_client(hub, timeout_s=_HUB_S) as client,
        file.open("rb") as bundle,
        Progress(file.name, quiet=False) as progress,
    ):
        if check:
            found = client.upgrades.check(bundle, progress=progress)
            progress.clear()
            what = "runs it already" if found["is_running"] else f"runs {found['running_version']}"
            print(visible(f"{file.name} is good: release {found['version']}; the hub {what}"))
            return 0
        ids = [each["id"] for each in find_machines(client, *machines)] if machines else None
        begun = client.upgrades.start(bundle, hub_only=hub_only, machine_ids=ids, progress=progress)
        progress.clear()
        print(f"{begun['id']}: to release {visible(begun['version'])}", file=sys.stderr)
        return 0 if detach else _follow(client, begun["id"])


def _follow(client: Client, upgrade_id: str) -> int:
    """Tell how far it is until it ends; the exit code."""
    said: set[str] = set()

    def say(line: str) -> None:
        if line not in said:
            said.add(line)
            shown.clear()
            print(visible(line), file=sys.stderr)

    with StatusLine() as shown:
        while True:
            now = client.upgrades.get(upgrade_id)
            if now["status"] == "failed":
                raise Failure(
                    f"not upgraded: {now['reason']}",
                    exit_code=failures.OTHER,
                    hint=f"cmdop upgrade status {upgrade_id}",
                )
            if now["hub_upgraded_at"] is not None:
                say(f"the hub runs {now['version']}")
                machines = list(client.upgrades.machines(upgrade_id))
                for each in machines:
                    if each["state"] in (*_GOOD, *_BAD):
                        say(_line(each))
                code = failures.OTHER if any(m["state"] in _BAD for m in machines) else 0
                if now["status"] != "machines":
                    return code
                under_way = [m for m in machines if m["state"] not in (*_GOOD, *_BAD)]
                if under_way and not any(each["online"] for each in under_way):
                    say(f"{len(under_way)} machines are away: they get it when they are back")
                    return code
            if shown.seconds_due() is not None:
                shown.show(_told(now), "")
            time.sleep(_LOOK_S)


def _line(machine: MachineUpgrade) -> str:
    why = f": {machine['reason']}" if machine["reason"] else ""
    return f"{machine['name']}: {machine['state'].replace('_', ' ')}{why}"


def _told(upgrade: Upgrade) -> str:
    who = "the hub" if upgrade["status"] == "hub" else "the machines"
    return f"{who}: on the way to {visible(upgrade['version'])}"


@upgrade.command("status")
@client_options
@output_option
@click.argument("upgrade_id", metavar="[ID]", required=False)
def status(client: Client, form: str | None, upgrade_id: str | None) -> None:
    """Show the upgrades, or what one has come to on each machine."""
    if upgrade_id is None:
        columns = ["id", "version", "status", "created_at", "finished_at", "reason"]
        show(list(client.upgrades.list()), columns, form)
        return
    machines = list(client.upgrades.machines(upgrade_id))
    show(machines, ["name", "state", "wave", "online", "changed_at", "reason"], form)
