"""How a command shall run, as options: what `exec` and `run` share."""

from typing import Final

import click

from cmdop_appliance.cli.durations import Duration
from cmdop_appliance.cli.failures import USAGE, Failure
from cmdop_appliance.cli.options import with_options
from cmdop_appliance.cli.words import variables
from cmdop_appliance.sdk.types import CommandOptions

_EXECUTION: Final = (
    click.option("--timeout", type=Duration(), help="End the command after this: 30s, 5m, 1h."),
    click.option("--cwd", metavar="DIR", help="Working directory on the machine."),
    click.option("--env", metavar="K=V", multiple=True, help="Set a variable; may be repeated."),
    click.option("--user", help="Run as this user of the machine."),
    click.option("--queue", is_flag=True, help="If the machine is away, wait for it."),
    click.option("--queue-timeout", type=Duration(), help="Not for longer than this: 2h, 7d."),
)
execution_options: Final = with_options(_EXECUTION)


def execution(
    *,
    timeout: int | None,
    cwd: str | None,
    env: tuple[str, ...],
    user: str | None,
    queue: bool,
    queue_timeout: int | None,
) -> CommandOptions:
    """What these options say.

    Raises:
        Failure: a variable is none, or a time is given that nothing waits for.
    """
    if queue_timeout is not None and not queue:
        raise Failure("--queue-timeout needs --queue", exit_code=USAGE)
    return {
        "timeout_ms": timeout,
        "cwd": cwd,
        "env": variables(env) or None,
        "user": user,
        "queue": queue or None,
        "queue_timeout_ms": queue_timeout,
    }
