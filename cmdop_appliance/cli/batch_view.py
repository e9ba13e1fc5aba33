"""A batch on the screen: what `run` and `commands resume` show of it, and how they exit."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.batches import Result, batch_id_of, cancel_all, ends, refusals
from cmdop_appliance.cli.failures import Failure, as_failure
from cmdop_appliance.cli.folding import fold, prefixed
from cmdop_appliance.cli.follow import Foreground
from cmdop_appliance.cli.options import with_options
from cmdop_appliance.cli.progress import StatusLine
from cmdop_appliance.cli.text import visible, visible_json
from cmdop_appliance.sdk import Client, CmdopError
from cmdop_appliance.sdk.types import Batch, Machine

_VIEW: Final = (
    click.option(
        "--no-fold", is_flag=True, help="Each line behind its machine's name, as it ends."
    ),
    click.option(
        "--exit",
        "exit_rule",
        type=click.Choice(["any", "max"]),
        default="any",
        help="any: 1 if something failed; max: the highest exit code.",
    ),
    click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(["json", "jsonl"]),
        help="The hub's own records; jsonl: one as each ends.",
    ),
)
view_options: Final = with_options(_VIEW)


@contextmanager
def telling_of_no_answer() -> Iterator[None]:
    """Whoever is interrupted while the hub is asked is told that it may have heard."""
    try:
        yield
    except KeyboardInterrupt:
        said = (
            "the hub has not answered; if the commands were recorded: cmdop commands ls shows them"
        )
        print(said, file=sys.stderr)
        raise


def show_batch(
    client: Client,
    batch: Batch,
    machines: Sequence[Machine],
    form: str | None,
    exit_rule: str,
    *,
    folds: bool,
) -> int:
    """Show what comes of a batch that was just recorded, to its end; the exit code.

    `machines` have the names, `exit_rule` is "any" or "max". Raises: as `_watch`.
    """
    shown = _Shown(machines, form, folds=folds)
    for machine_id, refused in refusals(batch).items():
        shown.add(machine_id, {**refused})
    batch_id = batch_id_of(batch)
    is_cancelled = batch_id is not None and _watch(client, batch_id, shown)
    shown.finish(batch_id)
    return failures.INTERRUPTED if is_cancelled else shown.exit_code(exit_rule)


def _watch(client: Client, batch_id: str, shown: "_Shown") -> bool:
    """Show what comes of a batch. True: Ctrl-C has cancelled it.

    Raises:
        KeyboardInterrupt: a second one leaves it alone.
        Failure: it could not be followed to its end.
    """
    see = f"cmdop commands ls --batch {batch_id}"
    with (
        Foreground(client, lambda own: cancel_all(own, batch_id)) as foreground,
        StatusLine() as line,
    ):
        try:
            for command in ends(client, batch_id, line):
                line.clear()
                shown.add(command["machine_id"], {**command})
        except BrokenPipeError:  # nobody reads on: end it, as a local pipe would
            foreground.cancel()
            raise
        except KeyboardInterrupt:
            print(visible(f"{batch_id} is left to itself; see: {see}"), file=sys.stderr)
            raise
        except CmdopError as exc:
            code = as_failure(exc).exit_code
            raise Failure(f"{exc}; {batch_id} may still run", exit_code=code, hint=see) from exc
        return foreground.is_interrupted


class _Shown:
    """Takes the results as they come, and shows them as is wished."""

    def __init__(self, machines: Sequence[Machine], form: str | None, *, folds: bool) -> None:
        self._names = {machine["id"]: machine["name"] for machine in machines}
        self._form = form
        self._folds = folds
        self._results: dict[str, Result] = {}

    def add(self, machine_id: str, record: dict[str, Any]) -> None:
        """One more has come."""
        result = Result(self._names.get(machine_id, machine_id), record)
        self._results[machine_id] = result
        if self._form == "jsonl":
            print(visible_json({"machine_id": machine_id, **record}), flush=True)
        elif self._form is None and not self._folds:
            for line in prefixed(result.machine, result.written("stdout")):
                print(line, flush=True)
            for line in prefixed(result.machine, result.written("stderr")):
                print(line, file=sys.stderr)
            if said := result.outcome.said:
                print(f"{visible(result.machine)}: [{visible(said)}]", file=sys.stderr)

    def finish(self, batch_id: str | None) -> None:
        """All have come."""
        if self._form == "json":
            records = {machine_id: each.record for machine_id, each in self._results.items()}
            print(visible_json(records, indent=2))
        elif self._form is None:
            if self._folds:
                for line in fold(result.outcome for result in self._results.values()):
                    print(line)
            sys.stdout.flush()
            counted = Counter(result.end for result in self._results.values())
            told = ", ".join(f"{number} {end}" for end, number in counted.most_common())
            print(visible(f"{told} ({batch_id})" if batch_id else told), file=sys.stderr)
            if counted["skipped"]:
                resumes = f"cmdop commands resume {batch_id}"
                print(visible(f"what was skipped is run by: {resumes}"), file=sys.stderr)

    def exit_code(self, rule: str) -> int:
        """Of the program. `rule`: "any" or "max"."""
        results = self._results.values()
        if all(result.is_offline for result in results):
            return failures.OFFLINE
        most = max(result.exit_code for result in results)
        return most if rule == "max" else min(most, failures.OTHER)
