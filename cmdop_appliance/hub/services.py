"""What the connections of machines work with."""

from dataclasses import dataclass

from cmdop_appliance.clock import Clock
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.hub.bus import Bus
from cmdop_appliance.hub.commands import Commands
from cmdop_appliance.hub.enrolment import Enrolments
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.hub.viewings import Viewings
from cmdop_appliance.store.engine import Store


@dataclass(frozen=True, slots=True)
class SessionServices:
    """The parts of the hub that a connection needs, and how long it may be silent or away."""

    store: Store
    bus: Bus
    outputs: Outputs
    commands: Commands
    viewings: Viewings
    enrolments: Enrolments
    audit: Audit
    clock: Clock
    grace_ms: int
    silent_ms: int
    restored_ms: int  # up to then another hub may have sent what is in the store; 0: none was
