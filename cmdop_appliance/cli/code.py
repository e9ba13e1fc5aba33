"""`cmdop code`: an AI coding agent on a machine."""

import sys

import click

from cmdop_appliance.cli.attaching import attach, detach_key_option
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.detach_key import DetachKey
from cmdop_appliance.cli.follow import FollowingCommand
from cmdop_appliance.cli.local_terminal import LocalTerminal
from cmdop_appliance.cli.machine_names import MachineName
from cmdop_appliance.cli.targets import find_machine, require_connected
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import Client


@click.command("code", cls=FollowingCommand)
@client_options
@click.argument("machine", type=MachineName())
@click.argument("directory", metavar="DIR")
@click.option(
    "--agent",
    default="claude",
    show_default=True,
    help="Or codex, cursor, gemini, opencode, or what the machine's agent.toml adds.",
)
@click.option("--model", metavar="M", help="As the agent calls it. Default: its own.")
@click.option("--worktree", metavar="NAME", help="Work in a new git worktree beside DIR.")
@click.option("--yolo", is_flag=True, help="It asks nobody before it does things.")
@click.option("--detach", is_flag=True, help="Only start it, and print its id.")
@detach_key_option
def code(
    client: Client,
    machine: str,
    directory: str,
    agent: str,
    model: str | None,
    worktree: str | None,
    detach_key: DetachKey,
    *,
    yolo: bool,
    detach: bool,
) -> int:
    """Start an AI coding agent in DIR on MACHINE, and sit down at it.

    DIR is one of the machine's: absolute, or '~/…' in quotes, for its user's home; it is made if it
    is missing. The session runs on when you leave it; cmdop sessions ls says when it waits for you.

    Exit codes are those of cmdop connect.
    """
    local = None if detach else LocalTerminal(otherwise="--detach needs none")
    found = find_machine(client, machine)
    require_connected(found)
    session_id = client.coding.spawn(
        found["id"], directory, agent=agent, model=model, yolo=yolo, worktree=worktree
    )
    if local is None:
        print(visible(session_id))
        return 0
    terminal = client.terminals.get(session_id)
    if (made := terminal["worktree"]) is not None:
        said = f"in {made['path']}, on the new branch {made['branch']}"
        print(visible(said), file=sys.stderr)
    return attach(client, local, terminal, found["name"], detach_key, is_new=True)
