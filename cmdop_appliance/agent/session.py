"""Serving one hub: connect, prove both sides, talk, and connect again for ever.

One task reads, one writes, one sends heartbeats; they share a nursery and end together. Nothing
that happens here ends a command, and of all that a hub may do only a signed `revoked` ends us.
"""

import logging
import random
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import Enum, auto
from typing import Final

import trio

from cmdop_appliance.agent.commands import Commands
from cmdop_appliance.agent.enrolment import Enrolment
from cmdop_appliance.agent.facts import facts
from cmdop_appliance.agent.groups import first_error
from cmdop_appliance.agent.link import Link, LinkLost, NotVouchedFor, open_link
from cmdop_appliance.agent.memory import AuditMemory
from cmdop_appliance.agent.outbox import Item, Outbox
from cmdop_appliance.agent.pace import Pace, retry_delay
from cmdop_appliance.agent.state import Membership, State
from cmdop_appliance.agent.terminals import Terminals
from cmdop_appliance.agent.transfers import Transfers
from cmdop_appliance.agent.upgrade import Upgrades
from cmdop_appliance.errors import RemoteProtocolError
from cmdop_appliance.identity import Identity, is_signed_by
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.conversation import Conversation, join, split
from cmdop_appliance.protocol.conversation import State as Progress
from cmdop_appliance.protocol.frames import Data, Output, Screen
from cmdop_appliance.protocol.handshake import (
    NONCE_BYTES,
    hub_transcript,
    machine_transcript,
    revocation_transcript,
)
from cmdop_appliance.protocol.limits import (
    INVENTORY_ITEMS,
    VERSION,
)
from cmdop_appliance.protocol.messages import (
    Acknowledge,
    Bye,
    Cancel,
    Challenge,
    Dispatch,
    FileCall,
    FileCredit,
    FileEnd,
    FileStop,
    Heartbeat,
    Heartbeatack,
    Hello,
    Inventory,
    Prove,
    Ready,
    Resume,
    Revoked,
    Sampled,
    Stored,
    Welcome,
)
from cmdop_appliance.protocol.terminals import FromHub as ToTerminals
from cmdop_appliance.protocol.upgrades import Upgrade
from cmdop_appliance.protocol.words import Message

log = logging.getLogger("cmdop.agent.session")

# Time for `bye` and the close frame; with it the agent stops within the 5 s of contract.md §11.
_GOODBYE_S: Final = 2.0
# What we understand beyond the first release.
_FEATURES: Final = ["files", "terminals", "upgrade"]
# Heartbeats of many agents must not fall together.
_JITTER: Final = 0.1


class Verdict(Enum):
    """Why the link came to an end for good."""

    STOPPED = auto()
    REMOVED = auto()  # the hub has signed that this machine is no longer one of its
    REFUSED = auto()  # the token to join with is not, or no longer, good


class HubSession:
    """This machine's side of its session; one connection at a time."""

    def __init__(
        self,
        state: State,
        identity: Identity,
        enrolment: Enrolment,
        commands: Commands,
        terminals: Terminals,
        transfers: Transfers,
        upgrades: Upgrades,
        outbox: Outbox,
        pace: Pace,
        *,
        open_link: Callable[..., AbstractAsyncContextManager[Link]] = open_link,
    ) -> None:
        self._state = state
        self._identity = identity
        self._enrolment = enrolment
        self._commands = commands
        self._terminals = terminals
        self._transfers = transfers
        self._upgrades = upgrades
        self._outbox = outbox
        self._pace = pace
        self._open_link = open_link
        self._memory = AuditMemory(state.path, enrolment.hub_key)
        self._through_proxy = False  # the hub says that TLS ends before it
        self._nonce = b""  # of this connection
        self._features: list[str] = []  # what its hub knows beyond the first release
        self._ready_at: float | None = None  # when this connection became ready, Trio's clock
        self._verdict = Verdict.STOPPED

    async def run(self, stop: trio.Event) -> Verdict:
        """Stay connected until `stop`, or until the hub gives a verdict that is final."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._leave, stop, nursery.cancel_scope)
            nursery.start_soon(self._memory.keep)
            await self._stay_connected()
            nursery.cancel_scope.cancel()
        return self._verdict

    async def _leave(self, stop: trio.Event, scope: trio.CancelScope) -> None:
        await stop.wait()
        if self._outbox.is_open:
            with trio.move_on_after(_GOODBYE_S):
                await self._outbox.say(Bye())
                await trio.sleep_forever()
        scope.cancel()

    async def _stay_connected(self) -> None:
        """Returns when there is a verdict, or `bye` was said."""
        await self._commands.wait_settled()
        attempt = 0
        while not await self._attempt():
            # A hub that takes us in and drops us at once is not to be hammered.
            now, ready_at = trio.current_time(), self._ready_at
            steady = ready_at is not None and now - ready_at >= self._pace.heartbeat_s
            attempt = 0 if steady else attempt + 1
            await trio.sleep(retry_delay(attempt, self._pace, random.random()))  # noqa: S311

    async def _attempt(self) -> bool:
        """One connection, from dialling to its end. True: there shall be no other."""
        self._ready_at = None
        try:
            return await self._connection()
        except* NotVouchedFor as group:
            self._through_proxy = False
            error = f"no authority of this system vouches for it: {first_error(group)}"
            log.warning("connection lost", extra={"error": error})
        except* RemoteProtocolError as group:
            log.warning("hub broke the protocol", extra={"error": first_error(group)})
        except* (LinkLost, OSError) as group:
            log.info("connection lost", extra={"error": first_error(group)})
        except* trio.TooSlowError:
            log.info("connection lost", extra={"error": "the hub was silent for too long"})
        except* Exception:
            # A bug of ours; it must not cost the machine its hub for good.
            log.exception("connection failed")
        return False

    async def _connection(self) -> bool:
        async with self._open_link(
            self._enrolment.url, self._pace, through_proxy=self._through_proxy
        ) as link:
            conversation = Conversation("agent")
            try:
                with trio.fail_after(self._pace.handshake_s):
                    final = await self._shake_hands(link, conversation)
                return final or await self._converse(link, conversation)
            except* RemoteProtocolError as group:
                await link.close(Close.PROTOCOL, first_error(group))
                raise
        return False

    # ── the handshake ────────────────────────────────────────────────────────────────────────

    async def _shake_hands(self, link: Link, conversation: Conversation) -> bool:
        """Prove both sides and name all we know. True: there is a verdict instead."""
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        hello = Hello(version=VERSION, nonce=self._nonce)
        await link.send(conversation.send(hello))
        challenge = conversation.receive_from_hub(await link.receive())
        assert isinstance(challenge, Challenge)
        self._check(challenge, link.bindings)
        await link.send(conversation.send(await self._proof(challenge)))
        try:
            answer = conversation.receive_from_hub(await link.receive())
        except LinkLost as lost:
            return self._is_refused(lost)
        if isinstance(answer, Revoked):
            return self._is_removed(answer)
        assert isinstance(answer, Welcome)
        self._features = answer.features
        known = self._commands.inventory()
        for start in range(0, len(known), INVENTORY_ITEMS):
            part = Inventory(commands=known[start : start + INVENTORY_ITEMS])
            await link.send(conversation.send(part))
        ready = Ready(audit_head=self._memory.recall(), features=_FEATURES)
        await link.send(conversation.send(ready))
        self._remember(answer.machine_id)
        log.info("connected", extra={"session_id": answer.session_id, "commands": len(known)})
        return False

    def _check(self, challenge: Challenge, bindings: tuple[bytes, ...]) -> None:
        """Nothing of ours, least of all the token, is for a hub that is not the one we know.

        Nor for anybody between us: what the hub has signed is bound to the certificate that was
        shown. If it is bound to none, TLS ends before the hub, at its proxy or at a stranger: then
        the next connection has to be with one for whom an authority vouches.
        """
        if challenge.version != VERSION:
            raise RemoteProtocolError(f"it speaks version {challenge.version}, we {VERSION}")
        if challenge.hub_key != self._enrolment.hub_key:
            raise RemoteProtocolError("it is another hub: its key is not the one we joined with")
        if any(self._is_bound(challenge, binding) for binding in bindings):
            return
        if self._is_bound(challenge, b""):
            self._through_proxy = True
            raise LinkLost("TLS ends before the hub: an authority must vouch for who is there")
        raise RemoteProtocolError("it does not hold the key that it shows, or somebody is between")

    def _is_bound(self, challenge: Challenge, binding: bytes) -> bool:
        key = challenge.hub_key
        transcript = hub_transcript(self._nonce, challenge.nonce, key, binding)
        return is_signed_by(key, challenge.signature, transcript)

    async def _proof(self, challenge: Challenge) -> Prove:
        key = self._identity.public_key
        transcript = machine_transcript(self._nonce, challenge.nonce, challenge.hub_key, key)
        return Prove(
            public_key=key,
            signature=self._identity.sign(transcript),
            boot_id=self._commands.boot_id,
            keeper_id=self._commands.keeper_id,
            # In a thread, for user names may be looked up over the network.
            facts=await trio.to_thread.run_sync(facts, abandon_on_cancel=True),
            token=self._token,
            name=self._enrolment.name,
        )

    @property
    def _token(self) -> str | None:
        return self._enrolment.token if self._state.membership is None else None

    def _remember(self, machine_id: str) -> None:
        enrolled = self._enrolment
        membership = Membership(enrolled.url, enrolled.hub_key, machine_id, enrolled.plain_http)
        if membership != self._state.membership:
            self._state.join(membership)

    def _is_refused(self, lost: LinkLost) -> bool:
        if self._token is None or lost.code != Close.REFUSED:
            raise lost
        self._verdict = Verdict.REFUSED
        return True

    def _is_removed(self, message: Revoked) -> bool:
        """True, or an error when somebody else than our hub says so, or means another machine."""
        joined = self._state.membership
        transcript = revocation_transcript(self._nonce, message.machine_id)
        if not is_signed_by(self._enrolment.hub_key, message.signature, transcript) or (
            joined is not None and joined.machine_id != message.machine_id
        ):
            raise RemoteProtocolError("a revocation that our hub did not sign for this machine")
        self._verdict = Verdict.REMOVED
        return True

    # ── the conversation ─────────────────────────────────────────────────────────────────────

    async def _converse(self, link: Link, conversation: Conversation) -> bool:
        """Talk until the connection ends, which raises. True: it ended for good."""
        self._ready_at = trio.current_time()
        self._outbox.open(self._features)
        self._terminals.begin()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._beat)
                nursery.start_soon(self._read, link, conversation, nursery.cancel_scope)
                await self._write(link, conversation)
                nursery.cancel_scope.cancel()
        finally:
            self._outbox.shut()
            self._commands.hold()
            self._terminals.hold()
            self._transfers.hold()
        return True

    async def _read(self, link: Link, conversation: Conversation, scope: trio.CancelScope) -> None:
        """Handle what the hub says; ends the connection when this machine was removed."""
        commands = self._commands
        while True:
            with trio.fail_after(self._pace.silent_s):
                frame = await link.receive()
            ended: list[str] = []
            for part in split(frame):
                match conversation.receive_from_hub(part):
                    case Dispatch() as message:
                        await commands.dispatch(message)
                    case Stored() as message:
                        commands.stored(message)
                    case Sampled() as message:
                        self._outbox.sampled(message.number)
                    case Acknowledge() as message:
                        ended.append(message.id)
                    case Cancel() as message:
                        await commands.cancel(message)
                    case Resume() as message:
                        commands.resume(message)
                    case (FileCall() | FileStop() | FileCredit() | FileEnd() | Data()) as message:
                        await self._transfers.hear(message)
                    case message if isinstance(message, ToTerminals):
                        await self._terminals.hear(message)
                    case Heartbeatack(audit_head=head):
                        self._upgrades.met()
                        if head is not None:
                            self._memory.hear(head)
                    case Upgrade() as message:
                        await self._upgrades.hear(message)
                    case Revoked() as message if self._is_removed(message):
                        scope.cancel()
                        return
            if ended:
                await commands.acknowledge(ended)

    async def _write(self, link: Link, conversation: Conversation) -> None:
        """Send what the outbox has, messages that wait in one frame; returns after `bye`.

        What is next is decided when the link has room, so that nothing waits behind data in vain.
        """
        lines: list[str] = []
        while conversation.state is Progress.READY:
            await link.wait_room()
            item: Item | None = await self._outbox.next()
            while isinstance(item, Message) and conversation.state is Progress.READY:
                lines.append(str(conversation.send(item)))
                item = self._outbox.next_nowait()
            while lines:
                await link.send(join(lines))
            if isinstance(item, Output | Data | Screen) and conversation.state is Progress.READY:
                await link.send(conversation.send(item))

    async def _beat(self) -> None:
        while True:
            await self._outbox.say(Heartbeat())
            jitter = 1 + _JITTER * random.random()  # noqa: S311
            with trio.move_on_after(self._pace.heartbeat_s * jitter):
                await self._outbox.wait_sample()
