# Made from sdk/aio/resources/upgrades.py by scripts/fix: change it there.
"""Upgrades of a hub and its machines."""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import BinaryIO, cast

from cmdop_appliance.sdk.pieces import PIECE_BYTES, Progress
from cmdop_appliance.sdk.resources.resource import Resource, data_of, path_to
from cmdop_appliance.sdk.types import MachineUpgrade, Release, Upgrade
from cmdop_appliance.sdk.waiting import on_disk


class Upgrades(Resource):
    """Releases for the hub itself, and then for its machines."""

    def check(self, bundle: BinaryIO, *, progress: Progress | None = None) -> Release:
        """Have the hub verify a bundle, and keep nothing of it.

        Raises:
            InvalidRequest: it is none that this hub would take (`bundle_refused`).
            Conflict: the hub cannot replace itself.
        """
        return cast("Release", self._put(bundle, {"check": "true"}, progress))

    def start(
        self,
        bundle: BinaryIO,
        *,
        hub_only: bool = False,
        machine_ids: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Upgrade:
        """Have the hub become the release in a bundle, and then its machines, or only some.

        It is recorded when this returns, and goes on by itself: `get` tells how far it is.

        Raises:
            InvalidRequest: it is no bundle that this hub takes (`bundle_refused`).
            Conflict: the hub cannot replace itself, or another upgrade is under way.
        """
        query = {
            "hub_only": "true" if hub_only else None,
            "machine_ids": ",".join(machine_ids) if machine_ids else None,
        }
        return cast("Upgrade", self._put(bundle, query, progress))

    def get(self, upgrade_id: str) -> Upgrade:
        """How far one is.

        Raises:
            NotFound: there is none of this id.
        """
        return cast("Upgrade", self._answer("GET", path_to("upgrades", upgrade_id)))

    def list(self) -> Iterator[Upgrade]:
        """All, the newest first."""
        return self._pages("/upgrades", {})

    def machines(self, upgrade_id: str) -> Iterator[MachineUpgrade]:
        """What becomes of one on each machine, in the order of their turns."""
        return self._pages(f"{path_to('upgrades', upgrade_id)}/machines", {})

    def _put(
        self, bundle: BinaryIO, query: dict[str, str | None], progress: Progress | None
    ) -> dict[str, object]:
        size = os.fstat(bundle.fileno()).st_size
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}

        def pieces() -> Generator[memoryview]:
            sent = 0
            while piece := on_disk(bundle.read, PIECE_BYTES):
                yield memoryview(piece)
                sent += len(piece)
                if progress is not None:
                    progress(sent, size)

        with (
            closing(pieces()) as file,
            self._transport.exchange(
                "PUT", "/upgrades/bundle", query=query, headers=headers, file=file
            ) as response,
        ):
            return data_of(self._transport.read(response))
