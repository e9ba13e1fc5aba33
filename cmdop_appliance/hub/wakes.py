"""What the bus tells a machine's connection to do, and whoever waits for a command of its changes.

All of it may be lost: what is true stands in the store.
"""

from dataclasses import dataclass

from cmdop_appliance.model import Command


@dataclass(frozen=True, slots=True)
class Dispatched:
    """Bus: a new command for a machine."""

    command: Command


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Bus: a command of a machine is to end."""

    command_id: str


@dataclass(frozen=True, slots=True)
class Look:
    """Bus: the machine has open commands; of one of them it may not have been told."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Bus: the machine was taken out; its agent is to end."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Bus: a command's record as it stands now."""

    command: Command


@dataclass(frozen=True, slots=True)
class Grown:
    """Bus: a command has new output, or has ended."""


def machine_subject(machine_id: str) -> str:
    """What is published for the connection of one machine."""
    return f"machine.{machine_id}"


def link_subject(machine_id: str) -> str:
    """Apart from the rest, so that no busy connection hears late of what ends it."""
    return f"link.{machine_id}"


def command_subject(command_id: str) -> str:
    """Changes of one command."""
    return f"command.{command_id}"


def batch_subject(batch_id: str) -> str:
    """Changes of the commands of one batch."""
    return f"batch.{batch_id}"


def output_subject(command_id: str) -> str:
    """Wake-ups: a command has new output."""
    return f"output.{command_id}"
