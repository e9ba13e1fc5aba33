"""What is refused while little is left of the hub's disk: whatever begins something new."""

from typing import Final

from cmdop_appliance.api.registry import Route
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.store import idempotency
from cmdop_appliance.store.idempotency import Once

# POSTs that go on: they let somebody in and look, or what they make is on a machine's disk.
GO_ON: Final = frozenset(
    {
        "answer_mcp",  # whose tools are routes themselves
        "attach_to_session",
        "check_paths",
        "copy_file",
        "copy_machine_file",
        "create_access_token",
        "create_sign_in",
        "create_sign_in_link",
        "detach_from_session",
        "issue_terminal_ticket",
        "make_directory",
        "make_machine_directory",
        "move_file",
        "move_machine_file",
        "preview_rule",
        "upload_form",
        "upload_machine_form",
    }
)


async def require_room(hub: Hub, route: Route, once: Once | None) -> None:
    """Return if this may be begun, or was begun before, by the same request.

    Raises:
        StorageFull: too little of the disk is free; nothing was recorded.
        IdempotencyConflict: the key came with another request before.
    """
    if not hub.disk.is_short or route.method != "POST" or route.name in GO_ON:
        return
    if once is None or await hub.store.run(idempotency.find, once) is None:
        hub.disk.require_room()
