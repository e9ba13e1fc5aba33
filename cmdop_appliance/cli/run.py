"""`cmdop run`: a command on many machines, and what they said, folded."""

import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.batch_view import show_batch, telling_of_no_answer, view_options
from cmdop_appliance.cli.connection import client_options
from cmdop_appliance.cli.execution import execution, execution_options
from cmdop_appliance.cli.machine_names import MachineName
from cmdop_appliance.cli.options import NOTHING_DONE
from cmdop_appliance.cli.output import show
from cmdop_appliance.cli.risks import is_risky
from cmdop_appliance.cli.targets import find_machines
from cmdop_appliance.cli.text import visible
from cmdop_appliance.cli.words import WordsCommand, shell_text, words_behind
from cmdop_appliance.sdk import Client
from cmdop_appliance.sdk.types import Machine

_MANY: Final = 10  # machines: more of them are counted before anything runs there


class Share(click.ParamType[int | str]):
    """A number, or a percentage of the machines."""

    name = "share"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """`5`, or `25%` as it stands."""
        number = value.removesuffix("%")
        if not (number.isascii() and number.isdigit() and int(number)):
            self.fail(
                f"{value!r} is neither a number such as 5 nor a share such as 25%", param, ctx
            )
        return value if value.endswith("%") else int(number)


@click.command("run", cls=WordsCommand, options_metavar="[OPTIONS]")
@client_options
@click.option(
    *("-t", "--target", "targets"),
    type=MachineName(),
    metavar="SELECTOR",
    multiple=True,
    required=True,
    help="A machine, tag:A,B, a pattern such as 'web-*', or @all; may be repeated.",
)
@click.argument("words", nargs=-1, metavar="-- COMMAND…")
@execution_options
@click.option(
    "--parallel", type=Share(), metavar="N|N%", help="On so many at a time. Default: all."
)
@click.option(
    "--fail-after",
    type=click.IntRange(min=1),
    metavar="N",
    help="After so many failures the rest is skipped.",
)
@click.option(
    "--canary",
    is_flag=False,
    flag_value=1,
    type=click.IntRange(min=1),
    metavar="[N]",
    help="On one (or N) first; the others follow only if it succeeds.",
)
@click.option("--dry-run", is_flag=True, help="Only show which machines are meant.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@view_options
def run_command(
    client: Client,
    /,
    targets: tuple[str, ...],
    words: tuple[str, ...],
    parallel: int | str | None,
    fail_after: int | None,
    canary: int | None,
    exit_rule: str,
    form: str | None,
    *,
    no_fold: bool,
    dry_run: bool,
    yes: bool,
    **given: Any,
) -> int:
    """Run COMMAND on many machines, and show what they said.

    Machines that said the same are shown together, and those that said otherwise as what differs.
    Control characters in what they said are shown as escapes.

    \b
    cmdop run -t tag:web --canary --parallel 25% -- systemctl restart app
    cmdop run -t 'db-*' -t nas -- 'df -h / | tail -1'

    Exit codes: 0 when all succeeded, 1 when some did not, 6 when no machine is connected. Ctrl-C
    cancels all of it; a second one leaves it running.
    """
    text = shell_text(words, words_behind(), "cmdop run -t SELECTOR -- COMMAND…")
    options = execution(**given)
    machines = find_machines(client, *targets)
    if dry_run:
        show(machines, ["name", "status", "tags", "id"], None, spare=["id"])
        return 0
    if not (yes or _is_meant(text, machines)):
        print(NOTHING_DONE, file=sys.stderr)
        return failures.OTHER
    with telling_of_no_answer():
        batch = client.commands.batch(
            [machine["id"] for machine in machines],
            text,
            concurrency=parallel,
            canary=canary,
            max_errors=None if fail_after is None else fail_after - 1,
            wait=False,
            **options,
        )
    return show_batch(client, batch, machines, form, exit_rule, folds=not no_fold)


def _is_meant(text: str, machines: Sequence[Machine]) -> bool:
    """True: nothing speaks against it, or whoever sits at the terminal says so."""
    count = len(machines)
    on_terminal = sys.stdin is not None and sys.stdin.isatty()
    if not on_terminal or count == 1 or not (count > _MANY or is_risky(text)):
        return True
    names = ", ".join(machine["name"] for machine in machines)
    print(visible(f"on {count} machines: {names}"), file=sys.stderr)
    for line in text.split("\n"):
        print(f"  {visible(line)}", file=sys.stderr)
    if count > _MANY:
        return bool(click.prompt("how many machines shall run it?", err=True) == str(count))
    return click.confirm("run it?", err=True)
