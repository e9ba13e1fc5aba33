"""/api/bootstrap and /api/admin/machines/snapshot: what this hub is, and its machines."""

from typing import Final

from msgspec import Struct

from cmdop_appliance import __version__
from cmdop_appliance.api.exchange import Call
from cmdop_appliance.api.registry import SDK2, route
from cmdop_appliance.auth import Scope
from cmdop_appliance.clock import rfc3339
from cmdop_appliance.protocol.handshake import pin_of
from cmdop_appliance.store import machines as rows


class WebContract(Struct, frozen=True):
    """Versions of this plane: what it is, and the clients that it serves."""

    current: int
    min_client: int
    max_client: int


class Bootstrap(Struct, frozen=True):
    """What a client learns first."""

    bundle_id: str
    web_contract: WebContract
    capabilities: list[str]


class RosterMachine(Struct, frozen=True, kw_only=True):
    """One machine. `fleet_id` is its workspace, `portable_name` the hostname that it reports."""

    machine_id: str
    display_name: str
    portable_name: str
    fleet_id: str
    connected: bool
    requires_pin: bool = False
    last_seen_at: str
    unread: int = 0


class Snapshot(Struct, frozen=True):
    """All machines in reach. Of two snapshots of one `epoch`, the higher `sequence` is newer."""

    epoch: str
    sequence: int
    machines: list[RosterMachine]


_BOOTSTRAP: Final = Bootstrap(
    bundle_id=f"cmdop-appliance-{__version__}",
    web_contract=WebContract(current=1, min_client=1, max_client=1),
    capabilities=["machines.ask", "machines.list", "machines.messages"],
)


@route("GET", "/bootstrap", scope=Scope.ANY_KEY, answer=Bootstrap, plane=SDK2)
async def bootstrap(_call: Call[None, None]) -> Bootstrap:
    """What this hub is and can do."""
    return _BOOTSTRAP


@route("GET", "/admin/machines/snapshot", scope=Scope.MACHINES_READ, answer=Snapshot, plane=SDK2)
async def snapshot_machines(call: Call[None, None]) -> Snapshot:
    """The machines of the workspace, by name."""
    hub, sequence = call.hub, call.hub.clock.now_ms()
    machines = [
        RosterMachine(
            machine_id=machine.id,
            display_name=machine.name,
            portable_name=machine.hostname,
            fleet_id=call.caller.workspace_id,
            connected=machine.is_online,
            last_seen_at=rfc3339(machine.last_seen_ms),
        )
        for machine in await hub.store.run(rows.roster, call.caller.reach)
    ]
    return Snapshot(pin_of(hub.identity.public_key), sequence, machines)
