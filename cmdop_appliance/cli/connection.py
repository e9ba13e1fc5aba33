"""Which hub the command line talks to, and with which key."""

import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.contexts import read_contexts
from cmdop_appliance.cli.failures import Failure

if TYPE_CHECKING:
    from cmdop_appliance.sdk import Client

P = ParamSpec("P")
R = TypeVar("R")

DATA_DIR: Final = Path("cmdop-data")  # below the working directory, like `cmdop serve`
_HINT: Final = "cmdop login URL, or set CMDOP_URL and CMDOP_API_KEY, or name the --data-dir"


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the options said, before or after the command's name; None: they did not."""

    hub: str | None = None
    key: str | None = None
    data_dir: Path | None = None
    context: str | None = None

    def overridden_by(self, later: "Chosen") -> "Chosen":
        """The option nearer to the command wins."""
        return replace(
            self,
            hub=later.hub or self.hub,
            key=later.key or self.key,
            data_dir=later.data_dir or self.data_dir,
            context=later.context or self.context,
        )


@dataclass(frozen=True, slots=True)
class Hub:
    """An address, a key, and where they were found."""

    url: str
    key: str
    source: str


def find_hub(chosen: Chosen, environ: Mapping[str, str]) -> Hub:
    """Options, then variables, then a context, then a data directory that we may read.

    A context or a data directory named by option comes before the variables. The key of a context
    is given to no other hub than its own, and that in a data directory to the one that runs there.

    Raises:
        Failure: nothing names a hub, or no key goes with it.
    """
    key = chosen.key or environ.get("CMDOP_API_KEY")
    url, source = chosen.hub, "--hub"
    if url is None and chosen.data_dir is None and chosen.context is None:
        url = environ.get("CMDOP_URL") or environ.get("CMDOP_BASE_URL")
        source = "CMDOP_URL"
    if url is not None and key is not None:
        return Hub(url, key, source)
    if url is not None:
        key = read_contexts(environ).key_for(url)
    elif chosen.data_dir is None and (found := _find_context(chosen, environ)) is not None:
        return found
    data_dir = chosen.data_dir or Path(environ.get("CMDOP_DATA_DIR") or DATA_DIR)
    local_url, local_key = _read_url(data_dir), _read(data_dir / "admin.key")
    if url is None:
        if local_url is None:
            raise _no_hub(data_dir, chosen)
        url, source = local_url, str(data_dir)
        key = chosen.key or local_key
    elif url == local_url:
        key = key or local_key
    if key is None:
        raise Failure(f"no API key for {url}", exit_code=failures.NOT_ALLOWED, hint=_HINT)
    return Hub(url, key, source)


def _find_context(chosen: Chosen, environ: Mapping[str, str]) -> Hub | None:
    contexts = read_contexts(environ)
    name = chosen.context or environ.get("CMDOP_CONTEXT") or contexts.current
    if name is None:
        return None
    context = contexts.get(name)
    return Hub(context.url, chosen.key or context.key, f"context {name}")


def _no_hub(data_dir: Path, chosen: Chosen) -> Failure:
    if chosen.data_dir is None and not data_dir.exists():
        return Failure("no hub is known here", exit_code=failures.USAGE, hint=_HINT)
    if os.access(data_dir, os.R_OK | os.X_OK) or not data_dir.exists():
        return Failure(
            f"no hub is running in {data_dir}",
            exit_code=failures.UNREACHABLE,
            hint=f"cmdop serve --data-dir {data_dir}",
        )
    return Failure(
        f"the data directory {data_dir} is not ours to read",
        exit_code=failures.NOT_ALLOWED,
        hint=_HINT,
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _read_url(data_dir: Path) -> str | None:
    try:
        url = json.loads(_read(data_dir / "hub.json") or "")["url"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return url if isinstance(url, str) else None


def chosen_options(command: Callable[Concatenate[Chosen, P], R]) -> Callable[..., R]:
    """Give a command --hub, --key, --data-dir and --context, and pass it what is `Chosen`."""

    @click.option("--hub", metavar="URL", help="The hub's address.")
    @click.option("--key", metavar="KEY", help="An API key (better: CMDOP_API_KEY).")
    @click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="A hub's data directory on this machine.",
    )
    @click.option("--context", metavar="NAME", help="A hub that cmdop login has kept a key for.")
    @functools.wraps(command)
    def with_chosen(
        *args: Any,
        hub: str | None,
        key: str | None,
        data_dir: Path | None,
        context: str | None,
        **kwargs: Any,
    ) -> R:
        chosen = group_options().overridden_by(Chosen(hub, key, data_dir, context))
        return command(chosen, *args, **kwargs)

    return with_chosen


def hub_options(command: Callable[Concatenate[Hub, P], R]) -> Callable[..., R]:
    """Like `chosen_options`, and pass the `Hub` that they lead to."""

    @chosen_options
    @functools.wraps(command)
    def with_hub(chosen: Chosen, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return command(find_hub(chosen, os.environ), *args, **kwargs)

    return with_hub


def client_options(command: "Callable[Concatenate[Client, P], R]") -> Callable[..., R]:
    """Like `hub_options`, and pass an open client."""

    @hub_options
    @functools.wraps(command)
    def with_client(hub: Hub, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with open_client(hub) as client:
            return command(client, *args, **kwargs)

    return with_client


def open_client(hub: Hub, *, timeout_s: float | None = None) -> "Client":
    """A client of that hub. `timeout_s`: see `Client`.

    Raises:
        Failure: the address or the key cannot be one.
    """
    from cmdop_appliance.sdk import Client, CmdopError  # 60 ms, which `version` need not pay

    options = {} if timeout_s is None else {"timeout_s": timeout_s}
    try:
        return Client(hub.url, hub.key, **options)
    except CmdopError as exc:
        raise Failure(str(exc), exit_code=failures.USAGE) from exc


def group_options() -> Chosen:
    """What was said before the command's name: `cmdop --hub URL machines ls`."""
    return click.get_current_context().find_object(Chosen) or Chosen()
