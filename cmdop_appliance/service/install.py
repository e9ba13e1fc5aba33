"""`cmdop install` and `cmdop uninstall`: a program, its settings, and a service that runs it.

Every step is said, and done unless it is only to be said; each may be done again.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from cmdop_appliance.errors import UnusableProgram
from cmdop_appliance.private import write_private
from cmdop_appliance.release.numbers import order_of
from cmdop_appliance.service.folders import Home, Version
from cmdop_appliance.service.units import JOIN_FILE, agent_unit, hub_unit

What = Literal["hub", "agent"]

HUB_USER: Final = "cmdop"
AGENT_USER: Final = "root"  # so that the hub may do whatever agent.toml lets it
_SYSTEMD: Final = Path("/run/systemd/system")  # sd_booted(3)
_LISTEN: Final = "127.0.0.1:3006"
_SAID_BYTES: Final = 2000  # of what went wrong for another user
_HUB_SETTINGS: Final = """\
# Settings of the hub; read when it starts: systemctl{scope} restart cmdop-hub
# config.example.toml of the source shows every key.

[server]
# Where it listens: HOST:PORT. Beyond this machine, such as on "0.0.0.0:3006", it speaks TLS.
listen = "{listen}"
"""
_AGENT_SETTINGS: Final = """\
# What this machine lets its hub do; all, as long as nothing is said. Read when the agent starts:
# systemctl{scope} restart cmdop-agent

[commands]
# false: nothing may be started. `cmdop agent grant exec 30m` opens a window of 30 minutes.
# exec = true
# Whom a command may run as; "*": anyone.
# users = ["*"]

[files]
# Directories of which the hub may name something.
# roots = ["/"]
"""


class Steps:
    """What is done, one after another, and said."""

    def __init__(self, say: Callable[[str], None], *, is_dry: bool) -> None:
        self.say = say
        self.is_dry = is_dry

    def do(self, what: str, action: Callable[[], object]) -> None:
        """Say `what`, and do it."""
        self.say(what)
        if not self.is_dry:
            action()

    def run(self, *argv: str) -> None:
        """Say a command, and run it.

        Raises:
            UnusableProgram: it fails.
        """
        self.do(f"run {' '.join(argv)}", lambda: _run(argv))


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where everything goes, on a machine or in the home of a user who is not root."""

    programs: Path
    link: Path  # what people run
    settings: Path
    states: Path  # has a folder for the hub's data, one for the agent's state
    units: Path
    is_system: bool  # root's: a service has its own user
    has_users: bool  # who are made, and own what is theirs
    has_systemd: bool  # which is told

    def home(self, what: What, user: str) -> Home:
        """Where the program of a service is: its user's, who replaces it when it is upgraded.

        Root's is its own, so that nobody else can change what root runs.
        """
        own = self.is_system and user != "root"
        return Home(self.programs / what if own else self.programs)

    def state(self, what: What) -> Path:
        """Where the service keeps all that it must not lose."""
        return self.states / ("cmdop" if what == "hub" else "cmdop-agent")

    def config(self, what: What) -> Path:
        """Its settings."""
        return self.settings / ("cmdop.toml" if what == "hub" else "agent.toml")

    def unit(self, what: What) -> Path:
        """Its unit."""
        return self.units / f"cmdop-{what}.service"

    @property
    def scope(self) -> str:
        """Which systemd: an option of systemctl, as it stands in a line."""
        return "" if self.is_system else " --user"


def system_places(prefix: Path | None) -> Places:
    """Root's; with `prefix` below it, and then no service is started."""
    root = prefix or Path("/")
    return Places(
        programs=root / "opt/cmdop",
        link=root / "usr/local/bin/cmdop",
        settings=root / "etc/cmdop",
        states=root / "var/lib",
        units=root / "etc/systemd/system",
        is_system=True,
        has_users=prefix is None,
        has_systemd=prefix is None and _SYSTEMD.is_dir(),
    )


def user_places(environ: Mapping[str, str], home: Path) -> Places:
    """Those of a user who is not root."""

    def folder(variable: str, default: str) -> Path:
        return Path(environ.get(variable) or home / default)

    settings = folder("XDG_CONFIG_HOME", ".config")
    return Places(
        programs=folder("XDG_DATA_HOME", ".local/share") / "cmdop",
        link=home / ".local/bin/cmdop",
        settings=settings / "cmdop",
        states=folder("XDG_STATE_HOME", ".local/state"),
        units=settings / "systemd/user",
        is_system=False,
        has_users=False,
        has_systemd=_SYSTEMD.is_dir() and "XDG_RUNTIME_DIR" in environ,
    )


def is_installed(places: Places, what: What) -> bool:
    """Whether the service is there."""
    return places.unit(what).exists()


def install_hub(places: Places, onefile: Path, listen: str | None, steps: Steps) -> None:
    """The hub as a service; one that is there becomes of this program.

    `listen`: where, HOST:PORT, if it has no settings yet.

    Raises:
        UnusableProgram: the program does not run here, or systemd does not take the service.
        OSError: something cannot be written.
    """
    if places.has_users and not _has(HUB_USER):
        state = str(places.state("hub"))
        steps.run(
            *("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", state),
            *("--shell", "/usr/sbin/nologin", HUB_USER),
        )
    home = _put_program(places, "hub", HUB_USER, onefile, steps)
    _make_state(places, "hub", HUB_USER, steps)
    settings = _HUB_SETTINGS.format(scope=places.scope, listen=listen or _LISTEN)
    is_there = places.config("hub").exists()
    _put_settings(places.config("hub"), settings, steps)
    if listen is not None and is_there:
        steps.say(f"{listen} is not put there: change `listen` yourself")
    user = HUB_USER if places.is_system else None
    unit = hub_unit(home.path, places.config("hub"), places.state("hub"), user)
    _put_unit(places, "hub", unit, steps)


def install_agent(places: Places, onefile: Path, user: str, join: str | None, steps: Steps) -> None:
    """The agent as a service that runs as `user`; `join`: what JOIN_FILE is to hold.

    Raises: as `install_hub`.
    """
    home = _put_program(places, "agent", user, onefile, steps)
    _make_state(places, "agent", user, steps)
    if join is not None:
        file = places.state("agent") / JOIN_FILE

        def write() -> None:
            _do_as(places, user, partial(write_private, file, join))

        steps.do(f"write {file}, which goes when the machine has joined", write)
    _put_settings(places.config("agent"), _AGENT_SETTINGS.format(scope=places.scope), steps)
    unit_user = user if places.is_system else None
    unit = agent_unit(home.path, places.config("agent"), places.state("agent"), unit_user)
    _put_unit(places, "agent", unit, steps)


def uninstall(places: Places, what: What, *, purge: bool, steps: Steps) -> None:
    """Stop the service and remove it; `purge`: with its data, its settings, and its user.

    What an agent's hub has started on this machine is ended.

    Raises:
        UnusableProgram: systemd does not do it.
        OSError: something cannot be removed.
    """
    unit = places.unit(what)
    if unit.exists():
        if places.has_systemd:
            if what == "agent":
                _end_commands(places, unit, steps)
            _systemctl(places, steps, "disable", "--now", unit.name)
        steps.do(f"remove {unit}", unit.unlink)
        if places.has_systemd:
            _systemctl(places, steps, "daemon-reload")
    for path in (places.state(what), places.config(what)):
        if path.exists() and not purge:
            steps.say(f"keep {path}")
        elif path.exists():
            steps.do(f"remove {path}", partial(_remove, path))
    if places.is_system:
        _clear(Home(places.programs / what), steps)
    if purge and what == "hub" and places.has_users and _has(HUB_USER):
        steps.run("userdel", HUB_USER)
    if not is_installed(places, "agent" if what == "hub" else "hub"):
        if places.link.is_symlink():
            steps.do(f"remove {places.link}", places.link.unlink)
        _clear(Home(places.programs), steps)  # last: we may run from there


def _put_program(places: Places, what: What, user: str, onefile: Path, steps: Steps) -> Home:
    """The program for people, and for the service that it becomes; the service's home."""
    own, home = Home(places.programs), places.home(what, user)
    added: Version | None = None

    def add(to: Home, file: Path) -> None:
        nonlocal added
        added = to.add(file)
        if what == "hub":
            _require_not_older(added, home.current())
        to.switch(added)
        to.prune()

    steps.do(f"unpack {onefile} into {own.path}", lambda: add(own, onefile))
    if home.path != own.path:

        def add_as_user() -> None:
            assert added is not None
            home.path.mkdir(mode=0o755, exist_ok=True)
            if places.has_users:
                _give(home.path, user)
            _do_as(places, user, partial(add, home, added.onefile))

        steps.do(f"and into {home.path}, which is {user}'s", add_as_user)
    target = own.path / "current/cmdop"
    if not (places.link.is_symlink() and places.link.readlink() == target):
        steps.do(f"link {places.link} to {target}", lambda: _link(places.link, target))
    return home


def _require_not_older(added: Version, current: Version | None) -> None:
    """An older program does not read the store of the current one."""
    with suppress(ValueError):  # somebody's own build, whose version has no order
        if current is not None and order_of(added.number) < order_of(current.number):
            raise UnusableProgram(
                f"this file is {added.number}, and the hub is {current.number}, which came later",
                hint="the way back to an older release is a backup that it made",
            )


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.rename(link)


def _make_state(places: Places, what: What, user: str, steps: Steps) -> None:
    folder = places.state(what)

    def make() -> None:
        folder.mkdir(mode=0o700, parents=True)
        if places.has_users:
            _give(folder, user)

    if not folder.exists():
        steps.do(f"make {folder}", make)


def _put_settings(path: Path, text: str, steps: Steps) -> None:
    if path.exists():
        steps.say(f"keep {path}")
    else:
        steps.do(f"write {path}", lambda: _write(path, text))


def _put_unit(places: Places, what: What, text: str, steps: Steps) -> None:
    unit = places.unit(what)
    steps.do(f"write {unit}", lambda: _write(unit, text))
    if not places.has_systemd:
        steps.say(f"nothing is started: ExecStart in {unit} says how")
        return
    _systemctl(places, steps, "daemon-reload")
    _systemctl(places, steps, "enable", unit.name)
    _systemctl(places, steps, "restart", unit.name)
    if not places.is_system:
        steps.say("so that it runs without you, too: loginctl enable-linger")


def _end_commands(places: Places, unit: Path, steps: Steps) -> None:
    """Let systemd end with the agent whatever is left of its service."""

    def change() -> None:
        _write(unit, unit.read_text().replace("KillMode=process", "KillMode=mixed"))

    steps.do("let the machine's commands and terminals end with the agent", change)
    _systemctl(places, steps, "daemon-reload")


def _clear(home: Home, steps: Steps) -> None:
    if home.path.exists():
        left: list[Version] = []

        def clear() -> None:
            owner = home.path.stat()
            _do_with_rights(owner.st_uid, owner.st_gid, home.clear)
            with suppress(OSError):  # it is not empty; what it is in is not the owner's
                home.path.rmdir()
            left.extend(home.versions())

        steps.do(f"remove {home.path}", clear)
        for version in left:
            steps.say(f"keep {version.path}: something runs from it")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _write(path: Path, text: str) -> None:
    """Everybody may read it; it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, text)
    path.chmod(0o644)


def _systemctl(places: Places, steps: Steps, *words: str) -> None:
    steps.run("systemctl", *places.scope.split(), *words)


def _run(argv: tuple[str, ...]) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise UnusableProgram(f"{' '.join(argv)}: {said or f'exit code {done.returncode}'}")


def _has(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _give(folder: Path, user: str) -> None:
    """Make an empty folder the user's."""
    account = pwd.getpwnam(user)
    os.chown(folder, account.pw_uid, account.pw_gid)


def _do_as(places: Places, user: str, action: Callable[[], object]) -> None:
    """Do it with the rights of this user, so that it is theirs."""
    if not places.has_users:
        action()
        return
    account = pwd.getpwnam(user)
    _do_with_rights(account.pw_uid, account.pw_gid, action)


def _do_with_rights(uid: int, gid: int, action: Callable[[], object]) -> None:
    """Do it with these rights and no others, and without our terminal.

    A link that its owner has planted leads nowhere that they could not go themselves.
    """
    if uid == os.geteuid():
        action()
        return
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setsid()  # a program of theirs types nothing into it
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            action()
            os._exit(0)
        except BaseException as exc:  # noqa: BLE001 - else two processes would go on
            os.write(theirs, str(exc).encode(errors="replace")[:_SAID_BYTES])
            os._exit(1)
    os.close(theirs)
    with open(ours, "rb") as said:  # noqa: PTH123 - it is a descriptor
        reason = said.read().decode(errors="replace")
    if os.waitpid(child, 0)[1]:
        raise UnusableProgram(f"as uid {uid}: {reason}")
