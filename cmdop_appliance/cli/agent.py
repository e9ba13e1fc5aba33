"""`cmdop agent`: make this machine one of the hub's, and say what it may do here."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import group_options
from cmdop_appliance.cli.durations import Duration
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.output import output_option, show_one
from cmdop_appliance.errors import StartupError

_STATE_DIR: Final = Path("cmdop-agent")
_ON_STDIN: Final = "-"
_WHAT: Final = click.Choice(["exec"])

_state_dir_option = click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=_STATE_DIR,
    help=f"Where the machine's identity and its commands are kept. Default: ./{_STATE_DIR}.",
)
_config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="What the hub may do here. Default: agent.toml in the state directory, if it is there.",
)


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option(
                "--foreground", is_flag=True, help="Stay in the foreground (it always does)."
            ),
            click.option(
                "--hub", metavar="URL", envvar="CMDOP_SERVER_URL", help="Only needed to join."
            ),
            click.option(
                "--plain-http",
                is_flag=True,
                help="Let the hub be another machine without TLS. Only needed to join.",
            ),
            click.option(
                "--token",
                envvar="CMDOP_JOIN_KEY",
                help="From `cmdop machines add`; only needed to join. - reads it from stdin.",
            ),
            _state_dir_option,
            click.option(
                "--name",
                envvar="CMDOP_MACHINE_NAME",
                help="What to call this machine. Default: its host name.",
            ),
            _config_option,
            click.option("--stop-on-eof", is_flag=True, hidden=True),
            click.option("--join", type=click.Path(path_type=Path), hidden=True),
            click.option("--on-trial", type=int, hidden=True),
            click.option("--keep-out", type=click.Path(path_type=Path), multiple=True, hidden=True),
        )
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@_run_options
@click.pass_context
def agent(ctx: click.Context, /, **_: object) -> int | None:
    """Join a hub once, then stay connected to it and run what it asks for.

    Needs --hub and --token the first time only; afterwards --state-dir is enough. The machine's
    commands outlive this process: stop and start it as you like.
    """
    return _run(ctx) if ctx.invoked_subcommand is None else None


@agent.command()
@_run_options
@click.pass_context
def start(ctx: click.Context, /, **_: object) -> int:
    """The same as no command at all."""
    return _run(ctx)


@agent.command()
@click.argument("what", type=_WHAT, metavar="exec")
@click.argument("duration", type=Duration())
@_state_dir_option
@click.pass_context
def grant(ctx: click.Context, /, what: str, duration: int, **_: object) -> None:
    """Let the hub start commands for a while, such as 30m.

    It may then, for a day at most, although agent.toml says exec = false. The window closes by
    itself, and with a restart of the machine. What runs then runs on.
    """
    from cmdop_appliance.agent import grants

    if duration > grants.WINDOW_MOST_MS:
        most_h = grants.WINDOW_MOST_MS // 3_600_000
        raise click.BadParameter(f"at most {most_h}h", ctx, param_hint="DURATION")
    with _open_state_dir(ctx) as state_dir:
        until = grants.open_window(state_dir, duration)
    print(f"{what} is granted until {until}")


@agent.command()
@click.argument("what", type=_WHAT, metavar="exec")
@_state_dir_option
@click.pass_context
def revoke(ctx: click.Context, /, what: str, **_: object) -> None:
    """Close the window that `grant` opened. What runs runs on."""
    from cmdop_appliance.agent import grants

    with _open_state_dir(ctx) as state_dir:
        was_open = grants.close_window(state_dir)
    print(f"{what} is no longer granted" if was_open else f"{what} was not granted")


@agent.command()
@_state_dir_option
@_config_option
@output_option
@click.pass_context
def policy(ctx: click.Context, /, form: str | None, **_: object) -> None:
    """Show what the hub may do here."""
    from msgspec import to_builtins

    from cmdop_appliance.agent import grants
    from cmdop_appliance.agent.policy import load_policy

    with _open_state_dir(ctx) as state_dir:
        rules = load_policy(_given(ctx)["config"], state_dir)
        left_ms = grants.left_ms(state_dir)
    shown = {
        f"{table}.{key}": value
        for table, keys in to_builtins(rules).items()
        for key, value in keys.items()
    }
    left = str(timedelta(seconds=-(-left_ms // 1000))) if left_ms else None
    show_one({**shown, "exec granted for": left}, form)


@agent.command()
@_state_dir_option
@click.pass_context
def background(ctx: click.Context, /, **_: object) -> None:
    """Save this machine's strength: the agent samples its load once a minute.

    The machine is BACKGROUND at its hub, and commands still reach it; SIGUSR1 does the same.
    """
    _tell_agent(ctx, signal.SIGUSR1, "in the background")


@agent.command()
@_state_dir_option
@click.pass_context
def foreground(ctx: click.Context, /, **_: object) -> None:
    """Undo `background`; SIGUSR2 does the same."""
    _tell_agent(ctx, signal.SIGUSR2, "in the foreground")


def _tell_agent(ctx: click.Context, number: signal.Signals, where: str) -> None:
    from cmdop_appliance.agent.linux import signal_holder

    with _open_state_dir(ctx) as state_dir:
        pid = signal_holder(state_dir / "agent.lock", number)
    if pid is None:
        raise Failure(
            f"no agent runs on {state_dir}",
            exit_code=failures.UNREACHABLE,
            hint=f"cmdop agent --state-dir {state_dir}",
        )
    print(f"the agent, process {pid}, is {where}")


def _run(ctx: click.Context) -> int:
    from cmdop_appliance.agent.main import run  # trio: 0.1 s

    given = _given(ctx)
    if given["join"] is not None:
        given |= _left_by_install(given["join"], given["state_dir"])
    is_on_stdin = given["token"] == _ON_STDIN
    return run(
        given["state_dir"],
        hub_url=given["hub"] or group_options().hub,
        token=sys.stdin.readline().strip() if is_on_stdin else given["token"],
        name=given["name"],
        config=given["config"],
        stop_on_eof=given["stop_on_eof"],
        plain_http=given["plain_http"],
        keep_out=given["keep_out"],
        on_trial=given["on_trial"],
    )


def _left_by_install(file: Path, state_dir: Path) -> dict[str, Any]:
    """How to join, where `cmdop install` has left it; nothing, and no file, once we have joined."""
    if (state_dir / "hub.json").exists():
        file.unlink(missing_ok=True)
    try:
        left: dict[str, Any] = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    return left


def _given(ctx: click.Context) -> dict[str, Any]:
    """The options, wherever they stand: those after the command's name win."""
    before = ctx.parent.params if ctx.parent and ctx.command is not agent else {}
    on_line = {
        name: value
        for name, value in ctx.params.items()
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    return {**ctx.params, **before, **on_line}


@contextmanager
def _open_state_dir(ctx: click.Context) -> Iterator[Path]:
    """The agent's directory, with its owner's rights if we are root.

    What is written there the agent must be able to read, and a link that its owner has planted
    there must lead root nowhere.
    """
    state_dir: Path = _given(ctx)["state_dir"]
    try:
        owner = state_dir.stat()
        with _rights_of(owner.st_uid, owner.st_gid) if os.geteuid() == 0 else nullcontext():
            yield state_dir
    except OSError as exc:
        raise StartupError(
            f"cannot use the state directory {state_dir}: {exc.strerror}",
            hint="name the agent's with --state-dir; its owner may do this, and root",
        ) from exc


@contextmanager
def _rights_of(uid: int, gid: int) -> Iterator[None]:
    """For root, no more rights than this user has: our own program may be unreadable meanwhile."""
    own_gid, own_groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(own_gid)
        os.setgroups(own_groups)
