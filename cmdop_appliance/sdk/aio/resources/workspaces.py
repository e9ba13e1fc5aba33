"""Workspaces."""

from collections.abc import AsyncIterator
from typing import cast

from cmdop_appliance.sdk.aio.resources.resource import Resource
from cmdop_appliance.sdk.types import NewWorkspace, Workspace


class Workspaces(Resource):
    """Owners of machines and keys that know nothing of each other."""

    async def create(self, namespace: str, *, idempotency_key: str | None = None) -> NewWorkspace:
        """A new workspace with its first admin key, whose secret is here and never again.

        Raises:
            Conflict: there is one of this namespace.
        """
        made = await self._answer(
            "POST", "/workspaces", body={"namespace": namespace}, idempotency_key=idempotency_key
        )
        return cast("NewWorkspace", made)

    def list(self) -> AsyncIterator[Workspace]:
        """All workspaces of the hub."""
        return self._pages("/workspaces", {})
