"""What a machine says of itself when it connects."""

import os
import platform
import pwd
import socket
import sys
from typing import Literal

import psutil

from cmdop_appliance import __version__
from cmdop_appliance.agent.policy import home_of
from cmdop_appliance.protocol.limits import HOSTNAME_BYTES, LABEL_CHARS
from cmdop_appliance.protocol.messages import CONTROLS, Facts


def facts() -> Facts:
    """Read them now: a hostname may change while the agent runs."""
    user = _user()
    system = platform.uname()
    return Facts(
        hostname=_hostname(socket.gethostname()),
        platform=_platform(),
        os=_label(_distribution() or system.system),
        arch=_label(system.machine),
        kernel=_label(system.release),
        user=_label(user),
        home=_label(os.fsdecode(home_of(None))),
        agent_version=__version__,
        cpu_cores=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
    )


def _platform() -> Literal["linux", "darwin", "win32"]:
    if sys.platform == "darwin":
        return "darwin"
    return "win32" if sys.platform == "win32" else "linux"


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:  # no os-release file: not a Linux distribution, or a very small one
        return ""


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a number that has no name
        return str(os.getuid())


def _hostname(text: str) -> str:
    """As a hub takes it."""
    return _label(text).encode()[:HOSTNAME_BYTES].decode(errors="ignore")


def _label(text: str) -> str:
    """As a message can carry it: host names and paths are bytes, and may be any."""
    return CONTROLS.sub("?", text.encode("utf-8", "replace").decode())[:LABEL_CHARS]
