"""`cmdop serve`: the hub."""

from pathlib import Path

import click

from cmdop_appliance.cli.connection import group_options


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Default: ./cmdop.toml, if there is one.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Default: ./cmdop-data.")
@click.option("--listen", metavar="HOST:PORT", help="Default: 127.0.0.1:3006. Port 0: a free one.")
@click.option(
    "--tls",
    type=click.Choice(["auto", "on", "off"]),
    help="TLS on that port. auto, the default: if others can reach it, and no proxy does it.",
)
@click.option("--local-agent", is_flag=True, default=None, help="Also manage this machine.")
def serve(
    config: Path | None,
    data_dir: Path | None,
    listen: str | None,
    tls: str | None,
    local_agent: bool | None,
) -> int:
    """Run the hub until SIGTERM or Ctrl-C. Also: cmdop server."""
    from cmdop_appliance.server import run  # trio and quart: 0.4 s

    return run(
        config,
        data_dir=data_dir or group_options().data_dir,
        listen=listen,
        tls=tls,
        local_agent=local_agent,
    )
