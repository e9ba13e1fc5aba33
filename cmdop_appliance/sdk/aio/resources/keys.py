"""API keys."""

from collections.abc import AsyncIterator, Sequence
from typing import cast

from cmdop_appliance.sdk.aio.resources.resource import Resource, path_to
from cmdop_appliance.sdk.types import APIKey


class Keys(Resource):
    """API keys."""

    async def create(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        expires_in_days: int | None = None,
        tags: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> APIKey:
        """A new key; its secret is in `key`, here and never again.

        With `tags` it is good only for machines that have all of them; None: as the key that asks.
        """
        body = {
            "name": name,
            "scopes": [*scopes],
            "expires_in_days": expires_in_days,
            "tags": None if tags is None else [*tags],
        }
        made = await self._answer("POST", "/api-keys", body=body, idempotency_key=idempotency_key)
        return cast("APIKey", made)

    async def get(self, key_id: str) -> APIKey:
        """One key, without its secret."""
        return cast("APIKey", await self._answer("GET", path_to("api-keys", key_id)))

    def list(self) -> AsyncIterator[APIKey]:
        """All keys, without their secrets."""
        return self._pages("/api-keys", {})

    async def revoke(self, key_id: str) -> None:
        """The key is worth nothing from now on."""
        await self._transport.request("DELETE", path_to("api-keys", key_id))
