# Made from sdk/aio/resources/workspaces.py by scripts/fix: change it there.
"""Workspaces."""

from collections.abc import Iterator
from typing import cast

from cmdop_appliance.sdk.resources.resource import Resource
from cmdop_appliance.sdk.types import NewWorkspace, Workspace


class Workspaces(Resource):
    """Owners of machines and keys that know nothing of each other."""

    def create(self, namespace: str, *, idempotency_key: str | None = None) -> NewWorkspace:
        """A new workspace with its first admin key, whose secret is here and never again.

        Raises:
            Conflict: there is one of this namespace.
        """
        made = self._answer(
            "POST", "/workspaces", body={"namespace": namespace}, idempotency_key=idempotency_key
        )
        return cast("NewWorkspace", made)

    def list(self) -> Iterator[Workspace]:
        """All workspaces of the hub."""
        return self._pages("/workspaces", {})
