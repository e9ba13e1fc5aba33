"""The entry of the command line: finds the command, and turns every end into an exit code."""

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cmdop_appliance import __version__
from cmdop_appliance.cli import failures
from cmdop_appliance.cli.completion import VARIABLE
from cmdop_appliance.cli.connection import Chosen
from cmdop_appliance.cli.failures import Failure, as_failure, report, report_crash
from cmdop_appliance.errors import ApplianceError, StartupError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_COMMANDS: Final = {  # name: where it is; imported when it is used, so that `version` stays quick
    "agent": "cmdop_appliance.cli.agent:agent",
    "apply": "cmdop_appliance.cli.applying:apply_file",
    "api": "cmdop_appliance.cli.api:call_api",
    "audit": "cmdop_appliance.cli.audit:audit",
    "auth": "cmdop_appliance.cli.auth:auth",
    "backup": "cmdop_appliance.cli.backup:backup",
    "code": "cmdop_appliance.cli.code:code",
    "commands": "cmdop_appliance.cli.commands:commands",
    "completion": "cmdop_appliance.cli.completion:completion",
    "connect": "cmdop_appliance.cli.connect:connect",
    "context": "cmdop_appliance.cli.context:context",
    "cp": "cmdop_appliance.cli.cp:copy_files",
    "dashboard": "cmdop_appliance.cli.dashboard:dashboard",
    "doctor": "cmdop_appliance.cli.doctor:doctor",
    "events": "cmdop_appliance.cli.events:follow_events",
    "exec": "cmdop_appliance.cli.exec:exec_command",
    "export": "cmdop_appliance.cli.exporting:export_hub",
    "files": "cmdop_appliance.cli.files:files",
    "install": "cmdop_appliance.cli.install:install",
    "inventory": "cmdop_appliance.cli.inventory:inventory",
    "keys": "cmdop_appliance.cli.auth:keys",
    "login": "cmdop_appliance.cli.login:login",
    "logout": "cmdop_appliance.cli.login:logout",
    "machines": "cmdop_appliance.cli.machines:machines",
    "mcp": "cmdop_appliance.cli.mcp:mcp",
    "restore": "cmdop_appliance.cli.backup:restore",
    "run": "cmdop_appliance.cli.run:run_command",
    "schedules": "cmdop_appliance.cli.schedules:schedules",
    "selftest": "cmdop_appliance.cli.selftest:selftest",
    "serve": "cmdop_appliance.cli.serve:serve",
    "sessions": "cmdop_appliance.cli.sessions:sessions",
    "status": "cmdop_appliance.cli.status:status",
    "uninstall": "cmdop_appliance.cli.install:uninstall_service",
    "upgrade": "cmdop_appliance.cli.upgrade:upgrade",
    "version": "cmdop_appliance.cli.main:version",
    "webhooks": "cmdop_appliance.cli.webhooks:webhooks",
    "workspaces": "cmdop_appliance.cli.workspaces:workspaces",
}
_SBOM: Final = Path(__file__).parents[2] / "sbom.json"  # packaging/sbom.py puts it there
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ALIASES: Final = {"open": "dashboard", "server": "serve"}


class LazyGroup(click.Group):
    """Knows its commands by name and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, for --help."""
        return sorted(_COMMANDS)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
        """The names that begin so, without an import of what they name; and options."""
        from click.shell_completion import CompletionItem

        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*map(CompletionItem, names), *options]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name or alias; None when there is none."""
        where = _COMMANDS.get(_ALIASES.get(cmd_name, cmd_name))
        if where is None:
            return None
        module, _, attribute = where.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Like click's, but an unknown name is answered with the nearest known one."""
        name = args[0]
        if name in _COMMANDS or name in _ALIASES:
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches  # 5 ms, which only a typing error costs

        close = get_close_matches(name, _COMMANDS)
        raise Failure(
            f'no command "{name}"',
            exit_code=failures.USAGE,
            did_you_mean=close[0] if close else "",
            hint="cmdop --help",
        )


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--hub", metavar="URL", help="The hub's address.")
@click.option("--key", metavar="KEY", help="An API key (better: CMDOP_API_KEY).")
@click.option("--data-dir", type=click.Path(path_type=Path), help="A hub's data directory here.")
@click.option("--context", metavar="NAME", help="A hub that cmdop login has kept a key for.")
@click.version_option(__version__, message="cmdop %(version)s")
@click.pass_context
def cli(
    ctx: click.Context,
    hub: str | None,
    key: str | None,
    data_dir: Path | None,
    context: str | None,
) -> None:
    """One file that turns a box into the control plane of all your machines."""
    ctx.obj = Chosen(hub, key, data_dir, context)


@click.command()
@click.option("--sbom", is_flag=True, help="What the one file consists of (CycloneDX).")
def version(sbom: bool) -> None:
    """Print the version."""
    if not sbom:
        print(f"cmdop {__version__}")
    elif _SBOM.is_file():
        print(_SBOM.read_text(), end="")
    else:
        raise Failure(
            "this runs from a checkout, and only the one file has a list of its parts",
            exit_code=failures.OTHER,
            hint="scripts/build, then dist/cmdop version --sbom",
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Nothing is raised, and no traceback is ever printed."""
    _prepare_streams()
    if VARIABLE in os.environ:
        return _complete(os.environ[VARIABLE])
    try:
        code = _run(list(sys.argv[1:] if args is None else args))
    except Failure as failure:
        report(failure)
        code = failure.exit_code
    except ApplianceError as exc:
        code = failures.USAGE if isinstance(exc, StartupError) else failures.OTHER
        report(Failure(exc.message, exit_code=code, hint=exc.hint))
    except (KeyboardInterrupt, click.Abort):
        code = failures.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough
        code = failures.BROKEN_PIPE
    except Exception as exc:  # noqa: BLE001 - the edge of the program
        code = _failed(exc)
    return _finish(code)


def _failed(error: Exception) -> int:
    from cmdop_appliance.sdk import CmdopError  # 60 ms, which only a failure costs here

    if isinstance(error, CmdopError):
        failure = as_failure(error)
        report(failure)
        return failure.exit_code
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return _cannot_write(error)
    report_crash(error)
    return failures.CRASHED


def _run(args: list[str]) -> int:
    try:
        with cli.make_context("cmdop", args) as ctx:
            code = cli.invoke(ctx)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        return failures.USAGE
    except click.UsageError as exc:
        raise Failure(
            _lowered(exc.format_message()),
            exit_code=failures.USAGE,
            hint=f"{exc.ctx.command_path} --help" if exc.ctx else "cmdop --help",
        ) from exc
    except click.ClickException as exc:
        raise Failure(_lowered(exc.format_message()), exit_code=failures.OTHER) from exc
    return code if isinstance(code, int) else 0


def _complete(instruction: str) -> int:
    """Tell the shell what could follow. Whoever types sees whatever is said: so nothing is."""
    from click.shell_completion import shell_complete

    try:
        return shell_complete(cli, {}, "cmdop", VARIABLE, instruction)
    except Exception:  # noqa: BLE001 - the edge of the program
        return failures.OTHER


def _lowered(message: str) -> str:
    """As our own messages are: on one line, too, where click lists what there is to choose from."""
    message = message.replace("\n\t", " ")
    return message[:1].lower() + message[1:].removesuffix(".")


def _prepare_streams() -> None:
    """Characters the terminal has no code for are escaped, and closed descriptors are ignored."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - as long as we live
        else:
            stream.reconfigure(errors="backslashreplace")


def _finish(code: int) -> int:
    """`code`, after a last flush that cannot fail when Python itself does it at exit."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0:
            return failures.BROKEN_PIPE if exc.errno == errno.EPIPE else _cannot_write(exc)
    return code


def _cannot_write(error: OSError) -> int:
    where = error.filename or "the output"
    report(Failure(f"cannot write {where}: {error.strerror}", exit_code=failures.OTHER))
    return failures.OTHER
