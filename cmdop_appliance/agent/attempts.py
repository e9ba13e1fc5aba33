"""The last upgrade of this agent, as its directory remembers it through any death of anybody.

It is written before the new program runs for the first time. Which program runs afterwards tells
what came of it: Home.switch comes last, and is all or nothing.
"""

import logging
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

from cmdop_appliance.private import write_private
from cmdop_appliance.protocol.upgrades import Upgrading
from cmdop_appliance.service.folders import Version

log = logging.getLogger("cmdop.agent.upgrade")

FILE: Final = "upgrade.json"


class Attempt(Struct, frozen=True, kw_only=True):
    """One release that was tried here."""

    id: str
    version: str  # the name of its folder
    progress: Literal["starting", "healthy", "rolled_back"] = "starting"
    code: str = ""
    message: str = ""

    def told(self) -> Upgrading:
        """As the hub hears of it."""
        return Upgrading(id=self.id, progress=self.progress, code=self.code, message=self.message)

    def rolled_back(self, code: str, message: str) -> "Attempt":
        """The same, when the new program was not good enough."""
        return msgspec.structs.replace(self, progress="rolled_back", code=code, message=message)


def last_attempt(state_dir: Path) -> Attempt | None:
    """The last one; None: there was none, or nobody can tell."""
    try:
        return msgspec.json.decode((state_dir / FILE).read_bytes(), type=Attempt)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as exc:
        log.warning("the last upgrade is forgotten", extra={"error": str(exc)})
        return None


def keep(state_dir: Path, attempt: Attempt) -> bool:
    """Remember it, once this returns, on disk. False: it cannot be written."""
    try:
        write_private(state_dir / FILE, msgspec.json.encode(attempt).decode() + "\n")
    except OSError as exc:
        log.warning("an upgrade is not noted", extra={"error": str(exc)})
        return False
    return True


def settle(state_dir: Path, own: Version | None) -> Attempt | None:
    """The last attempt, now that the program of `own` runs for good; None: of no home."""
    attempt = last_attempt(state_dir)
    if attempt is None or attempt.progress != "starting":
        return attempt
    if own is not None and own.name == attempt.version:
        attempt = msgspec.structs.replace(attempt, progress="healthy")
        log.info("upgraded", extra={"version": own.name})
    else:
        attempt = attempt.rolled_back(
            "interrupted", "the agent was killed while the new one was on trial"
        )
        log.warning("rolled back", extra={"reason": attempt.message})
    keep(state_dir, attempt)
    return attempt
