# Made from sdk/aio/resources/sessions.py by scripts/fix: change it there.
"""Sessions: the connections of machines."""

from collections.abc import Iterator
from typing import cast

from cmdop_appliance.sdk.resources.resource import Resource, path_to
from cmdop_appliance.sdk.types import Session


class Sessions(Resource):
    """The connections of the machines."""

    def list(
        self, *, status: str | None = None, machine_id: str | None = None
    ) -> Iterator[Session]:
        """All sessions, newest first, page by page."""
        return self._pages("/sessions", {"status": status, "machine_id": machine_id})

    def get(self, session_id: str) -> Session:
        """One session with its attached clients."""
        return cast("Session", self._answer("GET", path_to("sessions", session_id)))
