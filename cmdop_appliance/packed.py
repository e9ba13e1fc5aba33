"""The packed program (packaging/): what its packer did to the environment, and how to start it."""
# ruff: noqa: PTH110, PTH120 - without pathlib: the keeper comes through here

import fcntl
import os
import sys
from collections.abc import MutableMapping

ONEFILE = "CMDOP_ONEFILE"  # names the one file that launcher.c unpacked us from

_PACKER = ("_PYI_", "_MEI", "PYINSTALLER_")


def settle(environ: MutableMapping[str, str]) -> None:
    """Give the environment back what it was, and hold the folder that we run from.

    The boot loader points LD_LIBRARY_PATH into the folder and keeps a value it replaced beside.
    Nobody cleans up a folder that is locked: neither launcher.c of another version nor
    systemd-tmpfiles.
    """
    for name in list(environ):
        if name.startswith(_PACKER):
            del environ[name]
    environ.pop("LD_LIBRARY_PATH", None)
    if (original := environ.pop("LD_LIBRARY_PATH_ORIG", None)) is not None:
        environ["LD_LIBRARY_PATH"] = original
    try:
        folder = os.open(os.path.dirname(sys.executable), os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)  # held until the process ends
    except OSError:  # it is being cleaned away already
        pass


def own_program() -> str:
    """What starts another process of this program.

    It is the folder's, which is of our very version; if that is gone, the one file makes it anew.
    """
    if not os.path.exists(sys.executable) and os.path.exists(os.environ.get(ONEFILE, "")):
        return os.environ[ONEFILE]
    return sys.executable
