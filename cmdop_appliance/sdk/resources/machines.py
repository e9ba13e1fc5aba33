# Made from sdk/aio/resources/machines.py by scripts/fix: change it there.
"""Machines: their facts, load, names and tags."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal, cast

from cmdop_appliance.sdk.resources.resource import Resource, path_to
from cmdop_appliance.sdk.types import Machine, MachineStatus, Metrics


class Machines(Resource):
    """The managed computers."""

    def list(
        self,
        *,
        status: Literal["online", "offline"] | None = None,
        tags: Sequence[str] = (),
        search: str | None = None,
    ) -> Iterator[Machine]:
        """All machines, newest first, page by page. `tags`: those that have every one of them."""
        query = {"status": status, "tags": ",".join(tags) or None, "search": search}
        return self._pages("/machines", query)

    def get(self, machine_id: str) -> Machine:
        """One machine with all the facts it reported."""
        return cast("Machine", self._answer("GET", path_to("machines", machine_id)))

    def status(self, machine_id: str) -> MachineStatus:
        """How the machine is now: its link, and its last sample."""
        path = path_to("machines", machine_id) + "/status"
        return cast("MachineStatus", self._answer("GET", path))

    def metrics(
        self,
        machine_id: str,
        *,
        from_: datetime | None = None,
        to: datetime | None = None,
        step_ms: int | None = None,
    ) -> Metrics:
        """The load of the machine over time, by default of the last hour.

        It is kept by the minute for two days, by 15 minutes for sixty. Times need their zone.

        Raises:
            InvalidRequest: `step_ms` is finer than what is kept, or makes more than 1000 points.
        """
        query = {
            "from": from_.isoformat() if from_ else None,
            "to": to.isoformat() if to else None,
            "step": step_ms,
        }
        path = path_to("machines", machine_id) + "/metrics"
        return cast("Metrics", self._answer("GET", path, query=query))

    def edit(
        self, machine_id: str, *, name: str | None = None, tags: Sequence[str] | None = None
    ) -> Machine:
        """The machine with another name, or with these tags and no others; None: as before."""
        body: dict[str, object] = {}
        if name is not None:
            body["name"] = name
        if tags is not None:
            body["tags"] = [*tags]
        path = path_to("machines", machine_id)
        return cast("Machine", self._answer("PATCH", path, body=body))

    def delete(self, machine_id: str) -> None:
        """Forget the machine: its credential is revoked and its connection cut."""
        self._transport.request("DELETE", path_to("machines", machine_id))
