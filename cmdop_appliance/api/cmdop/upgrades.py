"""/upgrades: releases for the hub itself, and then for its machines."""

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from cmdop_appliance import __version__
from cmdop_appliance.api.cmdop.file_routes import BYTES
from cmdop_appliance.api.cmdop.workspaces import require_owner_of_hub
from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import Time, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import (
    BundleRefused,
    Conflict,
    Forbidden,
    MachineNotFound,
    NotInstalled,
    UpgradeNotFound,
    UpgradeRunning,
)
from cmdop_appliance.hub.releases import is_running
from cmdop_appliance.model import Upgrade, UpgradeStatus
from cmdop_appliance.release.bundle import Manifest, read_known
from cmdop_appliance.store import upgrades as rows

# Of a query: ids with commas between them.
MachineIds = Annotated[str, Meta(pattern=r"^mach_[0-9A-Z]{26}(?:,mach_[0-9A-Z]{26}){0,999}\Z")]


class BundleQuery(Struct, frozen=True, kw_only=True):
    """Who is to get the release, and whether it is only looked at."""

    check: bool = False  # read and verify it whole, and keep nothing
    hub_only: bool = False
    machine_ids: MachineIds | None = None  # beside the hub only these


class ReleaseView(Struct, frozen=True, kw_only=True):
    """A release, as its maker signed it."""

    version: str
    released_at: Time | None
    programs: list[str]  # `cmdop-` and what they are for
    running_version: str  # of the hub that answers
    is_running: bool  # the hub is this release


class UpgradeView(ReleaseView, frozen=True, kw_only=True):
    """An upgrade. First it is the hub's turn, then its machines'."""

    id: str
    status: UpgradeStatus
    reason: str | None  # why it failed
    machine_ids: list[str] | None  # the only ones that get it; null: every one
    created_at: Time | None
    hub_upgraded_at: Time | None
    finished_at: Time | None


class UpgradeList(Paged, frozen=True):
    """A page of the list of upgrades."""

    ORDER: ClassVar = rows.ORDER


@route(
    "PUT",
    "/upgrades/bundle",
    scope=Scope.ADMIN,
    query=BundleQuery,
    answer=UpgradeView | ReleaseView,
    errors=(
        BundleRefused,
        Conflict,
        Forbidden,
        MachineNotFound,
        NotInstalled,
        UpgradeRunning,
    ),
    is_bulk=True,
    takes=BYTES,
)
async def put_bundle(call: Call[None, BundleQuery]) -> UpgradeView | ReleaseView:
    """Upgrade the hub and its machines. The body is the bundle.

    It is verified while it arrives: signed by a key that the hub trusts, newer than what runs, and
    nothing but what its manifest says. Commands and terminals on the machines are not disturbed.
    """
    require_owner_of_hub(call.caller)
    given, query, pieces = call.query.machine_ids, call.query, call.request.pieces()
    machine_ids = given.split(",") if given else [] if query.hub_only else None
    if query.check:
        return _release(await call.hub.releases.check(pieces, machine_ids))
    call.hub.disk.require_room()
    return _view(await call.hub.releases.take(call.caller, pieces, machine_ids))


@route(
    "GET",
    "/upgrades",
    scope=Scope.ADMIN,
    query=UpgradeList,
    answer=list[UpgradeView],
    errors=(Forbidden,),
)
async def list_upgrades(call: Call[None, UpgradeList]) -> Listed:
    """The upgrades of the hub."""
    require_owner_of_hub(call.caller)
    page = await call.hub.store.run(rows.page, read_paging(call.query))
    return Listed([_view(item) for item in page.items], page)


@route(
    "GET",
    "/upgrades/:id",
    scope=Scope.ADMIN,
    answer=UpgradeView,
    errors=(Forbidden, UpgradeNotFound),
)
async def get_upgrade(call: Call[None, None]) -> UpgradeView:
    """How far an upgrade is."""
    require_owner_of_hub(call.caller)
    return _view(await call.hub.store.run(rows.get, call.path["id"]))


def _release(manifest: Manifest) -> ReleaseView:
    return ReleaseView(
        version=manifest.version,
        released_at=when(manifest.released_ms),
        programs=[file.name for file in manifest.files],
        running_version=__version__,
        is_running=is_running(manifest.version, manifest.released_ms),
    )


def _view(upgrade: Upgrade) -> UpgradeView:
    release = _release(read_known(upgrade.manifest))
    return UpgradeView(
        id=upgrade.id,
        version=release.version,
        released_at=release.released_at,
        programs=release.programs,
        running_version=release.running_version,
        is_running=release.is_running,
        status=upgrade.status,
        reason=upgrade.reason,
        machine_ids=upgrade.machine_ids,
        created_at=when(upgrade.created_ms),
        hub_upgraded_at=when(upgrade.hub_ms),
        finished_at=when(upgrade.finished_ms),
    )
