"""What was asked for once, and must not be done twice: kept for 24 hours, per API key."""

from dataclasses import dataclass, field
from typing import Final

from cmdop_appliance.auth import derived_secret
from cmdop_appliance.errors import IdempotencyConflict
from cmdop_appliance.model import Record
from cmdop_appliance.store.transaction import Tx, reads

KEPT_MS: Final = 24 * 3_600_000  # contract.md §1
# Dropped at a time, once a second: more than a hub takes in, and few enough to hold nobody up.
_FORGOTTEN: Final = 1000


@dataclass(frozen=True, slots=True)
class Once:
    """A request that its caller may send again, to be carried out once."""

    api_key_id: str
    key: str
    request_hash: bytes
    salt: bytes  # for a secret that it makes; that of the first request counts
    now_ms: int
    caller_key: str = field(repr=False)

    def secret(self, salt: bytes) -> bytes:
        """The secret that this request makes with `salt`: nothing of it needs to be stored."""
        return derived_secret(self.caller_key, salt)


class Claim(Record, frozen=True, kw_only=True):
    """What the first of these requests made."""

    made_id: str
    salt: bytes
    created_ms: int  # when it came


class _Known(Claim, frozen=True, kw_only=True):
    request_hash: bytes


def claim(tx: Tx, once: Once, made_id: str) -> Claim:
    """`made_id` is what this request makes, unless the same request was there before.

    Whoever finds his own id in the answer makes it, in this transaction.

    Raises:
        IdempotencyConflict: the key came with another request before.
    """
    tx.execute(
        "INSERT INTO idempotency"
        " (api_key_id, idempotency_key, request_hash, made_id, salt, created_ms)"
        " VALUES (:api_key_id, :key, :request_hash, :made_id, :salt, :now_ms)"
        " ON CONFLICT (api_key_id, idempotency_key) DO UPDATE"
        " SET request_hash = excluded.request_hash, made_id = excluded.made_id,"
        " salt = excluded.salt, created_ms = excluded.created_ms"
        " WHERE idempotency.created_ms < :before",
        api_key_id=once.api_key_id,
        key=once.key,
        request_hash=once.request_hash,
        made_id=made_id,
        salt=once.salt,
        now_ms=once.now_ms,
        before=once.now_ms - KEPT_MS,
    )
    found = find(tx, once)
    assert found is not None  # it, or one that was there before, and then of the same request
    return found


@reads
def find(tx: Tx, once: Once) -> Claim | None:
    """What the same request made before, if it was there.

    Raises:
        IdempotencyConflict: the key came with another request before.
    """
    found = tx.one(
        _Known,
        "SELECT made_id, salt, created_ms, request_hash FROM idempotency"
        " WHERE api_key_id = :api_key_id AND idempotency_key = :key AND created_ms >= :since",
        api_key_id=once.api_key_id,
        key=once.key,
        since=once.now_ms - KEPT_MS,
    )
    if found is not None and found.request_hash != once.request_hash:
        raise IdempotencyConflict(
            "this Idempotency-Key was used for another request",
            hint="use a new key for each new request",
        )
    return found


def forget(tx: Tx, now_ms: int) -> None:
    """Drop some of what is older than is promised; called again and again, it drops all."""
    tx.execute(
        "DELETE FROM idempotency WHERE (api_key_id, idempotency_key) IN"
        " (SELECT api_key_id, idempotency_key FROM idempotency WHERE created_ms < :before"
        " ORDER BY created_ms LIMIT :most)",
        before=now_ms - KEPT_MS,
        most=_FORGOTTEN,
    )
