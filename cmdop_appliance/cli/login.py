"""`cmdop login` and `logout`: which hub is talked to, and its key, kept for next time."""

import os
import sys
from urllib.parse import urlsplit

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.connection import Hub, open_client
from cmdop_appliance.cli.contexts import NAME, Context, read_contexts, write_contexts
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.meeting import meet
from cmdop_appliance.cli.text import visible
from cmdop_appliance.sdk import CmdopError, Unauthorized
from cmdop_appliance.sdk.envelope import address_of


@click.command()
@click.argument("url")
@click.option("--name", metavar="NAME", help="What to call it. Default: the hub's host name.")
@click.option(
    "--fingerprint",
    metavar="sha256//…",
    help="The hub's TLS key, as it says itself at its start, if nobody vouches for it.",
)
def login(url: str, name: str | None, fingerprint: str | None) -> None:
    """Keep an API key for the hub at URL, and talk to that hub from now on.

    The key is asked for, or read from standard input: cmdop login URL < admin.key

    A hub that has made its certificate itself is known by the key in that: you are asked whether it
    is the right one, or say so by --fingerprint.
    """
    url = url.rstrip("/")
    try:
        address_of(url)
    except CmdopError as exc:
        raise Failure(str(exc), exit_code=failures.USAGE) from exc
    name = name or urlsplit(url).hostname or ""
    if NAME.fullmatch(name) is None:
        raise Failure(
            f'"{name}" cannot be the name of a context',
            exit_code=failures.USAGE,
            hint="--name takes 1 to 63 letters, digits, dots, dashes and underscores",
        )
    certificate = meet(url, fingerprint)
    key = _ask_key()
    with open_client(Hub(url, key, "login", certificate)) as client:
        try:
            me = client.me()
        except Unauthorized as exc:
            raise Failure(
                str(exc),
                exit_code=failures.NOT_ALLOWED,
                hint="the hub's first key is in admin.key of its data directory;"
                " cmdop auth create-key makes others",
            ) from exc
    contexts = read_contexts(os.environ).with_one(name, Context(url, key, certificate))
    path = write_contexts(contexts, os.environ)
    scopes = ", ".join(me["permissions"])
    print(visible(f"logged in to {url} by the key {me['name']}: {scopes}"), file=sys.stderr)
    print(visible(f'kept in {path} as the context "{name}"'), file=sys.stderr)
    if "CMDOP_URL" in os.environ or "CMDOP_BASE_URL" in os.environ:
        print("CMDOP_URL is set, and goes before it", file=sys.stderr)


@click.command()
@click.argument("name", required=False)
def logout(name: str | None) -> None:
    """Forget the key of the hub that is talked to, or of the context NAME."""
    contexts = read_contexts(os.environ)
    name = name or contexts.current
    if name is None:
        raise Failure("logged in to no hub", exit_code=failures.USAGE, hint="cmdop context ls")
    url = contexts.get(name).url
    write_contexts(contexts.without(name), os.environ)
    print(visible(f"forgot the key for {url}, which is still good there"), file=sys.stderr)


def _ask_key() -> str:
    if sys.stdin is not None and sys.stdin.isatty():
        from getpass import getpass

        key = getpass("API key: ")
    else:
        key = sys.stdin.readline() if sys.stdin is not None else ""
    return key.strip()
