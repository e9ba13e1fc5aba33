"""Whoever may only look: keys of two kinds, and what the audit log says that they were refused."""

from itertools import count
from pathlib import Path
from typing import Any

from tests.support.appliance import Api, Hub

_numbers = count()


def new_key(hub: Hub, *scopes: str) -> Api:
    """A key by whose name the audit log tells it from all others."""
    made = hub.api.post("/api-keys", name=f"observer-{next(_numbers)}", scopes=scopes)
    return Api(hub.api.url, made["key"])


def new_reader(hub: Hub, session_id: str) -> Api:
    """A key that may read sessions, attached as what it may be."""
    api = new_key(hub, "sessions:read")
    api.post(f"/sessions/{session_id}/attach", mode="observer")
    return api


def new_onlooker(hub: Hub, session_id: str) -> Api:
    """A key that may do everything, attached as an observer."""
    api = new_key(hub, "admin")
    api.post(f"/sessions/{session_id}/attach", mode="observer")
    return api


def mark(place: Path) -> Path:
    """A file that a command would make."""
    return place / f"mark-{next(_numbers)}"


def refusals(hub: Hub, api: Api) -> list[Any]:
    """What the audit log says that this key was refused."""
    actor = api.get("/auth/me")["email"]
    entries = hub.api.get("/audit?outcome=refused&limit=100")
    return [entry for entry in entries if entry["actor"] == actor]


def new_terminal(hub: Hub, machine_id: str, *argv: str) -> str:
    """A terminal that runs."""
    return str(hub.api.post(f"/machines/{machine_id}/terminals", argv=argv)["id"])
