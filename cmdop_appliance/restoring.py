"""A hub out of a backup: for good, or for a moment, to see that it can be done."""

import http.client
import json
import shutil
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import trio
from msgspec import Struct

from cmdop_appliance import archives
from cmdop_appliance.api.app import make_app
from cmdop_appliance.api.guard import HttpServer
from cmdop_appliance.archives import Head
from cmdop_appliance.auth import Scope, new_key, secret_hash, shown_prefix
from cmdop_appliance.clock import SystemClock
from cmdop_appliance.config import Config, ServerConfig
from cmdop_appliance.errors import BackupDamaged, StartupError
from cmdop_appliance.front import Front, PeekedStream, is_for_socket, open_listeners
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.ids import new_id
from cmdop_appliance.model import DEFAULT_WORKSPACE, ApiKey, Workspace
from cmdop_appliance.private import sync_directory
from cmdop_appliance.store import api_keys, backups, integrity, restored, workspaces
from cmdop_appliance.store.directory import LOCK_FILE, RESTORING, claim
from cmdop_appliance.store.engine import open_store
from cmdop_appliance.store.listing import Paging

# A key of the quiet hub that only we have.
_KEY_MS: Final = 86_400_000
_PATIENCE_S: Final = 600.0
_PAGE: Final = 100


class Verified(Struct, frozen=True, kw_only=True):
    """What a hub that was booted from a backup has."""

    head: Head
    lists: dict[str, int]  # as its API tells
    audit_entries: int  # that follow from one another


def restore(file: Path, data_dir: Path) -> Head:
    """Make a data directory out of a backup: whole, or not at all.

    Raises:
        StartupError: the directory is not empty, or not ours; or a newer version made the backup.
        BackupDamaged: it is no backup, or not whole.
        OSError: the file cannot be read, or the directory not written.
    """
    is_new = not data_dir.exists()
    _require_empty(data_dir)
    try:
        with claim(data_dir):
            _require_empty(data_dir)  # still: now it is ours
            try:
                return _restore(file, data_dir)
            except BaseException:
                _clear(data_dir)
                raise
    except BaseException:
        if is_new:
            with suppress(OSError):  # somebody else was quicker, and it is theirs
                data_dir.rmdir()
        raise


def _require_empty(data_dir: Path) -> None:
    if data_dir.exists() and any(path.name != LOCK_FILE for path in data_dir.iterdir()):
        raise StartupError(
            f"{data_dir} is not empty", hint="name a directory with --data-dir that is, or is new"
        )


def _restore(file: Path, data_dir: Path) -> Head:
    part = data_dir / RESTORING
    part.mkdir(mode=0o700)
    head = archives.unpack(file, part)
    _require_equal(head, part)
    trio.run(_mark, part, head)
    _move(part, data_dir)
    return head


def verify(file: Path, scratch: Path | None = None) -> Verified:
    """Boot a hub from a backup, where nobody finds it, and count what it has.

    It fires nothing, sends nothing and takes no agent. `scratch`: where it is unpacked for that.

    Raises:
        StartupError: a newer version made the backup.
        BackupDamaged: it is no backup, or not whole, or the hub has something else than it says.
        OSError: the file cannot be read, or the folder not written.
    """
    with tempfile.TemporaryDirectory(prefix="cmdop-verify-", dir=scratch) as folder:
        place = Path(folder)
        head = archives.unpack(file, place)
        _require_equal(head, place)
        found: Verified = trio.run(_boot, place, head)
    if found.lists != head.lists or found.audit_entries != head.tables["audit"]:
        raise BackupDamaged(
            f"a hub from {file} has {found.lists} and {found.audit_entries} audit entries;"
            f" {head.lists} and {head.tables['audit']} were backed up"
        )
    return found


def _require_equal(head: Head, place: Path) -> None:
    """The database is sound, and has the rows that were counted."""
    with backups.opened(place / archives.DATABASE) as tx:
        if faults := integrity.faults(tx):
            raise BackupDamaged(f"the database in the backup is damaged: {faults[0]}")
        found = backups.tables(tx)
    if found != head.tables:
        raise BackupDamaged(f"the database has {found}; {head.tables} were backed up")


async def _mark(place: Path, head: Head) -> None:
    async with open_store(place) as store:
        now_ms = SystemClock().now_ms()
        await store.run(restored.mark, head.created_ms, now_ms, head.version)


def _move(part: Path, data_dir: Path) -> None:
    """What is whole goes to its place, the database last: no hub starts before."""
    names = sorted(path.name for path in part.iterdir() if path.name != archives.DATABASE)
    for name in [*names, archives.DATABASE]:
        (part / name).rename(data_dir / name)
        sync_directory(data_dir)
    part.rmdir()
    sync_directory(data_dir)


def _clear(folder: Path) -> None:
    """Take away what was begun in a directory that was empty."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


# ── the quiet hub ────────────────────────────────────────────────────────────────────────────────


async def _boot(place: Path, head: Head) -> Verified:
    config = Config(server=ServerConfig(listen="127.0.0.1:0", data_dir=str(place)))
    async with open_store(place) as store:
        hub = await Hub.open(config, SystemClock(), store, place)
        keys = await _keys(hub)
        server = HttpServer(make_app(hub), is_for_others=is_for_socket)
        front = Front(
            serve_agent=_hang_up,
            serve_terminal=_hang_up,
            serve_live=_hang_up,
            serve_http=server.serve,
        )
        listeners = await open_listeners("127.0.0.1", 0)
        port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front.run, listeners)
            found = await trio.to_thread.run_sync(_count, port, keys, head)
            hub.bus.stop()
            server.stop()
            nursery.cancel_scope.cancel()
        hub.outputs.close()
    return found


async def _hang_up(stream: PeekedStream) -> None:
    await stream.aclose()


async def _keys(hub: Hub) -> dict[str, str]:
    """A key of each workspace, by its id."""
    found: list[Workspace] = []
    while page := (
        await hub.store.run(workspaces.page, Paging(_PAGE, len(found), "created_at"))
    ).items:
        found += page
    now_ms, keys = hub.clock.now_ms(), {}
    for workspace in found:
        keys[workspace.id] = secret = new_key()
        key = ApiKey(
            id=new_id("key"),
            workspace_id=workspace.id,
            namespace=workspace.namespace,
            name="verify",
            key_prefix=shown_prefix(secret),
            scopes=[Scope.ADMIN],
            created_ms=now_ms,
            expires_ms=now_ms + _KEY_MS,
        )
        await hub.store.run(api_keys.insert, key, secret_hash(secret))
    return keys


def _count(port: int, keys: dict[str, str], head: Head) -> Verified:
    """Ask the hub over HTTP, as anybody would."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)

    def ask(path: str, key: str, **query: object) -> Any:
        target = f"/api/v1/{path}?{urlencode(query)}"
        connection.request("GET", target, headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        return json.loads(answer.read())

    with closing(connection):
        lists = {
            # Of what it refuses to tell, it has nothing.
            name: sum(ask(name, key, limit=1)["meta"].get("total", 0) for key in keys.values())
            for name in head.lists
        }
        proof = ask("audit/verify", keys[DEFAULT_WORKSPACE]).get("data", {"entries": 0})
    return Verified(head=head, lists=lists, audit_entries=proof["entries"])
