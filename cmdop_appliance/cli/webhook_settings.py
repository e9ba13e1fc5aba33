"""What a webhook may have, as options: what `create` and `edit` of `cmdop webhooks` share."""

import sys
from collections.abc import Iterable
from typing import Any, BinaryIO, Final, get_args

import click

from cmdop_appliance.cli.failures import USAGE, Failure
from cmdop_appliance.cli.options import said, with_options
from cmdop_appliance.sdk.webhook_types import Preset

_FAMILY: Final = ".*"
_FILE_BYTES: Final = 64 * 1024  # more than any secret or all headers: a file named by mistake

_SETTINGS: Final = (
    click.option(
        "--preset",
        type=click.Choice(get_args(Preset)),
        help="Send messages that such a receiver shows.",
    ),
    click.option(
        "--header",
        "headers",
        multiple=True,
        metavar="'K: V'",
        help="Send it along; may be repeated. For a token: --header-file.",
    ),
    click.option(
        "--header-file",
        type=click.File("rb"),
        help="Headers, one a line; - is standard input.",
    ),
    click.option(
        "--secret-file",
        type=click.File("rb"),
        help="What to sign with from now on; - is standard input.",
    ),
    click.option("--description", metavar="TEXT"),
)

settings = with_options(_SETTINGS)


def expand(names: Iterable[str]) -> list[str]:
    """The events; `schedule.*` stands for all of its family that this version knows.

    Raises:
        Failure: there is no such family.
    """
    found: list[str] = []
    for name in names:
        if name.endswith(_FAMILY):
            from cmdop_appliance.model import EVENT_TYPES  # msgspec: only for a family

            family = [kind for kind in EVENT_TYPES if kind.startswith(name.removesuffix("*"))]
            if not family:
                known = sorted({kind.partition(".")[0] + _FAMILY for kind in EVENT_TYPES})
                raise Failure(
                    f'there is no event "{name}"',
                    exit_code=USAGE,
                    hint=f"known are {', '.join(known)}",
                )
            found += family
        else:
            found.append(name)
    return list(dict.fromkeys(found))


def options_of(given: dict[str, Any]) -> dict[str, Any]:
    """What the options say, by the names of the SDK.

    Raises:
        Failure: a header or a secret cannot be one; what it is, is not repeated.
    """
    secret = given["secret_file"] and _text(given["secret_file"], "--secret-file").strip()
    if secret == "":
        raise Failure("--secret-file has no secret in it", exit_code=USAGE)
    lines = [*given["headers"]]
    if given["header_file"]:
        read = _text(given["header_file"], "--header-file").splitlines()
        lines += [line for line in read if line.strip()]
    return said(
        {
            "preset": given["preset"],
            "headers": dict(map(_header, lines)) or None,
            "secret": secret,
            "description": given["description"],
        }
    )


def url_of(given: str) -> str:
    """The URL; `-`: what standard input has.

    Raises:
        Failure: it has none.
    """
    if given != "-":
        return given
    url = _text(sys.stdin.buffer, "standard input").strip()
    if not url:
        raise Failure("standard input has no URL", exit_code=USAGE)
    return url


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not (name.strip() and colon and value.strip()):  # not quoted: it may be a token
        raise Failure("a header needs its name, a colon and its value", exit_code=USAGE)
    return name.strip(), value.strip()


def _text(file: BinaryIO, name: str) -> str:
    raw = file.read(_FILE_BYTES + 1)
    if len(raw) > _FILE_BYTES:
        raise Failure(f"{name} is larger than {_FILE_BYTES} bytes", exit_code=USAGE)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Failure(f"{name} has bytes that are not UTF-8", exit_code=USAGE) from None
