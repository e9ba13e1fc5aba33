"""Which hub the command line talks to, and with which key."""

import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar
from urllib.parse import urlsplit

import click

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.contexts import read_contexts
from cmdop_appliance.cli.failures import Failure

if TYPE_CHECKING:
    from cmdop_appliance.sdk import Client

P = ParamSpec("P")
R = TypeVar("R")

DATA_DIR: Final = Path("cmdop-data")  # below the working directory, like `cmdop serve`
INSTALLED_DATA_DIR: Final = Path("/var/lib/cmdop")  # of `cmdop install hub`, as root
# Of an address that `is_here`, shown to be taken elsewhere.
ONLY_HERE: Final = (
    "this address is good on the hub's own machine only: elsewhere put the hub's there"
)
_THIS_MACHINE: Final = ("127.0.0.1", "::1", "localhost")
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
    certificate: str = ""  # its own (PEM), by which it is known; "": somebody vouches for it

    @property
    def is_here(self) -> bool:
        """The address leads to the hub on the hub's own machine alone."""
        return urlsplit(self.url).hostname in _THIS_MACHINE


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
    data_dir = chosen.data_dir or local_data_dir(environ)
    if url is not None and key is not None:
        return Hub(url, key, source, _certificate(url, key, data_dir, environ))
    if url is not None:
        key = read_contexts(environ).key_for(url)
    elif chosen.data_dir is None and (found := _find_context(chosen, environ)) is not None:
        return found
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
    return Hub(url, key, source, _certificate(url, key, data_dir, environ))


def local_data_dir(environ: Mapping[str, str]) -> Path:
    """Where a hub on this machine may have its data, if nobody has named the directory."""
    if named := environ.get("CMDOP_DATA_DIR"):
        return Path(named)
    if not DATA_DIR.exists():
        for installed in (*_own_data_dir(environ), INSTALLED_DATA_DIR):
            if os.access(installed / "admin.key", os.R_OK):
                return installed
    return DATA_DIR


def _own_data_dir(environ: Mapping[str, str]) -> list[Path]:
    """Where `cmdop install hub` puts the data of who is not root; none: this user has no home."""
    home = environ.get("HOME")
    state = environ.get("XDG_STATE_HOME") or (home and f"{home}/.local/state")
    return [Path(state, "cmdop")] if state else []


def _find_context(chosen: Chosen, environ: Mapping[str, str]) -> Hub | None:
    contexts = read_contexts(environ)
    name = chosen.context or environ.get("CMDOP_CONTEXT") or contexts.current
    if name is None:
        return None
    context = contexts.get(name)
    return Hub(context.url, chosen.key or context.key, f"context {name}", context.certificate)


def _certificate(url: str, key: str, data_dir: Path, environ: Mapping[str, str]) -> str:
    """What the hub at `url` is known by, if it runs here or cmdop login has met it.

    Anybody may have made a `DATA_DIR` where we are: it speaks for no hub whose key it has not.
    """
    if not url.startswith("https:") or environ.get("CMDOP_CA_FILE"):
        return ""
    ready = _read_ready(data_dir)
    is_meant = data_dir != DATA_DIR or _read(data_dir / "admin.key") == key
    if is_meant and ready.get("url") == url:
        return str(ready.get("certificate") or "")
    return read_contexts(environ).certificate_for(url)


def _no_hub(data_dir: Path, chosen: Chosen) -> Failure:
    if chosen.data_dir is None and not data_dir.exists():
        if INSTALLED_DATA_DIR.exists() and not os.access(INSTALLED_DATA_DIR, os.R_OK):
            return Failure(
                f"the hub of this machine, in {INSTALLED_DATA_DIR}, is not ours to read",
                exit_code=failures.NOT_ALLOWED,
                hint=f"sudo cmdop …, or {_HINT}",
            )
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
    """What is in a file of a data directory; None: nothing, or it may not be read.

    Root looks into that of a service, too: no link that leads to another's secret is followed.
    """
    try:
        with path.open(encoding="utf-8") as file:
            is_theirs = os.fstat(file.fileno()).st_uid == path.parent.stat().st_uid
            return (file.read().strip() or None) if is_theirs else None
    except (OSError, UnicodeDecodeError):
        return None


def _read_url(data_dir: Path) -> str | None:
    url = _read_ready(data_dir).get("url")
    return url if isinstance(url, str) else None


def _read_ready(data_dir: Path) -> dict[str, object]:
    """What the hub that runs there says of itself."""
    try:
        said = json.loads(_read(data_dir / "hub.json") or "")
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


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
        hub = find_hub(chosen, os.environ)
        try:
            return command(hub, *args, **kwargs)
        except Exception as exc:
            exc.add_note(hub.source)  # for whoever tells that it is not reached
            raise

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
    from cmdop_appliance.sdk.transport import TIMEOUT_S

    waits_s = TIMEOUT_S if timeout_s is None else timeout_s
    try:
        return Client(hub.url, hub.key, timeout_s=waits_s, certificate=hub.certificate)
    except CmdopError as exc:
        raise Failure(str(exc), exit_code=failures.USAGE) from exc


def group_options() -> Chosen:
    """What was said before the command's name: `cmdop --hub URL machines ls`."""
    return click.get_current_context().find_object(Chosen) or Chosen()
