"""Who an agent is: the challenge on every connect, and joining with a token."""

import secrets
from dataclasses import dataclass

from cmdop_appliance.auth import Caller, Reach, new_secret, secret_hash
from cmdop_appliance.clock import Clock
from cmdop_appliance.errors import (
    ApplianceError,
    Conflict,
    InvalidRequest,
    NotFound,
    RateLimited,
    RemoteProtocolError,
)
from cmdop_appliance.hub.connection import Connection
from cmdop_appliance.hub.lockout import Lockout
from cmdop_appliance.identity import Identity, is_signed_by
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import Action, Enrolment, Machine
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.conversation import Conversation
from cmdop_appliance.protocol.handshake import (
    NONCE_BYTES,
    SECRET_BYTES,
    EnrolmentToken,
    hub_transcript,
    machine_transcript,
    revocation_transcript,
)
from cmdop_appliance.protocol.limits import VERSION
from cmdop_appliance.protocol.messages import Challenge, Hello, Prove, Revoked
from cmdop_appliance.store import audit, enrolments, events, machines
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.idempotency import Once
from cmdop_appliance.store.transaction import Tx


class Refused(ApplianceError):
    """An agent may not connect. `close` is the code its connection ends with."""

    code, status = "refused", 403

    def __init__(self, close: Close, reason: str) -> None:
        super().__init__(reason)
        self.close = close


@dataclass(frozen=True, slots=True)
class Proof:
    """What an agent has proved, and the facts that it brought."""

    machine: Machine
    prove: Prove
    agent_nonce: bytes


class Enrolments:
    """Checks agents against the store with the hub's own key."""

    def __init__(self, store: Store, identity: Identity, clock: Clock, lockout: Lockout) -> None:
        self._store = store
        self._identity = identity
        self._clock = clock
        self._lockout = lockout

    async def examine(self, connection: Connection, conversation: Conversation) -> Proof:
        """hello → challenge → prove. With a token and a new key, the machine joins.

        Raises:
            Refused: no common version, a wrong signature, an unknown key, a bad token, or a
                machine that was removed (it has been told so, signed).
            RemoteProtocolError, LinkClosed: the agent did not get so far.
        """
        hello = conversation.receive_from_agent(await connection.receive())
        assert isinstance(hello, Hello)  # the state table allows nothing else
        if hello.version != VERSION:
            raise Refused(Close.VERSION, f"protocol {hello.version} is not spoken here")
        nonce = secrets.token_bytes(NONCE_BYTES)
        key = self._identity.public_key
        transcript = hub_transcript(hello.nonce, nonce, key, connection.binding)
        signature = self._identity.sign(transcript)
        challenge = Challenge(version=VERSION, hub_key=key, nonce=nonce, signature=signature)
        await connection.send(conversation.send(challenge))
        prove = conversation.receive_from_agent(await connection.receive())
        assert isinstance(prove, Prove)
        transcript = machine_transcript(hello.nonce, nonce, key, prove.public_key)
        if not is_signed_by(prove.public_key, prove.signature, transcript):
            raise Refused(Close.REFUSED, "the signature does not match the key")
        if removed := await self._store.run(machines.removed_by_key, prove.public_key):
            await connection.send(conversation.send(self.revoked(hello.nonce, removed)))
            raise Refused(Close.REMOVED, "this machine was removed")
        machine = await self._store.run(machines.by_key, prove.public_key)
        machine = machine or await self._join(prove, connection.address)
        return Proof(machine, prove, hello.nonce)

    async def issue(
        self,
        workspace_id: str,
        ttl_ms: int,
        max_uses: int,
        tags: list[str],
        once: Once | None = None,
        caller: Caller | None = None,
    ) -> tuple[Enrolment, str]:
        """(record, token text): lets `max_uses` machines join this hub for `ttl_ms`.

        Without a `caller` the hub itself makes it; no token outlives what its caller shows.

        Raises:
            IdempotencyConflict: nothing was recorded.
            Conflict: the token that the same request made before was revoked since.
            Forbidden: that token would outlive what its caller shows now.
        """
        token = self._token(new_secret() if once is None else once.secret(once.salt))
        now_ms = self._clock.now_ms()
        last_ms = None if caller is None else caller.until_ms
        enrolment = Enrolment(
            id=new_id("enr"),
            workspace_id=workspace_id,
            tags=tags,
            max_uses=max_uses,
            uses=0,
            created_ms=now_ms,
            expires_ms=now_ms + ttl_ms if last_ms is None else min(now_ms + ttl_ms, last_ms),
        )
        made = await self._store.run(
            _made(enrolment, caller).recording(enrolments.insert),
            enrolment,
            secret_hash(token.secret),
            once,
        )
        if once is not None and made is not None and made.made_id != enrolment.id:
            try:
                enrolment = await self._store.run(enrolments.get, Reach(workspace_id), made.made_id)
            except NotFound:
                raise Conflict(
                    "the token that this request made was revoked", token_id=made.made_id
                ) from None
            if caller is not None:
                caller.require_outlives(enrolment.expires_ms)
            token = self._token(once.secret(made.salt))
        return enrolment, str(token)

    def _token(self, secret: bytes) -> EnrolmentToken:
        return EnrolmentToken(secret[:SECRET_BYTES], self._identity.public_key)

    def revoked(self, agent_nonce: bytes, machine_id: str) -> Revoked:
        """The signed word that ends an agent for good."""
        signature = self._identity.sign(revocation_transcript(agent_nonce, machine_id))
        return Revoked(machine_id=machine_id, signature=signature)

    async def _join(self, prove: Prove, address: str) -> Machine:
        if prove.token is None:
            raise Refused(Close.UNKNOWN, "no machine has this key; join with an enrolment token")
        try:
            token = EnrolmentToken.parse(prove.token)
        except InvalidRequest as exc:
            raise RemoteProtocolError(exc.message) from exc
        now_ms = self._clock.now_ms()
        try:
            self._lockout.check(address)
            machine = await self._store.run(
                _join, prove, secret_hash(token.secret), address=address, now_ms=now_ms
            )
            if machine is None:
                await self._lockout.failed(address)
        except RateLimited as exc:
            raise Refused(Close.LOCKED_OUT, exc.message) from exc
        if machine is None:
            raise Refused(Close.REFUSED, "the enrolment token is unknown, expired or used up")
        return machine


def _made(enrolment: Enrolment, caller: Caller | None) -> Entry:
    action: Action = "enrolment_token.created"
    at_ms = enrolment.created_ms
    of = {"max_uses": enrolment.max_uses, "tags": enrolment.tags}
    if caller is None:
        workspace_id = enrolment.workspace_id
        return Entry.by_hub(at_ms, action, enrolment.id, workspace_id=workspace_id, **of)
    return Entry.by(caller, at_ms, action, enrolment.id, **of)


def _join(tx: Tx, prove: Prove, token_hash: str, *, address: str, now_ms: int) -> Machine | None:
    # The same key again, after an answer that was lost or beside it, is the same join.
    if joined := machines.by_key(tx, prove.public_key):
        return joined
    enrolment = enrolments.use(tx, token_hash, now_ms)
    if enrolment is None:
        return None
    machine_id = new_id("mach")
    machine = Machine(
        id=machine_id,
        workspace_id=enrolment.workspace_id,
        name=prove.name or prove.facts.hostname or machine_id,
        public_key=prove.public_key,
        tags=enrolment.tags,
        facts=prove.facts,
        ip=address,
        created_ms=now_ms,
        last_seen_ms=now_ms,
        clone_seen_ms=None,
    )
    machines.insert(tx, machine, enrolment.id)
    by = {"name": machine.name, "enrolment_id": enrolment.id}
    audit.append(tx, Entry.by_machine(machine, now_ms, "machine.joined", machine.id, **by))
    events.append(
        tx,
        machine.workspace_id,
        "machine.registered",
        subject=machine.id,
        machine_id=machine.id,
        data={"machine_id": machine.id, "name": machine.name, "hostname": prove.facts.hostname},
        now_ms=now_ms,
    )
    return machine
