"""The way in for an agent: it proves its key, and its machine gets a session."""

import logging

import trio

from cmdop_appliance.errors import ProtocolError, RateLimited, StorageFull, Unavailable
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.hub.connection import Connection, LinkClosed
from cmdop_appliance.hub.enrolment import Proof, Refused
from cmdop_appliance.hub.services import SessionServices
from cmdop_appliance.hub.session import (
    PROBE_S,
    AgentSession,
    Probe,
    Replaced,
    blame,
)
from cmdop_appliance.hub.wakes import link_subject
from cmdop_appliance.model import Machine
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.conversation import Conversation
from cmdop_appliance.protocol.limits import HANDSHAKE_S
from cmdop_appliance.protocol.messages import FEATURES, Welcome
from cmdop_appliance.store import machines, sessions
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.transaction import Tx

_log = logging.getLogger("cmdop.hub.session")


async def serve_agent(services: SessionServices, connection: Connection) -> None:
    """Carry one agent's connection to its end; whatever the agent does, only this ends."""
    conversation = Conversation("hub")
    try:
        with trio.fail_after(HANDSHAKE_S):
            session = await _welcome(
                services,
                connection,
                conversation,
                await services.enrolments.examine(connection, conversation),
            )
    except trio.TooSlowError:
        await connection.close(Close.SILENT, f"no handshake within {HANDSHAKE_S:.0f} s")
    except LinkClosed:
        pass
    except Refused as exc:
        _log.warning("agent refused", extra={"peer": connection.address, "why": exc.message})
        await connection.close(exc.close, exc.message)
    except ProtocolError as exc:
        await blame(connection, exc)
    except (Unavailable, StorageFull) as exc:
        await connection.close(Close.STOPPING, exc.message)
    else:
        await session.run()


async def _welcome(
    services: SessionServices, connection: Connection, conversation: Conversation, proof: Proof
) -> AgentSession:
    """Give the machine its session, unless somebody else alive holds the same key."""
    machine = proof.machine
    subject = link_subject(machine.id)
    if await services.bus.request(subject, Probe(proof.prove.keeper_id), PROBE_S + 1):
        await services.store.run(_flag_clone, services.audit, machine, services.clock.now_ms())
        raise Refused(Close.IN_USE, "another live agent holds this machine's key: a clone?")
    try:
        connected = await services.store.run(
            sessions.connect,
            machine,
            facts=proof.prove.facts,
            ip=connection.address,
            now_ms=services.clock.now_ms(),
        )
    except RateLimited as exc:
        raise Refused(Close.TOO_OFTEN, exc.message) from exc
    if connected is None:  # while it proved its key
        revoked = services.enrolments.revoked(proof.agent_nonce, machine.id)
        await connection.send(conversation.send(revoked))
        raise Refused(Close.REMOVED, "this machine was removed")
    session_id, epoch = connected
    services.bus.publish(subject, Replaced(epoch))
    welcome = Welcome(
        machine_id=machine.id, session_id=session_id, epoch=epoch, features=list(FEATURES)
    )
    await connection.send(conversation.send(welcome))
    return AgentSession(services, connection, conversation, proof, session_id, epoch)


def _flag_clone(tx: Tx, log: Audit, machine: Machine, now_ms: int) -> None:
    machines.flag_clone(tx, machine.id, now_ms)
    seen = Entry.by_machine(machine, now_ms, "machine.clone_refused", machine.id)
    log.append(tx, machine.id, seen.refused())
