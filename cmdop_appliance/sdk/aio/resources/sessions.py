"""Sessions: the connections of machines."""

from collections.abc import AsyncIterator
from typing import cast

from cmdop_appliance.sdk.aio.resources.resource import Resource, path_to
from cmdop_appliance.sdk.types import Session


class Sessions(Resource):
    """The connections of the machines."""

    def list(
        self, *, status: str | None = None, machine_id: str | None = None
    ) -> AsyncIterator[Session]:
        """All sessions, newest first, page by page."""
        return self._pages("/sessions", {"status": status, "machine_id": machine_id})

    async def get(self, session_id: str) -> Session:
        """One session with its attached clients."""
        return cast("Session", await self._answer("GET", path_to("sessions", session_id)))
