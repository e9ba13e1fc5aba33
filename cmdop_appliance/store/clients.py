"""Clients: who has attached to a session, and whether they may do more than look."""

from typing import Final

from cmdop_appliance.errors import ClientNotFound, Conflict, Forbidden
from cmdop_appliance.model import Client
from cmdop_appliance.store.conditions import IS_CURRENT
from cmdop_appliance.store.transaction import Tx, reads

# Clients of one API key in one session: a person's screens and programs, and not a table to fill.
MOST: Final = 16


def attach(tx: Tx, client: Client) -> Client:
    """The client as it is attached now; the same one again changes its mode.

    Raises:
        Conflict: another API key is attached under this id, or this key is `MOST` times.
    """
    before = find(tx, client.session_id, client.id)
    if before is not None and before.api_key_id != client.api_key_id:
        raise Conflict(
            "another API key is attached under this client_id",
            hint="choose another client_id, or send none to get a new one",
        )
    if before is None and _count(tx, client) >= MOST:
        raise Conflict(
            f"this API key is attached to this session with {MOST} clients, and no more can be",
            hint="detach one, or attach again under the client_id of one",
        )
    attached = tx.one(
        Client,
        "INSERT INTO client (session_id, id, api_key_id, caller_email, mode, attached_ms)"
        " VALUES (:session_id, :id, :api_key_id, :caller_email, :mode, :attached_ms)"
        " ON CONFLICT (session_id, id) DO UPDATE SET mode = excluded.mode RETURNING *",
        session_id=client.session_id,
        id=client.id,
        api_key_id=client.api_key_id,
        caller_email=client.caller_email,
        mode=client.mode,
        attached_ms=client.attached_ms,
    )
    assert attached is not None
    return attached


@reads
def find(tx: Tx, session_id: str, client_id: str) -> Client | None:
    """The client, if it is attached."""
    return tx.one(
        Client,
        "SELECT * FROM client WHERE session_id = :session_id AND id = :id",
        session_id=session_id,
        id=client_id,
    )


def detach(tx: Tx, session_id: str, client_id: str, api_key_id: str | None) -> Client:
    """The client that was attached until now; with `api_key_id` it must be that key's.

    Raises:
        ClientNotFound: there is no such client.
    """
    client = tx.one(
        Client,
        "DELETE FROM client WHERE session_id = :session_id AND id = :id"
        " AND api_key_id = COALESCE(:api_key_id, api_key_id) RETURNING *",
        session_id=session_id,
        id=client_id,
        api_key_id=api_key_id,
    )
    if client is None:
        raise ClientNotFound("Client not found", session_id=session_id, client_id=client_id)
    return client


def detach_all(tx: Tx, session_id: str) -> list[Client]:
    """Who was attached until now: the session is over."""
    return tx.all(
        Client,
        "DELETE FROM client WHERE session_id = :session_id RETURNING *",
        session_id=session_id,
    )


def detach_keyless(tx: Tx, now_ms: int) -> list[Client]:
    """Who was attached until now by an API key that was revoked, or has expired."""
    return tx.all(
        Client,
        "DELETE FROM client WHERE NOT EXISTS (SELECT 1 FROM api_key"
        " WHERE api_key.id = client.api_key_id"
        " AND (api_key.expires_ms IS NULL OR api_key.expires_ms > :now_ms)) RETURNING *",
        now_ms=now_ms,
    )


def _count(tx: Tx, client: Client) -> int:
    return int(
        tx.value(
            "SELECT count(*) FROM client"
            " WHERE session_id = :session_id AND api_key_id = :api_key_id",
            session_id=client.session_id,
            api_key_id=client.api_key_id,
        )
    )


@reads
def of_session(tx: Tx, session_id: str) -> list[Client]:
    """Who is attached, in the order they came."""
    return tx.all(
        Client,
        "SELECT * FROM client WHERE session_id = :session_id ORDER BY attached_ms, id",
        session_id=session_id,
    )


def require_operator(tx: Tx, api_key_id: str, machine_id: str) -> None:
    """Pass unless this key is attached to the machine's session as an observer only.

    Raises:
        Forbidden: it is.
    """
    is_observer = tx.value(
        "SELECT min(CASE mode WHEN 'observer' THEN 1 ELSE 0 END) FROM client"  # noqa: S608
        " JOIN session ON session.id = client.session_id"
        " WHERE client.api_key_id = :api_key_id AND session.machine_id = :machine_id"
        f" AND {IS_CURRENT}",
        api_key_id=api_key_id,
        machine_id=machine_id,
    )
    if is_observer:
        raise Forbidden(
            "this key is attached to the machine's session as an observer, who may only look",
            hint="detach, or attach as an operator",
            machine_id=machine_id,
        )
