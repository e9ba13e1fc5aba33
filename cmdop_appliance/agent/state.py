"""The agent's directory: who this machine is, which hub it belongs to, and one agent at a time.

agent.lock    held by the running agent, names its process
machine.key   the seed of the machine's Ed25519 key, made before the first join
hub.json      the hub joined: url, key, machine id; a machine without it has not joined
journal.log   journal.py          keeper/    the keeper's own, with all that runs in terminals
audit.head    memory.py
files/        what is being written (files/temporaries.py)
coding/       what is being made for coding sessions (coding/notes.py)
agent.toml    policy.py, if there is one    grant.json    grants.py    audit.*    audit.py
upgrade.json  attempts.py    upgrade.part    upgrade.py    upgrade.log    trial.py
"""

import base64
import binascii
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cmdop_appliance.agent.keeper.files import open_private
from cmdop_appliance.errors import StartupError
from cmdop_appliance.identity import Identity
from cmdop_appliance.private import lock_or_holder, sync_directory, write_private


@dataclass(frozen=True, slots=True)
class Membership:
    """The hub that this machine has joined."""

    url: str
    hub_key: bytes
    machine_id: str
    plain_http: bool = False  # may be spoken to another machine


class State:
    """What the directory holds; only `locked_state` makes one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity, self.membership = self._read()

    def make_identity(self) -> Identity:
        """The machine's key, made and on disk now if there was none.

        Raises:
            OSError: it cannot be written.
        """
        if self.identity is None:
            self.identity = Identity.generate()
            write_private(self.path / "machine.key", self.identity.seed.hex() + "\n")
        return self.identity

    def join(self, membership: Membership) -> None:
        """Remember the hub joined, or its new address.

        Raises:
            OSError: it cannot be written.
        """
        fields = asdict(replace(membership, hub_key=b"")) | {
            "hub_key": base64.b64encode(membership.hub_key).decode()
        }
        write_private(self.path / "hub.json", json.dumps(fields, indent=2) + "\n")
        self.membership = membership

    def leave(self) -> None:
        """Forget the hub and the key it knew, so that a new token joins as a new machine."""
        for name in ("machine.key", "hub.json"):  # a hub.json without a key counts for nothing
            (self.path / name).unlink(missing_ok=True)
        sync_directory(self.path)
        self.identity = self.membership = None

    def _read(self) -> tuple[Identity | None, Membership | None]:
        try:
            seed = bytes.fromhex((self.path / "machine.key").read_text("ascii"))
            identity = Identity(seed)
        except FileNotFoundError:
            return None, None
        except ValueError:
            raise self._damaged("machine.key") from None
        try:
            fields = json.loads((self.path / "hub.json").read_bytes())
            hub_key = base64.b64decode(fields["hub_key"], validate=True)
            return identity, Membership(
                str(fields["url"]),
                hub_key,
                str(fields["machine_id"]),
                bool(fields.get("plain_http")),
            )
        except FileNotFoundError:
            return identity, None
        except (ValueError, KeyError, TypeError, binascii.Error):
            raise self._damaged("hub.json") from None

    def _damaged(self, name: str) -> StartupError:
        return StartupError(
            f"{self.path / name} is damaged",
            hint="restore it, or remove the state directory and join again (cmdop machines add)",
        )


@contextmanager
def locked_state(path: Path) -> Iterator[State]:
    """The state in the directory `path`, made if needed, with no other agent beside this one.

    Raises:
        StartupError: another agent runs here, or the directory cannot be used.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        lock = open_private(str(path / "agent.lock"), os.O_RDWR)
    except OSError as exc:
        raise StartupError(f"cannot use the state directory {path}: {exc.strerror}") from exc
    try:
        if holder := lock_or_holder(lock):
            raise StartupError(
                f"an agent runs already on {path}: process {holder}",
                hint="stop it first, or choose another --state-dir",
            )
        yield State(path)
    finally:
        os.close(lock)
