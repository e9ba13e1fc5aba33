"""The hubs that a person has logged in to, each with its key, in a file that is theirs alone."""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from cmdop_appliance.cli import failures
from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.text import visible

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_OTHERS: Final = 0o077  # what everybody but the owner may do


@dataclass(frozen=True, slots=True)
class Context:
    """A hub, and the key for it."""

    url: str
    key: str = field(repr=False)
    certificate: str = ""  # its own (PEM), if nobody vouches for that


@dataclass(frozen=True, slots=True)
class Contexts:
    """All of them by name, and which is used when nothing else is said."""

    known: Mapping[str, Context] = field(default_factory=dict)
    current: str | None = None

    def get(self, name: str) -> Context:
        """The one of this name.

        Raises:
            Failure: there is none.
        """
        if name not in self.known:
            raise Failure(
                f'no context "{name}"', exit_code=failures.NOT_FOUND, hint="cmdop context ls"
            )
        return self.known[name]

    def key_for(self, url: str) -> str | None:
        """A key that is for this hub and no other."""
        return next((each.key for each in self.known.values() if each.url == url), None)

    def certificate_for(self, url: str) -> str:
        """By what this hub is known; "": whoever vouches for it."""
        return next((each.certificate for each in self.known.values() if each.url == url), "")

    def with_one(self, name: str, context: Context) -> "Contexts":
        """Also, or instead, this one, which is used from now on."""
        return Contexts({**self.known, name: context}, name)

    def using(self, name: str) -> "Contexts":
        """This one is used from now on. Raises: as `get`."""
        self.get(name)
        return replace(self, current=name)

    def without(self, name: str) -> "Contexts":
        """All but this one. Raises: as `get`."""
        self.get(name)
        known = {other: context for other, context in self.known.items() if other != name}
        return Contexts(known, None if self.current == name else self.current)


def config_file(environ: Mapping[str, str]) -> Path | None:
    """Where they are kept, by the XDG rules; None: this user has no home."""
    if base := environ.get("XDG_CONFIG_HOME"):
        return Path(base) / "cmdop/config.toml"
    home = environ.get("HOME")
    return Path(home) / ".config/cmdop/config.toml" if home else None


def read_contexts(environ: Mapping[str, str]) -> Contexts:
    """What the file holds; nothing, if there is none.

    Raises:
        Failure: the file cannot be read, or is not what `write_contexts` writes.
    """
    path = config_file(environ)
    try:
        if path is None or not path.exists():
            return Contexts()
        if path.stat().st_mode & _OTHERS:
            said = f"warning: others may read the keys in {path}: chmod 600 {path}"
            print(visible(said), file=sys.stderr)
        import tomllib  # 6 ms, which only whoever has contexts pays

        content = tomllib.loads(path.read_text(encoding="utf-8"))
        known = {
            name: Context(str(one["url"]), str(one["key"]), str(one.get("certificate", "")))
            for name, one in content.get("contexts", {}).items()
        }
    except OSError as exc:
        raise _broken(path, exc.strerror or str(exc)) from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise _broken(path, "it is not what cmdop login writes") from exc
    current = content.get("current")
    return Contexts(known, current if current in known else None)


def write_contexts(contexts: Contexts, environ: Mapping[str, str]) -> Path:
    """Keep them; the file they are in.

    Raises:
        Failure: there is no place for it.
    """
    from cmdop_appliance.private import write_private

    path = config_file(environ)
    if path is None:
        raise Failure(
            "there is no place to keep the key: HOME is not set",
            exit_code=failures.OTHER,
            hint="set CMDOP_URL and CMDOP_API_KEY instead",
        )
    lines = [] if contexts.current is None else [f"current = {_quoted(contexts.current)}"]
    for name, context in contexts.known.items():
        lines += ["", f"[contexts.{_quoted(name)}]"]
        lines += [f"url = {_quoted(context.url)}", f"key = {_quoted(context.key)}"]
        if context.certificate:
            lines.append(f"certificate = {_quoted(context.certificate)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, "\n".join([*lines, ""]))
    except OSError as exc:
        raise Failure(f"cannot write {path}: {exc.strerror}", exit_code=failures.OTHER) from exc
    return path


def _quoted(text: str) -> str:
    """As a string of TOML: of printable text, JSON's are."""
    return json.dumps(text)


def _broken(path: Path | None, reason: str) -> Failure:
    return Failure(f"cannot read {path}: {reason}", exit_code=failures.USAGE)
