"""What is kept no longer goes, with its files; a crash in between leaves none behind."""

from cmdop_appliance.config import RetentionConfig
from cmdop_appliance.hub.output import Outputs
from cmdop_appliance.hub.retention import Retention
from cmdop_appliance.ids import made_ms
from cmdop_appliance.store import commands
from cmdop_appliance.store import output as rows
from tests.hub.outputs import MAX_BYTES, TRUTH, end, everything, files
from tests.support import records
from tests.support.records import NOW, REACH

DAY_MS = 86_400_000


async def finish(store, outputs, command_id: str) -> None:
    outputs.live(command_id)["stdout"].append(0, TRUTH)
    outputs.live(command_id)["stderr"].append(0, b"small")
    await end(store, outputs, command_id)
    command = await store.run(commands.get, REACH, command_id)
    await store.run(commands.finish, records.ended(command, finished_ms=NOW))


async def test_output_goes_first_and_its_command_later(command, tmp_path):
    store, command_id, outputs = command
    await finish(store, outputs, command_id)
    config = RetentionConfig(output_ms=DAY_MS, commands_ms=2 * DAY_MS)
    retention = Retention(store, outputs, config)
    await retention.sweep(NOW + DAY_MS)
    assert await everything(outputs, command_id, "stderr") == b"small"
    await retention.sweep(NOW + DAY_MS + 1)
    assert files(tmp_path) == []
    held = await outputs.held(command_id)
    assert {name: (each.size, each.is_forgotten) for name, each in held.items()} == {
        "stdout": (len(TRUTH), True),
        "stderr": (5, True),
    }
    assert await everything(outputs, command_id) == b""
    await retention.sweep(NOW + 2 * DAY_MS + 1)
    assert not await store.run(commands.exists, command_id)


async def test_for_ever_is_for_ever(command, tmp_path):
    store, command_id, outputs = command
    await finish(store, outputs, command_id)
    config = RetentionConfig(output_ms=0, commands_ms=0, telemetry_ms=0)
    await Retention(store, outputs, config).sweep(NOW + 10**12)
    assert await everything(outputs, command_id) == TRUTH
    assert await everything(outputs, command_id, "stderr") == b"small"


async def test_small_output_that_is_at_hand_is_forgotten_too(command):
    store, command_id, outputs = command
    outputs.live(command_id)["stdout"].append(0, b"small")
    await end(store, outputs, command_id)
    ended = await store.run(commands.get, REACH, command_id)
    await store.run(commands.finish, records.ended(ended, finished_ms=NOW))
    far_ms = made_ms(command_id) + 2 * DAY_MS
    await Retention(store, outputs, RetentionConfig(output_ms=DAY_MS)).sweep(far_ms)
    assert await everything(outputs, command_id) == b""


async def test_files_that_a_crash_left_over_are_deleted_later(command, tmp_path):
    store, command_id, outputs = command
    await finish(store, outputs, command_id)
    await store.run(rows.forget, command_id)  # and here it crashes
    assert len(files(tmp_path)) == 1
    await Outputs(store, tmp_path / "output", MAX_BYTES).delete_leftovers()
    assert files(tmp_path) == []
    assert await store.run(rows.leftovers, 1) == []
