"""Clients: who has attached to a session, and whether they may do more than look."""

from cmdop_appliance.errors import ClientNotFound, Conflict, Forbidden
from cmdop_appliance.model import Client
from cmdop_appliance.store.transaction import Tx, reads


def attach(tx: Tx, client: Client) -> Client:
    """The client as it is attached now; the same one again changes its mode.

    Raises:
        Conflict: another API key is attached under this id.
    """
    before = find(tx, client.session_id, client.id)
    if before is not None and before.api_key_id != client.api_key_id:
        raise Conflict(
            "another API key is attached under this client_id",
            hint="choose another client_id, or send none to get a new one",
        )
    attached = tx.one(
        Client,
        "INSERT INTO client (session_id, id, api_key_id, operator, mode, attached_ms)"
        " VALUES (:session_id, :id, :api_key_id, :operator, :mode, :attached_ms)"
        " ON CONFLICT (session_id, id) DO UPDATE SET mode = excluded.mode RETURNING *",
        session_id=client.session_id,
        id=client.id,
        api_key_id=client.api_key_id,
        operator=client.operator,
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


def detach_all(tx: Tx, session_id: str) -> None:
    """The session is over: nobody looks at it any more."""
    tx.execute("DELETE FROM client WHERE session_id = :session_id", session_id=session_id)


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
        "SELECT min(CASE mode WHEN 'observer' THEN 1 ELSE 0 END) FROM client"
        " JOIN session ON session.id = client.session_id"
        " WHERE client.api_key_id = :api_key_id AND session.machine_id = :machine_id"
        " AND session.status NOT IN ('DISCONNECTED', 'ERROR')",
        api_key_id=api_key_id,
        machine_id=machine_id,
    )
    if is_observer:
        raise Forbidden(
            "this key is attached to the machine's session as an observer, who may only look",
            hint="detach, or attach as an operator",
            machine_id=machine_id,
        )
