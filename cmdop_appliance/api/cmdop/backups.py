"""/backup: all that the hub knows, as one file; and how its own backups go."""

from typing import Final

from msgspec import Struct

from cmdop_appliance.api.cmdop.workspaces import require_owner_of_hub
from cmdop_appliance.api.exchange import Call, Response
from cmdop_appliance.api.fields import Time, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.archives import MEDIA, file_name
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import BackupRunning, Forbidden, StorageFull
from cmdop_appliance.store import audit

_HEADERS: Final = {"Content-Type": MEDIA, "Cache-Control": "no-store"}


class BackupsView(Struct, frozen=True, kw_only=True):
    """The backups that the hub makes by itself; `directory` null: none are made."""

    directory: str | None
    next_at: Time | None
    last_at: Time | None  # of the newest in the directory
    last_bytes: int | None
    kept: int
    error: str | None  # why the last one that was tried was not made


@route(
    "GET",
    "/backup",
    scope=Scope.ADMIN,
    answer=bytes,
    media=MEDIA,
    errors=(Forbidden, BackupRunning, StorageFull),
    is_bulk=True,
)
async def download_backup(call: Call[None, None]) -> Response:
    """All workspaces as one file, as they stand now, with every secret; the hub goes on meanwhile.

    It is whole if its end is in it: `cmdop backup verify`. Commands that the hub is given while it
    is made are not in it.
    """
    require_owner_of_hub(call.caller)
    now_ms = call.hub.clock.now_ms()
    await call.hub.store.run(audit.append, call.entry("backup.taken", ""))
    name = f'attachment; filename="{file_name(now_ms)}"'
    headers = _HEADERS | {"Content-Disposition": name}
    return Response(200, headers, call.hub.backups.stream())


@route("GET", "/backups", scope=Scope.ADMIN, answer=BackupsView, errors=(Forbidden,))
async def show_backups(call: Call[None, None]) -> BackupsView:
    """How the backups go that `[backup]` asks for."""
    require_owner_of_hub(call.caller)
    kept = call.hub.backups.kept
    return BackupsView(
        directory=kept.directory,
        next_at=when(kept.next_ms),
        last_at=when(kept.last_ms),
        last_bytes=kept.last_bytes,
        kept=kept.number,
        error=kept.error,
    )
