"""Sessions: the connections of machines."""

from collections.abc import Iterator
from typing import cast

from cmdop_appliance.sdk.resources.resource import Resource, data_of, path_to
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
        return cast(
            "Session", data_of(self._transport.request("GET", path_to("sessions", session_id)))
        )
