"""Who attaches to a session and who leaves, as transactions with their records."""

from typing import Literal

from cmdop_appliance.auth import Caller, Scope
from cmdop_appliance.errors import SessionNotActive
from cmdop_appliance.hub.audit import Audit
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import LIVE_STATUSES, Client, ClientMode, Session
from cmdop_appliance.store import clients, sessions
from cmdop_appliance.store.audit import Entry
from cmdop_appliance.store.idempotency import Once, claim
from cmdop_appliance.store.transaction import Tx


def attach(
    tx: Tx,
    log: Audit,
    caller: Caller,
    session_id: str,
    client_id: str | None,
    mode: ClientMode,
    once: Once | None,
    now_ms: int,
) -> tuple[Session, Client]:
    """The session, and the client as it is attached now; the same request again attaches nobody.

    Raises:
        SessionNotFound, SessionNotActive, Conflict, IdempotencyConflict: nothing was recorded.
    """
    client_id = client_id or new_id("cli")
    is_again = False
    if once is not None:
        made = claim(tx, once, client_id)
        client_id, now_ms, is_again = made.made_id, made.created_ms, made.salt != once.salt
    session = sessions.get(tx, caller.reach, session_id)
    new = Client(
        session_id=session.id,
        id=client_id,
        api_key_id=caller.key_id,
        caller_email=caller.email,
        mode=mode,
        attached_ms=now_ms,
    )
    if is_again:
        return session, new
    if session.status not in LIVE_STATUSES:
        raise SessionNotActive("Session is not in CONNECTED state", current_status=session.status)
    before = clients.find(tx, session.id, client_id)
    client = clients.attach(tx, new)
    if before is None or before.mode != client.mode:
        _record(tx, log, caller, "session.client_attached", session, client, now_ms)
    return session, client


def detach(
    tx: Tx,
    log: Audit,
    caller: Caller,
    session_id: str,
    client_id: str,
    once: Once | None,
    now_ms: int,
) -> None:
    """Take a client out of a session; of another key only if the caller is an admin.

    Raises:
        SessionNotFound, ClientNotFound, IdempotencyConflict: nothing was recorded.
    """
    if once is not None and claim(tx, once, client_id).salt != once.salt:
        return  # the same request took it out before
    session = sessions.get(tx, caller.reach, session_id)
    api_key_id = None if caller.allows(Scope.ADMIN) else caller.key_id
    client = clients.detach(tx, session.id, client_id, api_key_id)
    _record(tx, log, caller, "session.client_detached", session, client, now_ms)


def detach_keyless(tx: Tx, now_ms: int) -> None:
    """Take out the clients whose API key was revoked, or has expired."""
    for client in clients.detach_keyless(tx, now_ms):
        session = sessions.by_id(tx, client.session_id)
        sessions.record_client_event(tx, "session.client_detached", session, client, now_ms)


def _record(
    tx: Tx,
    log: Audit,
    caller: Caller,
    kind: Literal["session.client_attached", "session.client_detached"],
    session: Session,
    client: Client,
    now_ms: int,
) -> None:
    shown = {"client_id": client.id, "mode": client.mode}
    log.append(tx, caller.key_id, Entry.by(caller, now_ms, kind, session.id, **shown))
    sessions.record_client_event(tx, kind, session, client, now_ms)
