"""What commands share that attach to a terminal of a machine."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from cmdop_appliance.cli.detach_key import DEFAULT, DetachKey, DetachKeyType
from cmdop_appliance.cli.local_terminal import LocalTerminal
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.terminal_types import Terminal

F = TypeVar("F", bound=Callable[..., Any])


def detach_key_option(command: F) -> F:
    """Give a command --detach-key."""
    return click.option(
        "--detach-key",
        type=DetachKeyType(),
        default=DEFAULT,
        show_default=DEFAULT.name,
        envvar="CMDOP_DETACH_KEY",
        metavar="KEY",
        help="Leaves the terminal; pressed twice, it is typed once. Such as ^], ctrl-x, alt-q.",
    )(command)


def attach(
    client: Client,
    local: LocalTerminal,
    terminal: Terminal,
    where: str,
    key: DetachKey,
    *,
    observe: bool = False,
    is_new: bool = False,
) -> int:
    """Show a terminal and type there, until it ends or the key is pressed; the exit code.

    `where`: what its machine is called. `is_new`: nothing was written there before.

    Raises:
        Failure: it ended without an exit code.
        APIError: the hub refused.
    """
    from cmdop_appliance.cli.attachment import Attachment  # websockets, which only this needs

    cols, rows = local.size
    with client.terminals.attach(
        terminal["id"],
        mode="observer" if observe else "operator",
        cols=cols,
        rows=rows,
        patience_s=math.inf,  # somebody sits here, and decides
    ) as socket:
        return Attachment(local, socket, terminal, where, key, observe=observe, is_new=is_new).run()
