"""Being another release: what the hub asks for is judged, fetched and installed here.

    asked ─ judged → downloading → installed → on trial (trial.py) → healthy
              └ refused    └──────────┴ failed       └ rolled back

The hub only carries it: whose releases are taken stands in this machine's agent.toml and in the
program itself. Nothing of what runs is touched before the trial, and nothing but the agent then.
"""

import logging
import os
import random
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance import RELEASED_MS, __version__
from cmdop_appliance.agent.attempts import Attempt, keep, last_attempt, settle
from cmdop_appliance.agent.fetching import NotFetched, fetch
from cmdop_appliance.agent.outbox import Outbox
from cmdop_appliance.agent.policy import UpgradePolicy
from cmdop_appliance.errors import BundleRefused, UnusableProgram
from cmdop_appliance.protocol.upgrades import Progress, Upgrade, Upgrading
from cmdop_appliance.release.bundle import File, Manifest, read_manifest, this_platform
from cmdop_appliance.release.trust import trusted_keys
from cmdop_appliance.service.folders import Home, Version

log = logging.getLogger("cmdop.agent.upgrade")

# A hub that many machines ask at once serves some of them and lets the others come again.
_RETRY_LEAST_S: Final = 2.0
_RETRY_MOST_S: Final = 15.0
# Over the slowest of links, or a hub that is away meanwhile.
_FETCH_S: Final = 1800.0
# The program as it came, beside it its folder, and the copy that it is unpacked from.
_ROOM: Final = 5
_FETCHED: Final = "upgrade.part"
# What a new agent says to whoever tries it.
HEALTHY: Final = b"healthy\n"


class Stopped(Exception):
    """An upgrade comes to nothing; `code` and `message` say why."""

    def __init__(self, progress: Progress, code: str, message: str) -> None:
        super().__init__(message)
        self.progress: Progress = progress
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Plan:
    """A release that is installed beside ours, and is to be tried now."""

    home: Home
    version: Version
    attempt: Attempt


class Upgrades:
    """What this agent does about upgrades; one at a time."""

    def __init__(
        self,
        state_dir: Path,
        hub_url: str,
        policy: UpgradePolicy,
        outbox: Outbox,
        own: Version | None,
        *,
        on_trial: int | None,
    ) -> None:
        """`own`: the folder that we run from; None: no home has it.

        `on_trial`: we are the new program, and whoever has started us listens there.
        """
        self._state_dir = state_dir
        self._hub_url = hub_url
        self._policy = policy
        self._outbox = outbox
        self._own = own
        self._is_on_trial = on_trial is not None
        self._to_tell = on_trial  # until it was told
        self._last = last_attempt(state_dir) if self._is_on_trial else settle(state_dir, own)
        self._present: Upgrading | None = None  # how far the one is that goes on
        self._asked: Upgrade | None = None  # the next one
        self._wake = trio.Event()

    async def hear(self, message: Upgrade) -> None:
        """The hub asks for this release, maybe once more."""
        if self._last is not None and self._last.id == message.id:
            await self._outbox.say(self._last.told())
        elif self._present is not None and self._present.id == message.id:
            await self._outbox.say(self._present)
        elif not self._is_on_trial:  # else whoever wins the trial is asked again
            self._asked = message
            self._wake.set()

    def met(self) -> None:
        """The hub has taken us in, and answers: we are good."""
        if self._to_tell is not None:
            os.write(self._to_tell, HEALTHY)
            os.close(self._to_tell)
            self._to_tell = None

    async def run(self) -> Plan:
        """Obey until a release is ready for its trial."""
        if self._last is not None and self._last.progress == "healthy":
            await trio.to_thread.run_sync(self._tidy, abandon_on_cancel=True)
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            message, self._asked = self._asked, None
            assert message is not None  # it is what woke us
            try:
                return await self._prepare(message)
            except Stopped as exc:
                await self._tell(message.id, exc.progress, exc.code, exc.message)
            except Exception:  # a bug of ours; it must not cost the machine its agent
                log.exception("upgrade failed")
                await self._tell(message.id, "failed", "bug", "see this machine's log")
            self._present = None

    async def _prepare(self, message: Upgrade) -> Plan:
        """The release, installed. Raises Stopped."""
        manifest = self._judge(message)
        home, file = self._place_of(manifest)
        await self._tell(message.id, "downloading")
        fetched = self._state_dir / _FETCHED
        try:
            await self._fetch(file, fetched)
            version = await trio.to_thread.run_sync(home.add, fetched, abandon_on_cancel=True)
        except UnusableProgram as exc:
            raise Stopped("failed", exc.code, _with(exc.message, exc.hint)) from exc
        except OSError as exc:
            raise Stopped("failed", "no_space", f"cannot write {fetched}: {exc}") from exc
        finally:
            fetched.unlink(missing_ok=True)
        if version.number != manifest.version:
            text = f"the program says that it is {version.number}, not {manifest.version}"
            raise Stopped("failed", "wrong_program", text)
        new = Attempt(id=message.id, version=version.name)
        if not keep(self._state_dir, new):
            raise Stopped("failed", "no_space", f"{self._state_dir} cannot be written")
        await self._tell(message.id, "starting")
        return Plan(home, version, new)

    def _judge(self, message: Upgrade) -> Manifest:
        """What is asked for, if somebody has signed it whom the owner of this machine trusts."""
        if not self._policy.enabled:
            text = "agent.toml of this machine does not let the hub replace the program"
            raise Stopped("refused", "policy_denied", f"{text} (upgrade.enabled)")
        try:
            keys = trusted_keys(self._policy.keys)
            manifest = read_manifest(message.manifest, message.signature, keys)
        except BundleRefused as exc:
            text = f"{exc.message} (upgrade.keys in agent.toml of this machine)"
            raise Stopped("refused", exc.code, text) from exc
        if not manifest.is_newer_than(__version__, RELEASED_MS):
            if (manifest.version, manifest.released_ms) == (__version__, RELEASED_MS):
                raise Stopped("healthy", "already", "it runs this release already")
            text = f"{__version__} runs here, which is newer than {manifest.version}"
            raise Stopped("refused", "not_newer", text)
        return manifest

    def _place_of(self, manifest: Manifest) -> tuple[Home, File]:
        """Where to install it, and what; found out before anything is fetched."""
        file = manifest.program_for(this_platform())
        if file is None:
            text = f"the release has no program for this machine, {this_platform()}"
            raise Stopped("refused", "no_program", text)
        if self._own is None:
            raise Stopped(
                "refused",
                "not_installed",
                "cmdop is not installed on this machine, but runs from a file of its own:"
                " replace that by hand, or once by `cmdop install agent`",
            )
        home = Home(self._own.path.parents[1])
        if not home.is_writable():
            raise Stopped(
                "refused",
                "not_writable",
                f"the agent's user may not write to {home.path}:"
                " run `cmdop install agent` there with the new program, as who owns it",
            )
        needed = _ROOM * file.size
        for place in (home.path, self._state_dir):
            if (free := shutil.disk_usage(place).free) < needed:
                text = f"{place} has {free} bytes free; {needed} are needed: free some"
                raise Stopped("refused", "no_space", text)
        return home, file

    async def _fetch(self, file: File, target: Path) -> None:
        why = "there is no answer"
        with trio.move_on_after(_FETCH_S):
            while True:
                try:
                    get = partial(fetch, self._hub_url, file, target)
                    return await trio.to_thread.run_sync(get, abandon_on_cancel=True)
                except NotFetched as exc:
                    if exc.is_final:
                        raise Stopped("failed", "wrong_program", str(exc)) from exc
                    why = str(exc)
                    log.info("not fetched yet", extra={"file": file.name, "error": why})
                await trio.sleep(random.uniform(_RETRY_LEAST_S, _RETRY_MOST_S))  # noqa: S311
        raise Stopped("failed", "download_failed", f"not within {_FETCH_S:.0f} s: {why}")

    async def _tell(
        self, upgrade_id: str, progress: Progress, code: str = "", message: str = ""
    ) -> None:
        self._present = Upgrading(id=upgrade_id, progress=progress, code=code, message=message)
        log.info("upgrade", extra={"progress": progress, "code": code, "reason": message})
        await self._outbox.say(self._present)

    def _tidy(self) -> None:
        assert self._own is not None  # we came by an upgrade
        try:
            Home(self._own.path.parents[1]).prune()
        except OSError as exc:
            log.warning("old versions stay", extra={"error": str(exc)})


def _with(message: str, hint: str) -> str:
    return f"{message}; {hint}" if hint else message
