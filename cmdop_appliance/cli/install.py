"""`cmdop install` and `cmdop uninstall`: hub or agent as a service of this machine."""

import base64
import json
import os
import pwd
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from cmdop_appliance.cli.connection import group_options
from cmdop_appliance.cli.failures import OTHER, USAGE, Failure
from cmdop_appliance.cli.options import is_meant
from cmdop_appliance.service.folders import onefile_of_this_program
from cmdop_appliance.service.install import (
    AGENT_USER,
    Places,
    Steps,
    What,
    install_agent,
    install_hub,
    is_installed,
    system_places,
    uninstall,
    user_places,
)

_JOIN_S: Final = 30.0  # so long we look whether the machine joins
_LOOK_S: Final = 0.2

_prefix_option = click.option(
    "--prefix",
    type=click.Path(path_type=Path),
    help="Below this directory instead of /, as root's; no service is told.",
)
_dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would be done.")
_program_option = click.option(
    "--program",
    type=click.Path(path_type=Path),
    help="The one file to install. Default: this one.",
)


@click.group()
def install() -> None:
    """Make hub or agent a service, which runs from now on.

    As root one of the machine; else one of yours. Again: one that is there becomes of this program.
    """


@install.command("hub")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Put into its settings, when they are made. Default: 127.0.0.1:3006.",
)
@_program_option
@_prefix_option
@_dry_run_option
def hub_service(
    listen: str | None, program: Path | None, prefix: Path | None, *, dry_run: bool
) -> None:
    """Run the hub as a service."""
    places, steps = _places(prefix), Steps(_say, is_dry=dry_run)
    _do(lambda: install_hub(places, _onefile(program), listen, steps))


@install.command("agent")
@click.option("--hub", metavar="URL", envvar="CMDOP_SERVER_URL", help="Only needed to join.")
@click.option(
    "--token",
    envvar="CMDOP_JOIN_KEY",
    help="From `cmdop machines add`; only needed to join. - reads it from stdin.",
)
@click.option(
    "--name",
    envvar="CMDOP_MACHINE_NAME",
    help="What to call this machine. Default: its host name.",
)
@click.option(
    "--plain-http",
    is_flag=True,
    help="Let the hub be another machine without TLS. Only needed to join.",
)
@click.option(
    "--user", default=AGENT_USER, help="Whom it runs as, if root installs it. Default: root."
)
@_program_option
@_prefix_option
@_dry_run_option
def agent_service(
    hub: str | None,
    token: str | None,
    name: str | None,
    user: str,
    program: Path | None,
    prefix: Path | None,
    *,
    plain_http: bool,
    dry_run: bool,
) -> None:
    """Make this machine one of the hub's, by a service."""
    places, steps = _places(prefix), Steps(_say, is_dry=dry_run)
    if places.is_system and prefix is None:
        _require_user(user)
    token = sys.stdin.readline().strip() if token == "-" else token  # noqa: S105 - it is none
    url = hub or group_options().hub
    join = _joining(places, url, token, name, plain_http=plain_http)
    _do(lambda: install_agent(places, _onefile(program), user, join, steps))
    if places.has_systemd and not dry_run:
        _wait_joined(places, url)


@click.command("uninstall")
@click.argument("what", type=click.Choice(["hub", "agent"]), metavar="hub|agent")
@click.option("--purge", is_flag=True, help="Remove its data and settings, too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_prefix_option
@_dry_run_option
def uninstall_service(
    what: What, prefix: Path | None, *, purge: bool, yes: bool, dry_run: bool
) -> None:
    """Remove the service of hub or agent. Its data and settings stay, unless you say --purge.

    With the agent ends what the hub has started here.
    """
    places = _places(prefix)
    kept = " with all its data" if purge else ""
    ended = "; commands and terminals end" if what == "agent" else ""
    if dry_run or is_meant(f"uninstall the {what}{kept}{ended}?", yes=yes):
        if not is_installed(places, what):
            print(f"no {what} is installed as a service here", file=sys.stderr)
        _do(lambda: uninstall(places, what, purge=purge, steps=Steps(_say, is_dry=dry_run)))


def _say(what: str) -> None:
    print(what, flush=True)


def _places(prefix: Path | None) -> Places:
    if prefix is not None:
        return system_places(prefix.absolute())
    return system_places(None) if os.geteuid() == 0 else user_places(os.environ, Path.home())


def _onefile(program: Path | None) -> Path:
    found = program or onefile_of_this_program()
    if found is None:
        raise Failure(
            "only the one file can be installed, and this is a checkout",
            exit_code=USAGE,
            hint="scripts/build makes it; then dist/cmdop install, or --program dist/cmdop",
        )
    return found.absolute()


def _require_user(user: str) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        raise Failure(
            f'there is no user "{user}"', exit_code=USAGE, hint="useradd makes one"
        ) from None


def _joining(
    places: Places, url: str | None, token: str | None, name: str | None, *, plain_http: bool
) -> str | None:
    """What the agent needs to join; None: it has joined.

    Raises:
        Failure: it needs more, or has joined another hub.
    """
    from cmdop_appliance.protocol.handshake import EnrolmentToken, pin_of

    given = EnrolmentToken.parse(token) if token else None
    state = places.state("agent")
    try:
        joined = base64.b64decode(json.loads((state / "hub.json").read_bytes())["hub_key"])
    except FileNotFoundError:
        if url is None or given is None:
            raise Failure(
                "this machine has not joined a hub",
                exit_code=USAGE,
                hint="--hub URL --token TOKEN, which cmdop machines add prints",
            ) from None
        left = {"hub": url, "token": str(given), "name": name, "plain_http": plain_http}
        return json.dumps(left) + "\n"
    if given is not None and given.hub_key != joined:
        raise Failure(
            f"this machine has joined the hub with the key {pin_of(joined)}",
            exit_code=USAGE,
            hint="cmdop uninstall agent --purge leaves it",
        )
    return None


def _wait_joined(places: Places, url: str | None) -> None:
    until = time.monotonic() + _JOIN_S
    unit = places.unit("agent").stem
    while not (places.state("agent") / "hub.json").exists():
        if time.monotonic() > until:
            raise Failure(
                f"the agent runs, and has not joined {url} yet",
                exit_code=OTHER,
                hint=f"it tries on; why: journalctl{places.scope} -u {unit}",
            )
        time.sleep(_LOOK_S)
    print("this machine has joined its hub")


def _do(action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as exc:
        raise Failure(
            f"cannot write {exc.filename}: {exc.strerror}",
            exit_code=OTHER,
            hint="as root it is a service of the machine, else one of yours",
        ) from exc
