"""The environment a command gets: the one the agent was started with, and nothing of ours."""

import os
from collections.abc import Mapping

# A launcher that sets TMPDIR for our own program leaves the value it replaced here, "" for none.
ORIGINAL_TMPDIR = "CMDOP_ORIGINAL_TMPDIR"

_OURS = "CMDOP_"  # the agent's settings, which may hold secrets
_PACKER = ("_PYI_", "_MEI", "PYINSTALLER_")  # set by PyInstaller's boot loader for itself
_CHANGED = ("LC_CTYPE", "SSL_CERT_FILE")
_PYTHON = ("PYTHONHOME", "PYTHONPATH")


def process_environment() -> dict[str, str]:
    """The environment without what was done to it since the start.

    In the C locale Python sets LC_CTYPE (PEP 538), and `find_authorities` sets SSL_CERT_FILE.
    """
    environ = dict(os.environ)
    try:
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - pathlib is not loaded here
            at_start = file.read().split(b"\0")
    except OSError:  # not Linux
        return environ
    for name in _CHANGED:
        environ.pop(name, None)
    for variable in at_start:
        name, _, value = os.fsdecode(variable).partition("=")
        if name in _CHANGED:
            environ[name] = value
    return environ


def original_environment(environ: Mapping[str, str], bundle: str | None) -> dict[str, str]:
    """`environ` as it was before our program and its packer touched it.

    `bundle` is the folder a packed program runs from (`sys._MEIPASS`), None when run from source.
    """
    clean = {name: value for name, value in environ.items() if not name.startswith(_OURS)}
    if ORIGINAL_TMPDIR in environ:
        clean["TMPDIR"] = environ[ORIGINAL_TMPDIR]
        if not clean["TMPDIR"]:
            del clean["TMPDIR"]
    if bundle is None:
        return clean
    for name in list(clean):
        if name.startswith(_PACKER) or (name in _PYTHON and clean[name].startswith(bundle)):
            del clean[name]
    # The boot loader points LD_LIBRARY_PATH into the bundle and keeps a value it replaced beside.
    clean.pop("LD_LIBRARY_PATH", None)
    if (original := clean.pop("LD_LIBRARY_PATH_ORIG", None)) is not None:
        clean["LD_LIBRARY_PATH"] = original
    return clean
