"""/upgrades/:id/machines: what becomes of a release on each machine."""

from typing import ClassVar

from msgspec import Struct

from cmdop_appliance.api.cmdop.workspaces import require_owner_of_hub
from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import Time, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import Forbidden, UpgradeNotFound
from cmdop_appliance.model import MachineUpgrade, MachineUpgradeState
from cmdop_appliance.store import machine_upgrades as rows


class MachineUpgradeList(Paged, frozen=True):
    """Filters of the list of machines."""

    ORDER: ClassVar = rows.ORDER

    sort: str = "wave"
    state: MachineUpgradeState | None = None


class MachineUpgradeView(Struct, frozen=True, kw_only=True):
    """One machine. Its turn comes when those of the `wave` before are done; 0: it had none yet."""

    machine_id: str
    name: str
    online: bool
    wave: int
    state: MachineUpgradeState
    code: str | None  # why it came to nothing, a stable word
    reason: str | None  # the same for people
    changed_at: Time | None


@route(
    "GET",
    "/upgrades/:id/machines",
    scope=Scope.ADMIN,
    query=MachineUpgradeList,
    answer=list[MachineUpgradeView],
    errors=(Forbidden, UpgradeNotFound),
)
async def list_machine_upgrades(call: Call[None, MachineUpgradeList]) -> Listed:
    """The machines that are to get a release, in the order of their turns."""
    require_owner_of_hub(call.caller)
    page = await call.hub.store.run(
        rows.page, call.path["id"], read_paging(call.query), state=call.query.state
    )
    return Listed([_view(item) for item in page.items], page)


def _view(row: MachineUpgrade) -> MachineUpgradeView:
    return MachineUpgradeView(
        machine_id=row.machine_id,
        name=row.name,
        online=row.is_online,
        wave=row.wave,
        state=row.state,
        code=row.code,
        reason=row.reason,
        changed_at=when(row.changed_ms),
    )
