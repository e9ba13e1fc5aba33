"""The environment a command gets: the one the agent was started with, and nothing of ours."""

import os
from collections.abc import Mapping

_OURS = "CMDOP_"  # the agent's settings, which may hold secrets
_CHANGED = ("LC_CTYPE", "SSL_CERT_FILE")


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


def original_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` as it was before our program touched it."""
    return {name: value for name, value in environ.items() if not name.startswith(_OURS)}
