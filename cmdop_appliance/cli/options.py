"""What commands that change something share: their options, and the question before a removal."""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import click

NOTHING_DONE: Final = "nothing was done"  # as it was not meant
F = TypeVar("F", bound=Callable[..., Any])


def with_options(options: Iterable[Callable[[F], F]]) -> Callable[[F], F]:
    """Give a command these options, in this order; it gets what they say by their names."""

    def decorate(command: F) -> F:
        for option in reversed([*options]):
            command = option(command)
        return command

    return decorate


def said(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not None: what was not said is left to the hub."""
    return {name: value for name, value in values.items() if value is not None}


def with_unset(changes: Mapping[str, Any], unset: Mapping[str, Any]) -> dict[str, Any]:
    """The changes, and what a field has that is taken off.

    Raises:
        UsageError: one is given and taken off at once.
    """
    if both := changes.keys() & unset.keys():
        names = ", ".join(sorted(name.removesuffix("_ms") for name in both))
        raise click.UsageError(f"--unset takes off what another option gives: {names}")
    return {**changes, **unset}


def is_removal_meant(shown: str, *, yes: bool) -> bool:
    """See `is_meant`."""
    return is_meant(f"remove {shown}?", yes=yes)


def is_meant(question: str, *, yes: bool) -> bool:
    """True: `yes` says so, or whoever sits at the terminal, or nobody does."""
    on_terminal = sys.stdin is not None and sys.stdin.isatty()
    if yes or not on_terminal or click.confirm(question, err=True):
        return True
    print(NOTHING_DONE, file=sys.stderr)
    return False
