"""/backup: a whole file for whoever owns the hub, for nobody else; and output that is forgotten."""

import pytest

from cmdop_appliance import archives
from cmdop_appliance.backup_schedule import BackupSchedule
from cmdop_appliance.config import BackupConfig
from cmdop_appliance.store import commands, output
from tests.api.local_api import LocalApi
from tests.support import records
from tests.support.appliance import Api
from tests.support.live_hub import live_hub
from tests.support.records import connected, recorded


@pytest.fixture
async def local(tmp_path):
    async with live_hub(tmp_path) as live:
        yield await LocalApi.of(live.hub)


def test_a_backup_is_whole_and_is_in_the_audit_log(hub, tmp_path):
    answer = hub.api.call("GET", "/backup")
    assert answer.headers["content-type"] == "application/gzip"
    name = answer.headers["content-disposition"].partition('filename="')[2].rstrip('"')
    assert archives.made_ms(name) is not None
    (tmp_path / name).write_bytes(answer.body)
    (tmp_path / "unpacked").mkdir()
    head = archives.unpack(tmp_path / name, tmp_path / "unpacked")
    (entry,) = hub.api.get("/audit?action=backup.taken&limit=1")
    assert entry["seq"] <= head.tables["audit"]


@pytest.mark.parametrize("path", ["/backup", "/backups"])
def test_a_backup_has_all_workspaces_and_is_for_no_key_that_has_not(hub, path):
    other = hub.api.call("POST", "/workspaces", {"namespace": f"other-{path[1:]}"}).data
    tagged = hub.api.post("/api-keys", name="tagged", scopes=["admin"], tags=["prod"])
    for key in (other["api_key"]["key"], tagged["key"]):
        answer = Api(hub.api.url, key).call("GET", path)
        assert (answer.status, answer.error["code"]) == (403, "forbidden")


async def test_how_the_hubs_own_backups_go_is_told(local, tmp_path):
    nothing = dict.fromkeys(("directory", "next_at", "last_at", "last_bytes", "error"))
    assert await local.get("/backups") == nothing | {"kept": 0}
    hub = local.hub
    config = BackupConfig(directory=str(tmp_path / "backups"))
    await BackupSchedule(hub.backups, hub.store, hub.clock, config)._make(1_700_000_000_000)
    told = await local.get("/backups")
    assert told["last_at"] == "2023-11-14T22:13:20.000Z"
    assert (told["kept"], told["directory"]) == (1, str(tmp_path / "backups"))


async def test_of_forgotten_output_there_is_how_much_it_was_and_nothing_more(local):
    store = local.hub.store
    machine, session_id, _ = await connected(store)
    command = await recorded(store, machine.id, session_id)
    await store.run(output.save, command.id, "stdout", 4, b"line", max_bytes=1 << 20)
    await store.run(commands.finish, records.ended(command, stdout_bytes=4))
    path = f"/commands/{command.id}"
    assert (await local.get(path))["output_forgotten"] is False
    await store.run(output.forget, command.id)
    told = await local.get(path)
    assert told["output_forgotten"] is True
    assert (told["stdout"], told["stdout_bytes"], told["stdout_truncated"]) == ("", 4, True)
    assert told["stdout_sha256"] is not None
    gone = await local.call("GET", f"{path}/output?stream=stdout")
    assert (gone.status, gone.error["code"]) == (410, "output_forgotten")
