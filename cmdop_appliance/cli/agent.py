"""`cmdop agent`: make this machine one of the hub's."""

from pathlib import Path

import click

from cmdop_appliance.cli.connection import group_options


@click.command()
@click.argument("start", required=False, type=click.Choice(["start"]), metavar="[start]")
@click.option("--foreground", is_flag=True, help="Stay in the foreground (it always does).")
@click.option("--hub", metavar="URL", envvar="CMDOP_SERVER_URL", help="Only needed to join.")
@click.option(
    "--token", envvar="CMDOP_JOIN_KEY", help="From `cmdop machines add`; only needed to join."
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=Path("cmdop-agent"),
    help="Where the machine's identity and its commands are kept. Default: ./cmdop-agent.",
)
@click.option(
    "--name", envvar="CMDOP_MACHINE_NAME", help="What to call this machine. Default: its host name."
)
@click.option("--stop-on-eof", is_flag=True, hidden=True)
def agent(
    start: str | None,
    hub: str | None,
    token: str | None,
    state_dir: Path,
    name: str | None,
    *,
    foreground: bool,
    stop_on_eof: bool,
) -> int:
    """Join a hub once, then stay connected to it and run what it asks for.

    Needs --hub and --token the first time only; afterwards --state-dir is enough. The machine's
    commands outlive this process: stop and start it as you like.
    """
    del start, foreground  # both only for those who are used to writing them
    from cmdop_appliance.agent.main import run  # trio: 0.1 s

    return run(
        state_dir,
        hub_url=hub or group_options().hub,
        token=token,
        name=name,
        stop_on_eof=stop_on_eof,
    )
