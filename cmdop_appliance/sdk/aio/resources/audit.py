"""The audit log."""

from collections.abc import AsyncIterator
from typing import Literal, cast

from cmdop_appliance.sdk.aio.resources.resource import PAGE_ITEMS, Resource
from cmdop_appliance.sdk.types import AuditEntry, AuditProof


class Audit(Resource):
    """What was done, and what was refused."""

    def list(
        self,
        *,
        action: str | None = None,
        actor: str | None = None,
        target: str | None = None,
        outcome: Literal["ok", "refused"] | None = None,
        since: str | None = None,
        page_items: int = PAGE_ITEMS,
    ) -> AsyncIterator[AuditEntry]:
        """The entries of the workspace, newest first, page by page. `since`: RFC 3339."""
        query = {
            "action": action,
            "actor": actor,
            "target": target,
            "outcome": outcome,
            "since": since,
        }
        return self._pages("/audit", query, page_items)

    async def verify(self, *, head: str | None = None) -> AuditProof:
        """Have the hub walk its whole log; `head` is a SEQ:HASH that it must still have."""
        return cast("AuditProof", await self._answer("GET", "/audit/verify", query={"head": head}))
