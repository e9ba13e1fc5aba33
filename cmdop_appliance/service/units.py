"""The systemd units of hub and agent."""

import re
from pathlib import Path
from typing import Final

JOIN_FILE: Final = "join.json"  # in the state directory: hub, token, name and plain_http

# Nothing that systemd takes for more than itself.
_PLAIN: Final = re.compile(r"[\w@%+=:,./-]+")

_HEAD: Final = """\
# Made by `cmdop install {what}`, and made anew by the next. Changes go into a file of their own:
# systemctl{scope} edit cmdop-{what}
[Unit]
Description=cmdop {what}
{network}StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
"""
_NETWORK: Final = "Wants=network-online.target\nAfter=network-online.target\n"
_HUB: Final = """\
ExecStart={program} serve --config {config} --data-dir {data_dir}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={folder}
Restart=always
RestartSec=1
# A disk may hang for a minute, and half of this may be over when it begins.
WatchdogSec=120
# A large store is looked through, and brought up to date.
TimeoutStartSec=15min
TimeoutStopSec=15
KillMode=mixed
LimitNOFILE=65536
LimitCORE=0
UMask=0077
"""
# Of the machine it has a socket, and what is its user's: data, program, a place for backups.
_HARDENING: Final = """\
# What it says of a fault of its own stays; its /tmp goes with it.
Environment={tmp}
StateDirectory={state}
StateDirectoryMode=0700
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
ProtectSystem=full
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
"""
# KillMode: the keeper, and with it commands and terminals, runs on without the agent. They share
# the service: one that takes all memory does not end it, and they may be many. Exit code 3: the
# machine was removed from its hub.
_AGENT: Final = """\
ExecStart={program} agent --state-dir {state_dir} --config {config} --join {join}
Restart=always
RestartSec=5
RestartPreventExitStatus=3
WatchdogSec=120
TimeoutStopSec=15
KillMode=process
OOMPolicy=continue
TasksMax=infinity
Delegate=yes
"""
_STATE: Final = """\
StateDirectory={state}
StateDirectoryMode=0700
"""
_FOOT: Final = """
[Install]
WantedBy={target}
"""


def hub_unit(home: Path, config: Path, data_dir: Path, user: str | None) -> str:
    """The hub's unit; `user` is whom it runs as, None: it is one of a user's own units."""
    service = _HUB.format(
        program=_word(home / "current/cmdop"),
        config=_argument(config),
        data_dir=_argument(data_dir),
        folder=_text(data_dir),
    )
    if user is not None:
        hardening = _HARDENING.format(tmp=_word(f"TMPDIR={data_dir}"), state=data_dir.name)
        service = f"User={user}\n{service}{hardening}"
    return _head("hub", user) + service + _foot(user)


def agent_unit(home: Path, config: Path, state_dir: Path, user: str | None) -> str:
    """The agent's; it is not hardened, for whatever it runs is what the hub may do."""
    service = _AGENT.format(
        program=_word(home / "current/cmdop"),
        config=_argument(config),
        state_dir=_argument(state_dir),
        join=_argument(state_dir / JOIN_FILE),
    )
    if user is not None:  # without User= commands have no HOME
        service = f"User={user}\n{service}" + _STATE.format(state=state_dir.name)
    return _head("agent", user) + service + _foot(user)


def _head(what: str, user: str | None) -> str:
    scope, network = (" --user", "") if user is None else ("", _NETWORK)
    return _HEAD.format(what=what, scope=scope, network=network)


def _foot(user: str | None) -> str:
    return _FOOT.format(target="default.target" if user is None else "multi-user.target")


def _text(path: Path | str) -> str:
    """As systemd takes a whole line."""
    return str(path).replace("%", "%%")


def _word(path: Path | str) -> str:
    """As one word of a line, which systemd splits at spaces (systemd.syntax(7), "Quoting")."""
    text = _text(path)
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _argument(path: Path) -> str:
    """As one word of a command line, in which systemd looks for variables, too."""
    return _word(path).replace("$", "$$")
