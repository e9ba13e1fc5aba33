"""What stands behind `--`: the command that a machine is to run, and the variables it gets."""

import shlex
from typing import Final

import click

from cmdop_appliance.cli.failures import USAGE, Failure

_WORDS: Final = "cmdop.words"


class WordsCommand(click.Command):
    """Takes what follows `--` as it is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Click's parsing, for what stands before `--`."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[_WORDS] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)


def words_behind() -> tuple[str, ...] | None:
    """What stands behind the `--` of the `WordsCommand` that runs; None: there is none."""
    words: tuple[str, ...] | None = click.get_current_context().meta.get(_WORDS)
    return words


def shell_text(before: tuple[str, ...], after: tuple[str, ...] | None, usage: str) -> str:
    """One word as it stands, several quoted: what a shell is to run.

    Raises:
        Failure: there is none, or some of it stands `before` the `--`, or it is no text.
    """
    if before and after is not None:
        raise Failure(
            f'"{before[0]}" stands before --',
            exit_code=USAGE,
            hint=f"all of the command goes behind it: {usage}",
        )
    words = after or before
    if not words:
        raise Failure("no command is given", exit_code=USAGE, hint=usage)
    text = words[0] if len(words) == 1 else shlex.join(words)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Failure("the command has bytes that are not UTF-8", exit_code=USAGE) from None
    return text


def variables(assignments: tuple[str, ...]) -> dict[str, str]:
    """Each `NAME=VALUE` as a variable.

    Raises:
        Failure: one is none.
    """
    found = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise Failure(f'--env needs NAME=VALUE, not "{assignment}"', exit_code=USAGE)
        found[name] = value
    return found
