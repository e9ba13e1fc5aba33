"""`agent.toml`: what the hub may do on this machine. The file is the host's; no hub can widen it.

The structs are the specification: `agent.example.toml` shows every key with its default, and a
test holds the two together.
"""

import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from cmdop_appliance.agent.coding.settings import CodingPolicy
from cmdop_appliance.agent.grants import is_open
from cmdop_appliance.errors import StartupError
from cmdop_appliance.protocol.messages import Spec
from cmdop_appliance.protocol.terminals import Shell
from cmdop_appliance.release.trust import trusted_keys
from cmdop_appliance.settings import Settings

FILE_NAME: Final = "agent.toml"
_ANY: Final = "*"
_SHOWN_CHARS: Final = 200  # of a name that the hub chose, in a message

S = TypeVar("S", Spec, Shell)


class CommandsPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be run."""

    # False: nothing, unless a window is open (grants.py).
    exec: bool = True
    # Whom a command may run as, by its `user`; without that it is the agent's own user, who must be
    # in the list, too. None: only the agent's own user.
    users: tuple[
        Annotated[str, Meta(min_length=1, description='a list of names, or ["*"] for any')], ...
    ] = (_ANY,)
    # Commands that run at a time; the others wait (semantics.md, Commands 10).
    max_parallel: Annotated[int, Meta(ge=1, le=1000)] = 16


class FilesPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of the file system the hub may name. A command, once it runs, is not held by it."""

    # False: the hub may look at nothing, and read nothing.
    read: bool = True
    # False: the hub may change nothing.
    write: bool = True
    roots: tuple[
        Annotated[
            str,
            Meta(pattern=r"^/[^\0]*\Z", description='a list of absolute paths, such as ["/srv"]'),
        ],
        ...,
    ] = ("/",)


class TerminalsPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may type here. What holds for commands holds for terminals, too."""

    # False: no terminal is opened. Coding sessions have a switch of their own.
    enabled: bool = True
    # Milliseconds after which a terminal ends into which nobody typed and at which nobody came to
    # look; 0: never. Coding sessions work by themselves, and do not end so.
    idle_ms: Annotated[int, Meta(ge=0, le=31_536_000_000)] = 0


class UpgradePolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether the hub may replace our program, by whose releases."""

    enabled: bool = True
    # Ed25519 public keys (base64) whose bundles are taken, beside those built in.
    keys: tuple[
        Annotated[str, Meta(min_length=1, description="a list of Ed25519 public keys in base64")],
        ...,
    ] = ()

    def __post_init__(self) -> None:
        trusted_keys(self.keys)


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the host decides."""

    commands: CommandsPolicy = CommandsPolicy()
    files: FilesPolicy = FilesPolicy()
    terminals: TerminalsPolicy = TerminalsPolicy()
    coding: CodingPolicy = CodingPolicy()
    upgrade: UpgradePolicy = UpgradePolicy()

    @property
    def allows_any_command(self) -> bool:
        """True: there is nothing to check."""
        anyone, anywhere = _ANY in self.commands.users, "/" in self.files.roots
        return self.commands.exec and anyone and anywhere


class Denied(Exception):
    """The policy does not allow a command, or a terminal. `code` is part of the public API."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def policy_file(path: Path | None, state_dir: Path) -> Path:
    """Where the policy stands, or would: at `path`, or without that in the state directory."""
    return path or state_dir / FILE_NAME


def load_policy(path: Path | None, state_dir: Path) -> Policy:
    """The policy in force. Without `path`, `agent.toml` in the state directory if it is there.

    Raises:
        StartupError: the file cannot be read, others may write to it, or a key or value is wrong.
    """
    file = policy_file(path, state_dir)
    try:
        # A link to nowhere is no sign that all is allowed.
        if path is None and not file.exists() and not file.is_symlink():
            return Policy()
        _check_that_it_is_ours(file, file.stat())
    except OSError as exc:
        raise StartupError(f"cannot read {file}: {exc.strerror}") from exc
    settings = Settings(file, example="agent.example.toml")
    settings.read()
    return settings.to(Policy)


def _check_that_it_is_ours(path: Path, status: os.stat_result) -> None:
    """A policy that somebody else may rewrite is none."""
    if status.st_uid not in (0, os.geteuid()):
        raise StartupError(
            f"{path} belongs to user id {status.st_uid}, who could change what is allowed here",
            hint=f"chown {os.geteuid()} {path}",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StartupError(
            f"{path} can be written by others than its owner: its mode is"
            f" {stat.S_IMODE(status.st_mode):04o}",
            hint=f"chmod go-w {path}",
        )


def judge(policy: Policy, state_dir: Path, specs: Iterable[Spec]) -> list[Spec | Denied]:
    """Each spec as it may start now, its `cwd` resolved; or why not. It reads files and may block.

    A window that is open allows what `commands.exec` does not, and widens nothing else.
    """
    may_run = policy.commands.exec or is_open(state_dir)
    return [_verdict(policy, may_run, spec) for spec in specs]


def judge_terminal(policy: Policy, state_dir: Path, shell: Shell) -> Shell | Denied:
    """As it may be opened now, its `cwd` resolved; or why not. It reads files and may block."""
    if not policy.terminals.enabled:
        return Denied(
            "policy_denied",
            "agent.toml of this machine allows no terminals (terminals.enabled)",
        )
    verdict = _verdict(policy, policy.commands.exec or is_open(state_dir), shell)
    if isinstance(verdict, Denied) or verdict.cwd is None or "\0" in verdict.cwd:
        return verdict
    cwd = _resolved(verdict.cwd, verdict.user)
    return msgspec.structs.replace(verdict, cwd=cwd.decode("utf-8", "surrogateescape"))


def _verdict(policy: Policy, may_run: bool, spec: S) -> S | Denied:
    if not may_run:
        return Denied(
            "policy_denied",
            "agent.toml of this machine allows no commands (commands.exec);"
            " cmdop agent grant exec 30m, run there, opens a window",
        )
    own = _own_name()
    user = own if spec.user is None else spec.user
    users = policy.commands.users or (own,)
    if _ANY not in users and user not in users:
        return Denied(
            "user_denied",
            f"agent.toml of this machine allows no commands as user {user[:_SHOWN_CHARS]!r}"
            " (commands.users); name one that it allows as the command's user, or add this one"
            " there and start the agent again",
        )
    if spec.cwd is None or "\0" in spec.cwd or "/" in policy.files.roots:
        return spec  # no path holds a NUL: the keeper refuses it
    cwd = _resolved(spec.cwd, spec.user)
    if not any(_is_within(cwd, os.path.realpath(os.fsencode(root))) for root in policy.files.roots):
        return Denied(
            "policy_denied",
            f"agent.toml of this machine does not allow the working directory"
            f" {spec.cwd[:_SHOWN_CHARS]!r} (files.roots)",
        )
    # The keeper is given what was judged, lest a link that is changed meanwhile leads elsewhere.
    return msgspec.structs.replace(spec, cwd=cwd.decode("utf-8", "surrogateescape"))


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container may run as a number that has no name
        return str(os.geteuid())


def _resolved(cwd: str, user: str | None) -> bytes:
    """Where `cwd` leads, links followed; it counts from the user's home, in the keeper's bytes."""
    name = cwd.encode("utf-8", "surrogateescape")
    return os.path.realpath(name if name.startswith(b"/") else home_of(user) + b"/" + name)


def home_of(user: str | None) -> bytes:
    """Where a relative path of this user counts from; without one, of the agent's own."""
    home = os.environ.get("HOME") if user is None else None
    try:
        entry = pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user)
        home = home or entry.pw_dir
    except (KeyError, ValueError):  # no such user: the keeper says so
        home = home or "/"
    return os.fsencode(home)


def _is_within(path: bytes, root: bytes) -> bool:
    return path == root or path.startswith(root.rstrip(b"/") + b"/")
