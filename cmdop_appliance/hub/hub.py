"""The hub as one record: everything that a request or an agent's connection works with."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cmdop_appliance.addresses import Networks, Proxies
from cmdop_appliance.auth import derived_secret
from cmdop_appliance.clock import Clock
from cmdop_appliance.config import Config
from cmdop_appliance.hub.access_tokens import AccessTokens
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.hub.backups import Backups
from cmdop_appliance.hub.batches import Batches
from cmdop_appliance.hub.bus import LocalBus, Notified
from cmdop_appliance.hub.callers import Callers
from cmdop_appliance.hub.commands import Commands
from cmdop_appliance.hub.disk import Disk
from cmdop_appliance.hub.enrolment import Enrolments
from cmdop_appliance.hub.files import Files
from cmdop_appliance.hub.lockout import Lockout
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.hub.quotas import Quotas
from cmdop_appliance.hub.rate_limits import RateLimits
from cmdop_appliance.hub.recordings import Recordings
from cmdop_appliance.hub.releases import Releases
from cmdop_appliance.hub.requests import Requests
from cmdop_appliance.hub.retention import Retention
from cmdop_appliance.hub.services import SessionServices
from cmdop_appliance.hub.sign_ins import SignIns
from cmdop_appliance.hub.terminals import Terminals
from cmdop_appliance.hub.tickets import Tickets
from cmdop_appliance.hub.viewings import Viewings
from cmdop_appliance.identity import Identity
from cmdop_appliance.release.trust import trusted_keys
from cmdop_appliance.service.folders import home_of_this_program
from cmdop_appliance.store import restored, settings
from cmdop_appliance.store.engine import Store

OUTPUT_FOLDER = "output"
RECORDINGS_FOLDER = "recordings"


@dataclass(frozen=True, slots=True)
class Hub:
    """The parts, wired."""

    config: Config
    clock: Clock
    store: Store
    bus: LocalBus
    outputs: Outputs
    disk: Disk
    commands: Commands
    batches: Batches
    files: Files
    terminals: Terminals
    viewings: Viewings
    recordings: Recordings
    retention: Retention
    quotas: Quotas
    backups: Backups
    tickets: Tickets
    sign_ins: SignIns
    proxies: Proxies
    networks: Networks  # where webhooks may go
    callers: Callers
    rate_limits: RateLimits
    requests: Requests
    enrolments: Enrolments
    audit: Audit
    identity: Identity
    sessions: SessionServices
    webhook_attempts: Counter[str]  # since the start: `delivered`, `failed`
    releases: Releases
    downloads: Counter[str]  # of programs, those that go on, by the address of who fetches
    key_pin: str  # of the certificate that the hub has made itself (certificates.py); "": of none

    @classmethod
    async def open(
        cls, config: Config, clock: Clock, store: Store, data_dir: Path, key_pin: str = ""
    ) -> Self:
        """Wire the parts over an open store. The hub's key is made at the first start."""
        seed = await store.run(settings.get_or_set, "hub_key", Identity.generate().seed.hex())
        identity = Identity(bytes.fromhex(seed))
        bus = LocalBus()
        store.listen(lambda subject: bus.publish(subject, Notified(subject)))
        outputs = Outputs(store, data_dir / OUTPUT_FOLDER, config.output.max_bytes)
        disk = Disk(config.disk, data_dir, outputs, bus)
        store.make_room = disk.give_up_ballast
        audit = Audit(store, clock)
        commands = Commands(store, bus, outputs, audit, clock, config.commands.lost_after_ms)
        lockout = Lockout(config.auth, audit, clock)
        enrolments = Enrolments(store, identity, clock, lockout)
        tokens = AccessTokens(derived_secret(seed, b"access tokens"))
        callers = Callers(store, clock, lockout, tokens, config.auth.sign_in_idle_ms)
        terminals = Terminals(store, bus, clock, config.terminals)
        viewings = Viewings(store, bus, audit, clock, terminals)
        services = SessionServices(
            store=store,
            bus=bus,
            outputs=outputs,
            commands=commands,
            viewings=viewings,
            enrolments=enrolments,
            audit=audit,
            clock=clock,
            grace_ms=config.sessions.grace_ms,
            silent_ms=config.sessions.silent_ms,
            restored_ms=await store.run(restored.until_ms),
        )
        return cls(
            config=config,
            clock=clock,
            store=store,
            bus=bus,
            outputs=outputs,
            disk=disk,
            commands=commands,
            batches=Batches(store, bus, audit, clock, commands),
            files=Files(store, bus, audit, clock),
            terminals=terminals,
            viewings=viewings,
            recordings=Recordings(
                store, bus, clock, data_dir / RECORDINGS_FOLDER, config.terminals
            ),
            retention=Retention(store, outputs, config.retention),
            quotas=Quotas(store, outputs, config.disk.machine_bytes),
            backups=Backups(outputs, clock, data_dir, config.disk.reserve_bytes),
            tickets=Tickets(callers),
            sign_ins=SignIns(store, clock, lockout, callers, config.auth),
            proxies=Proxies(config.server.trusted_proxies, behind_tls=config.server.speaks_tls),
            networks=Networks(config.webhooks.allow_networks),
            callers=callers,
            rate_limits=RateLimits(config.rate_limit.requests_per_minute),
            requests=Requests(),
            enrolments=enrolments,
            audit=audit,
            identity=identity,
            sessions=services,
            webhook_attempts=Counter(),
            releases=Releases(
                store, clock, data_dir, trusted_keys(config.upgrade.keys), home_of_this_program
            ),
            downloads=Counter(),
            key_pin=key_pin,
        )
