"""Sign-ins: browsers that act as an API key, and end with it."""

from collections.abc import Iterable

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import NotFound, Unauthorized
from cmdop_appliance.model import ApiKey, SignIn
from cmdop_appliance.store import api_keys
from cmdop_appliance.store.api_keys import Use
from cmdop_appliance.store.listing import Page, Paging, select_page
from cmdop_appliance.store.reach import carrying
from cmdop_appliance.store.transaction import Tx, brief, reads

ORDER = {"created_at": "sign_in.created_ms", "last_seen_at": "sign_in.last_seen_ms"}

_COLUMNS = (
    "sign_in.id, sign_in.api_key_id, api_key.name AS key_name, sign_in.created_ms,"
    " sign_in.last_seen_ms, sign_in.ip, sign_in.user_agent, sign_in.expires_ms, sign_in.ends_ms"
)
_SOURCE = "sign_in JOIN api_key ON api_key.id = sign_in.api_key_id"


def insert(tx: Tx, sign_in: SignIn, secret_hash: str, instead_of: str | None = None) -> None:
    """Record a new one; `instead_of` is the id of one that ends with it.

    Raises:
        Unauthorized: its key is there no more.
    """
    inserted = tx.execute(
        "INSERT INTO sign_in (id, api_key_id, secret_hash, created_ms, last_seen_ms, ip,"
        " user_agent, expires_ms, ends_ms)"
        " SELECT :id, api_key.id, :secret_hash, :created_ms, :last_seen_ms, :ip, :user_agent,"
        " :expires_ms, :ends_ms FROM api_key WHERE api_key.id = :api_key_id",
        id=sign_in.id,
        api_key_id=sign_in.api_key_id,
        secret_hash=secret_hash,
        created_ms=sign_in.created_ms,
        last_seen_ms=sign_in.last_seen_ms,
        ip=sign_in.ip,
        user_agent=sign_in.user_agent,
        expires_ms=sign_in.expires_ms,
        ends_ms=sign_in.ends_ms,
    )
    if not inserted:
        raise Unauthorized("Invalid or missing API key")
    if instead_of is not None:
        before = by_id(tx, instead_of)
        if before is not None:
            _delete(tx, before)


@brief
@reads
def by_hash(tx: Tx, secret_hash: str, now_ms: int) -> tuple[SignIn, ApiKey] | None:
    """The sign-in whose cookie has this hash, and its key; None: there is none, or no longer."""
    sign_in = tx.one(
        SignIn,
        f"SELECT {_COLUMNS} FROM {_SOURCE}"  # noqa: S608 - literals of our own
        " WHERE sign_in.secret_hash = :secret_hash AND sign_in.ends_ms > :now_ms",
        secret_hash=secret_hash,
        now_ms=now_ms,
    )
    key = None if sign_in is None else api_keys.by_id(tx, sign_in.api_key_id)
    return None if sign_in is None or key is None else (sign_in, key)


@brief
@reads
def by_id(tx: Tx, sign_in_id: str) -> SignIn | None:
    """The sign-in with this id, whosever it is."""
    return tx.one(
        SignIn,
        f"SELECT {_COLUMNS} FROM {_SOURCE} WHERE sign_in.id = :id",  # noqa: S608 - as above
        id=sign_in_id,
    )


@brief
@reads
def is_good(tx: Tx, sign_in_id: str, now_ms: int) -> bool:
    """True: there is a sign-in with this id, and it has not ended; nor then has its key."""
    found = tx.value(
        "SELECT 1 FROM sign_in WHERE id = :id AND ends_ms > :now_ms", id=sign_in_id, now_ms=now_ms
    )
    return found is not None


@reads
def page(tx: Tx, reach: Reach, paging: Paging, *, api_key_id: str | None = None) -> Page[SignIn]:
    """The sign-ins of the keys in reach, or of one of them."""
    return select_page(
        tx,
        SignIn,
        paging,
        columns=_COLUMNS,
        source=_SOURCE,
        within=carrying(reach, "api_key"),
        filters={"sign_in.api_key_id = :api_key_id": api_key_id},
        order=ORDER,
        key="sign_in.id",
    )


def note_uses(tx: Tx, uses: Iterable[Use], idle_ms: int) -> None:
    """Record when browsers were seen last; each ends `idle_ms` after that, if not before."""
    for use in uses:
        tx.execute(
            "UPDATE sign_in SET last_seen_ms = :at_ms, ip = COALESCE(:address, ip),"
            " ends_ms = CASE WHEN expires_ms < :ends_ms THEN expires_ms ELSE :ends_ms END"
            " WHERE id = :id",
            at_ms=use.at_ms,
            address=use.address,
            ends_ms=use.at_ms + idle_ms,
            id=use.id,
        )


def delete(tx: Tx, reach: Reach, sign_in_id: str, api_key_id: str | None = None) -> None:
    """Sign a browser out.

    Raises:
        NotFound: no key in reach, or not this one, has such a sign-in.
    """
    sign_in = by_id(tx, sign_in_id)
    if sign_in is None or api_key_id not in (None, sign_in.api_key_id):
        raise _not_found(sign_in_id)
    try:
        api_keys.get(tx, reach, sign_in.api_key_id)
    except NotFound:
        raise _not_found(sign_in_id) from None
    _delete(tx, sign_in)


def forget(tx: Tx, now_ms: int) -> None:
    """Drop those that have ended."""
    tx.execute("DELETE FROM sign_in WHERE ends_ms <= :now_ms", now_ms=now_ms)


def _delete(tx: Tx, sign_in: SignIn) -> None:
    tx.execute("DELETE FROM sign_in WHERE id = :id", id=sign_in.id)
    tx.notify(api_keys.subject_of(sign_in.api_key_id))


def _not_found(sign_in_id: str) -> NotFound:
    return NotFound("sign-in not found", sign_in_id=sign_in_id)
