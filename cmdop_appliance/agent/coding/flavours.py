"""From the agent that was asked for to the words that start it on this machine."""

import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cmdop_appliance.agent.coding.refusal import Refusal
from cmdop_appliance.agent.coding.settings import MODEL, Flavour
from cmdop_appliance.agent.files.failures import shown
from cmdop_appliance.protocol.terminals import Coding

# Where people's programs are that a service manager's PATH does not have: their own, what their
# package managers install, and what the agents' own installers use.
_USUAL: Final = (
    "~/.local/bin",
    "~/bin",
    "~/.npm-global/bin",
    "~/.bun/bin",
    "~/.volta/bin",
    "~/.local/share/pnpm",
    "~/.opencode/bin",
    "~/.claude/local",
    "/usr/local/bin",
    "/opt/homebrew/bin",
    "/snap/bin",
    "/usr/bin",
    "/bin",
)


class Places:
    """Where programs are looked for: the PATH, the host's own folders, the usual ones. It blocks.

    Relative folders count for nothing: they would let the directory of a session say what runs.
    """

    def __init__(self, environment: Mapping[str, str], more: Iterable[str], home: str) -> None:
        self._home = home
        own = environment.get("PATH", os.defpath).split(":")
        wanted = (self._at_home(folder) for folder in (*own, *more, *_USUAL))
        self.folders = tuple(
            dict.fromkeys(  # each once, the first time it is named
                folder for folder in wanted if folder.startswith("/") and folder.isprintable()
            )
        )

    @property
    def path(self) -> str:
        """The same as a PATH for what runs: many an agent is a script that needs its `node`."""
        return ":".join(self.folders)

    def find(self, programs: Iterable[str], what: str) -> str:
        """The path of the first of these programs that is installed.

        Raises:
            Refusal: none is; `what` names it for people.
        """
        programs = [self._at_home(program) for program in programs]
        for program in programs:
            folders = ("",) if program.startswith("/") else self.folders
            for path in (f"{folder.rstrip('/')}/{program.lstrip('/')}" for folder in folders):
                if os.access(path, os.X_OK) and Path(path).is_file():
                    return path
        looked = [program for program in programs if program.startswith("/")] or self.folders
        raise Refusal(
            "not_installed",
            f"{what} is not installed on {socket.gethostname()}: looked in {', '.join(looked)};"
            " coding.path in agent.toml of this machine adds folders",
        )

    def _at_home(self, path: str) -> str:
        return self._home + path[1:] if path.startswith("~/") else path


def flavour_of(coding: Coding, flavours: Mapping[str, Flavour]) -> Flavour:
    """The flavour that was asked for.

    Raises:
        Refusal: this machine has none of that name, or it takes no such model.
    """
    name = shown(coding.flavour.encode())
    flavour = flavours.get(coding.flavour)
    if flavour is None:
        known = ", ".join(sorted(flavours))
        raise Refusal("unknown_flavour", f"this machine knows no agent {name!r}, only {known}")
    if coding.model is not None:
        if not flavour.model:
            raise Refusal(
                "invalid_model",
                f"{name} takes no model on this machine (coding.flavours in agent.toml)",
            )
        # A parser may take a value that looks like an option for one.
        if coding.model.startswith("-") or not coding.model.isprintable():
            model = shown(coding.model.encode())
            raise Refusal(
                "invalid_model",
                f"{model!r} is no model: that has no '-' in front, and is plain text",
            )
    return flavour


def named(name: str, flavour: Flavour) -> str:
    """A flavour for a message, with its programs where they have other names."""
    programs = ", ".join(flavour.programs)
    return name if programs == name else f"{name} ({programs})"


def command_line(program: str, flavour: Flavour, coding: Coding) -> list[str]:
    """The words that start `program` as it was asked for."""
    argv = [program, *flavour.args]
    if coding.model is not None:
        argv += [word.replace(MODEL, coding.model) for word in flavour.model]
    if coding.yolo:
        argv += flavour.yolo
    return argv
