"""/workspaces: owners of machines and keys that know nothing of each other."""

from typing import ClassVar

from msgspec import Struct

from cmdop_appliance.api.cmdop.api_keys import NewKey, first_made, with_secret
from cmdop_appliance.api.exchange import Call, Listed, Paged, read_paging
from cmdop_appliance.api.fields import Namespace, Time, when
from cmdop_appliance.api.registry import route
from cmdop_appliance.auth import Caller, Scope, new_key, secret_hash, shown_prefix
from cmdop_appliance.errors import Conflict, Forbidden, ValidationFailed
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import DEFAULT_WORKSPACE, ApiKey
from cmdop_appliance.store import workspaces as rows


class WorkspaceBody(Struct, kw_only=True):
    """A new workspace."""

    namespace: Namespace


class WorkspaceList(Paged, frozen=True):
    """A page of the list of workspaces."""

    ORDER: ClassVar = rows.ORDER


class WorkspaceView(Struct, frozen=True, kw_only=True):
    """A workspace."""

    id: str
    namespace: str
    created_at: Time | None


class NewWorkspace(WorkspaceView, frozen=True, kw_only=True):
    """A workspace and its first admin key, whose secret is shown only now."""

    api_key: NewKey


@route(
    "POST",
    "/workspaces",
    scope=Scope.ADMIN,
    body=WorkspaceBody,
    answer=NewWorkspace,
    errors=(Conflict, Forbidden, ValidationFailed),
    status=201,
)
async def create_workspace(call: Call[WorkspaceBody, None]) -> NewWorkspace:
    """Make a workspace; whoever has the key that comes with it is its admin."""
    require_owner_of_hub(call.caller)
    call.caller.require_outlives(None)
    secret = new_key(None if call.once is None else call.once.secret(call.once.salt))
    key = ApiKey(
        id=new_id("key"),
        workspace_id=new_id("ws"),
        namespace=call.body.namespace,
        name="admin",
        key_prefix=shown_prefix(secret),
        scopes=[Scope.ADMIN],
        created_ms=call.hub.clock.now_ms(),
        expires_ms=None,
    )
    entry = call.entry("workspace.created", key.id, workspace_id=key.workspace_id)
    insert = entry.recording(rows.insert)
    made = await call.hub.store.run(insert, key, secret_hash(secret), call.once)
    key, secret = await first_made(call, key, secret, made)
    return NewWorkspace(
        id=key.workspace_id,
        namespace=key.namespace,
        created_at=when(key.created_ms),
        api_key=with_secret(key, secret),
    )


@route(
    "GET",
    "/workspaces",
    scope=Scope.ADMIN,
    query=WorkspaceList,
    answer=list[WorkspaceView],
    errors=(Forbidden,),
)
async def list_workspaces(call: Call[None, WorkspaceList]) -> Listed:
    """The workspaces of the hub."""
    require_owner_of_hub(call.caller)
    page = await call.hub.store.run(rows.page, read_paging(call.query))
    views = [
        WorkspaceView(id=item.id, namespace=item.namespace, created_at=when(item.created_ms))
        for item in page.items
    ]
    return Listed(views, page)


def require_owner_of_hub(caller: Caller) -> None:
    """Pass whose key is of the first workspace, and good for all of it.

    Raises:
        Forbidden: what is of all workspaces is not for others.
    """
    if caller.workspace_id != DEFAULT_WORKSPACE or caller.tags:
        raise Forbidden("this is only for keys of the workspace `default` without tags")
