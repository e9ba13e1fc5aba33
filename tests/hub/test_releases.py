"""Releases that a hub is given: what it takes, what it refuses, and what it keeps of either."""

import errno
import random
from collections.abc import AsyncGenerator

import pytest

from cmdop_appliance import RELEASED_MS, __version__
from cmdop_appliance.errors import (
    ApplianceError,
    BundleRefused,
    Conflict,
    InvalidRequest,
    MachineNotFound,
    NotInstalled,
    StorageFull,
    UpgradeRunning,
)
from cmdop_appliance.hub import releases
from cmdop_appliance.hub.releases import Releases
from cmdop_appliance.identity import Identity
from cmdop_appliance.service.folders import Home
from cmdop_appliance.store import audit, upgrades
from cmdop_appliance.store.engine import open_store
from cmdop_appliance.store.listing import Paging
from tests.support.clocks import LoopClock
from tests.support.live_hub import CALLER
from tests.support.records import WORKSPACE
from tests.support.releases import OWN, make_bundle

MAKER = Identity.generate()
DICE = random.Random(9)
PROGRAMS = {OWN: DICE.randbytes(3000), "cmdop-other-cpu": DICE.randbytes(700)}
RUNNING = {"version": __version__, "released_ms": RELEASED_MS}


@pytest.fixture
def newer(tmp_path) -> bytes:
    return make_bundle(tmp_path / "made", MAKER, PROGRAMS)


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path) as store:
        yield store


@pytest.fixture
def home(tmp_path) -> Home:
    (tmp_path / "home/versions").mkdir(parents=True)
    return Home(tmp_path / "home")


@pytest.fixture
def taking(store, tmp_path, home) -> Releases:
    return Releases(store, LoopClock(), tmp_path, [MAKER.public_key], lambda: home)


async def pieces(bundle: bytes, size: int = 999) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(bundle), size):
        yield bundle[start : start + size]


async def nothing_is_left(store, folder) -> bool:
    kept = [path for place in ("upgrades", "dl") for path in (folder / place).glob("*")]
    return not kept and await store.run(upgrades.open_one) is None


async def refusal(taking: Releases, bundle: bytes, machine_ids=None) -> ApplianceError:
    with pytest.raises(ApplianceError) as looked:
        await taking.check(pieces(bundle), machine_ids)
    with pytest.raises(ApplianceError) as refused:
        await taking.take(CALLER, pieces(bundle), machine_ids)
    assert (refused.value.code, refused.value.message) == (looked.value.code, looked.value.message)
    assert await nothing_is_left(taking._store, taking._folder.parent)
    return refused.value


async def test_a_later_release_is_kept_for_the_hub_and_not_for_machines_yet(
    taking, store, newer, tmp_path
):
    upgrade = await taking.take(CALLER, pieces(newer), None)
    assert (upgrade.status, upgrade.version, upgrade.operator) == ("hub", "99.0.0", CALLER.email)
    assert await store.run(upgrades.get, upgrade.id) == upgrade
    assert taking.has_come.is_set()
    assert taking.program(upgrade).read_bytes() == PROGRAMS[OWN]
    assert not (tmp_path / "dl").exists()
    (entry, *_) = (await store.run(audit.page, WORKSPACE, Paging())).items
    assert (entry.action, entry.target, entry.actor) == (
        "upgrade.accepted",
        upgrade.id,
        CALLER.email,
    )


async def test_a_release_that_is_only_looked_at_leaves_nothing(taking, store, newer, tmp_path):
    assert (await taking.check(pieces(newer), None)).version == "99.0.0"
    assert await nothing_is_left(store, tmp_path)


async def test_the_release_that_the_hub_runs_is_for_machines(taking, store, tmp_path):
    same = make_bundle(tmp_path / "made", MAKER, PROGRAMS, **RUNNING)
    upgrade = await taking.take(CALLER, pieces(same), None)
    assert (upgrade.status, upgrade.hub_ms) == ("machines", upgrade.created_ms)
    assert not taking.has_come.is_set()
    assert {path.name: path.read_bytes() for path in (tmp_path / "dl").iterdir()} == PROGRAMS
    assert not list((tmp_path / "upgrades").iterdir())


async def test_once_the_hub_runs_a_release_machines_can_fetch_it(taking, store, newer, tmp_path):
    upgrade = await taking.take(CALLER, pieces(newer), None)
    await taking.serve(upgrade)  # and is killed before it can say so
    await taking.succeeded(upgrade)
    assert {path.name: path.read_bytes() for path in (tmp_path / "dl").iterdir()} == PROGRAMS
    assert (await store.run(upgrades.get, upgrade.id)).status == "machines"


async def test_of_a_release_that_came_to_nothing_nothing_is_kept(taking, store, newer, tmp_path):
    upgrade = await taking.take(CALLER, pieces(newer), None)
    await taking.failed(upgrade, "it does not run")
    assert await nothing_is_left(store, tmp_path)
    ended = await store.run(upgrades.get, upgrade.id)
    assert (ended.status, ended.reason) == ("failed", "it does not run")


async def test_an_older_release_is_refused_whoever_signed_it(taking, tmp_path):
    for older in (
        {"version": "0.0.1"},
        {"version": f"{__version__}rc1"},
        {"version": __version__, "released_ms": RELEASED_MS - 1},
    ):
        bundle = make_bundle(tmp_path / "made", MAKER, PROGRAMS, **older)
        refused = await refusal(taking, bundle)
        assert isinstance(refused, BundleRefused)
        assert f"the hub runs {__version__}, which came later" in refused.message


async def test_a_bundle_of_somebody_else_is_refused(taking, tmp_path):
    refused = await refusal(taking, make_bundle(tmp_path / "made", Identity.generate(), PROGRAMS))
    assert "no key that is trusted here" in refused.message
    assert "[upgrade] keys" in refused.hint


async def test_a_release_for_other_machines_than_the_hubs_is_refused(taking, tmp_path):
    others = {"cmdop-other-cpu": b"x"}
    refused = await refusal(taking, make_bundle(tmp_path / "made", MAKER, others))
    assert "has no program for" in refused.message
    same = make_bundle(tmp_path / "made", MAKER, others, **RUNNING)
    assert (await taking.take(CALLER, pieces(same), None)).status == "machines"


async def test_a_hub_that_cannot_replace_itself_says_so_before_it_takes_anything(
    taking, newer, home, monkeypatch
):
    monkeypatch.setattr(Home, "is_writable", lambda _: False)
    assert "not its to write" in (await refusal(taking, newer)).message
    taking._find_home = lambda: None
    refused = await refusal(taking, newer)
    assert isinstance(refused, NotInstalled)
    assert "cmdop install hub" in refused.hint


async def test_there_is_nothing_to_do_for_a_hub_alone_that_runs_it_already(taking, tmp_path):
    same = make_bundle(tmp_path / "made", MAKER, PROGRAMS, **RUNNING)
    assert isinstance(await refusal(taking, same, []), Conflict)


async def test_a_machine_that_is_not_there_gets_nothing(taking, store, newer, tmp_path):
    with pytest.raises(MachineNotFound):
        await taking.take(CALLER, pieces(newer), ["mach_x"])
    assert await nothing_is_left(store, tmp_path)


async def test_there_is_one_upgrade_at_a_time(taking, store, newer, tmp_path):
    same = make_bundle(tmp_path / "made", MAKER, PROGRAMS, **RUNNING)
    first = await taking.take(CALLER, pieces(same), None)
    second = await taking.take(CALLER, pieces(newer), None)
    assert (await store.run(upgrades.get, first.id)).status == "superseded"
    with pytest.raises(UpgradeRunning) as refused:
        await taking.take(CALLER, pieces(newer), None)
    assert refused.value.details == {"upgrade_id": second.id}
    assert [path.name for path in (tmp_path / "upgrades").iterdir()] == [second.id]


# ── what arrives otherwise than it was sent ──────────────────────────────────────────────────────


async def test_a_flipped_byte_anywhere_leaves_nothing(taking, newer):
    for place in range(0, len(newer), 97):
        flipped = bytearray(newer)
        flipped[place] ^= 1
        await refusal(taking, bytes(flipped))


async def test_too_little_or_too_much_leaves_nothing(taking, newer):
    for size in (0, 1, 511, 512, 5000, len(newer) - 1):
        await refusal(taking, newer[:size])
    for more in (b"\0", bytes(512), newer):
        await refusal(taking, newer + more)


async def test_a_client_that_goes_in_the_middle_leaves_nothing(taking, store, newer, tmp_path):
    async def broken() -> AsyncGenerator[bytes, None]:
        yield newer[:3000]
        assert [path.name[:5] for path in (tmp_path / "upgrades").iterdir()] == [".new-"]
        raise InvalidRequest("the client went away before the end of the body")

    with pytest.raises(InvalidRequest):
        await taking.take(CALLER, broken(), None)
    assert await nothing_is_left(store, tmp_path)


async def test_on_a_full_disk_nothing_is_left(taking, store, newer, tmp_path, monkeypatch):
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(releases.os, "fsync", full)
    with pytest.raises(StorageFull) as refused:
        await taking.take(CALLER, pieces(newer), None)
    monkeypatch.undo()
    assert "free some space" in refused.value.hint
    assert await nothing_is_left(store, tmp_path)


async def test_what_a_crash_has_left_goes_at_the_next_start(taking, newer, tmp_path):
    upgrade = await taking.take(CALLER, pieces(newer), None)
    for name in (".new-upg_1", "upg_2"):
        (tmp_path / "upgrades" / name).mkdir()
    await taking.sweep()
    assert [path.name for path in (tmp_path / "upgrades").iterdir()] == [upgrade.id]
