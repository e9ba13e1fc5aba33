"""Who carries what is asked of a machine: the part of its live connection that does."""

from typing import Final, TypeVar

from cmdop_appliance.errors import SessionNotActive
from cmdop_appliance.hub.bus import Bus

L = TypeVar("L")

# A connection that is alive answers at once: it is in this process.
_FIND_S: Final = 5.0


async def find(bus: Bus, subject: str, question: object, kind: type[L], machine_id: str) -> L:
    """The link of this kind that the machine's connection answers with.

    Raises:
        SessionNotActive: the machine is not connected.
    """
    link = await bus.request(subject, question, _FIND_S)
    if not isinstance(link, kind):
        # It was connected when the caller was let in, and that it is lost is about to be recorded.
        raise SessionNotActive(
            "Session is not in CONNECTED state",
            current_status="GRACE_PERIOD",
            machine_id=machine_id,
        )
    return link
