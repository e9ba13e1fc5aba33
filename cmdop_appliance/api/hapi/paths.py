"""/api/machines/:id/paths/exists: which paths exist on a machine."""

from typing import Annotated

from msgspec import Meta, Struct

from cmdop_appliance.api.exchange import Call
from cmdop_appliance.api.hapi.machines import forbid_what_is_elsewhere
from cmdop_appliance.api.registry import HAPI, route
from cmdop_appliance.auth import Scope
from cmdop_appliance.errors import (
    ApplianceError,
    FileIoError,
    FilesNotSupported,
    MachineNotFound,
    PathNotAllowed,
    PathsNotAllowed,
    SessionNotActive,
    Unavailable,
)
from cmdop_appliance.protocol.limits import PATH_BYTES, PATHS_ITEMS


class PathsBody(Struct, kw_only=True):
    """Paths, of whatever kind."""

    paths: Annotated[list[str], Meta(min_length=1, max_length=PATHS_ITEMS)]


class PathsExist(Struct, frozen=True):
    """Whether there is something at each path, by the path as it was asked."""

    exists: dict[str, bool]


@route(
    "POST",
    "/api/machines/:id/paths/exists",
    scope=Scope.FILES_READ,
    body=PathsBody,
    answer=PathsExist,
    errors=(MachineNotFound, FilesNotSupported, FileIoError, PathsNotAllowed),
    plane=HAPI,
)
async def check_paths(call: Call[PathsBody, None]) -> PathsExist:
    """Which of these paths exist on a machine, whatever they are."""
    exists = dict.fromkeys(call.body.paths, False)
    # No system has a longer one, and the empty one names nothing (POSIX).
    asked = {path: said for path in exists if 0 < len(said := path.encode()) <= PATH_BYTES}
    try:
        found = await call.hub.files.exist(call.caller, call.path["id"], list(asked.values()))
    except MachineNotFound:
        await forbid_what_is_elsewhere(call)
        raise
    except (SessionNotActive, Unavailable) as exc:
        raise Unavailable("Not connected") from exc
    except FilesNotSupported:
        raise
    except PathNotAllowed as exc:
        raise PathsNotAllowed(exc.message) from exc
    except ApplianceError as exc:  # whatever it is, it is the machine's
        raise FileIoError(exc.message) from exc
    exists.update(zip(asked, found, strict=True))
    return PathsExist(exists)
