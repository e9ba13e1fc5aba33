"""Commands that a test dispatches to an agent."""

from collections.abc import Iterable

from cmdop_appliance.protocol.messages import Cancel, Finished, Started
from tests.support.hub_peer import Peer


def sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def has_begun(peer: Peer, command_id: str) -> bool:
    return any(isinstance(item, Started | Finished) for item in peer.heard_of(command_id))


async def cancel_all(peer: Peer, commands: Iterable[str]) -> None:
    """One after another, each to its end."""
    for command in commands:
        await peer.send(Cancel(id=command))
        await peer.finish(command)
