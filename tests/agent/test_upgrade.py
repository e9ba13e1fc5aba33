"""What an agent does when its hub asks it to be another release: first of all, it judges."""

import hashlib
from collections import namedtuple

import msgspec
import pytest
import trio

from cmdop_appliance import RELEASED_MS, __version__
from cmdop_appliance.agent import upgrade as module
from cmdop_appliance.agent.attempts import Attempt, keep, last_attempt
from cmdop_appliance.agent.fetching import NotFetched
from cmdop_appliance.agent.outbox import Outbox
from cmdop_appliance.agent.policy import UpgradePolicy
from cmdop_appliance.agent.upgrade import Upgrades
from cmdop_appliance.identity import Identity
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.messages import FEATURES
from cmdop_appliance.protocol.upgrades import Upgrade, Upgrading
from cmdop_appliance.release.bundle import File, Manifest
from cmdop_appliance.service.folders import Home, Version
from tests.support.agents import running_agent
from tests.support.installed import MAKER, NEW, OLD, PUBLIC, installed, program
from tests.support.releases import OWN

TRUSTING = UpgradePolicy(keys=(PUBLIC,))
STRANGER = Identity(b"x" * 32)


def asking(
    content: bytes = b"program",
    *,
    maker: Identity = MAKER,
    version: str = NEW,
    released_ms: int = RELEASED_MS + 1,
    name: str = OWN,
) -> Upgrade:
    """What a hub says for a release of one program."""
    file = File(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    manifest = msgspec.json.encode(
        Manifest(version=version, released_ms=released_ms, schema=1, files=(file,))
    )
    return Upgrade(id=new_id("upg"), manifest=manifest, signature=maker.sign(manifest))


class Machine:
    """An agent's part in upgrades, and what it tells."""

    def __init__(self, place, own: Version | None, policy: UpgradePolicy) -> None:
        self.state_dir = place / "state"
        self.state_dir.mkdir(exist_ok=True)
        self.outbox = Outbox()
        self.outbox.open(FEATURES)
        self.upgrades = Upgrades(
            self.state_dir, "http://127.0.0.1:9", policy, self.outbox, own, on_trial=None
        )

    async def answers(self, message: Upgrade) -> Upgrading:
        """What it says next, once it is asked."""
        await self.upgrades.hear(message)
        return await self.next()

    async def next(self) -> Upgrading:
        with trio.fail_after(20):
            said = await self.outbox.next()
        assert isinstance(said, Upgrading)
        return said


@pytest.fixture
def own(tmp_path):
    """The version that runs here, installed."""
    return installed(tmp_path / "home", program(tmp_path / "old", OLD))


@pytest.fixture
def fetched(monkeypatch):
    """What the hub has; None: it must not be asked."""
    what: dict[str, bytes | Exception] = {}

    def fetch(_url, _file, target):
        content = what["is"]
        if isinstance(content, Exception):
            raise content
        target.write_bytes(content)
        target.chmod(0o700)

    monkeypatch.setattr(module, "fetch", fetch)
    return what


async def begun(nursery, place, own, policy=TRUSTING) -> Machine:
    machine = Machine(place, own, policy)
    nursery.start_soon(machine.upgrades.run)
    return machine


@pytest.mark.parametrize(
    ("message", "progress", "code"),
    [
        (asking(maker=STRANGER), "refused", "bundle_refused"),
        (asking(version="0.0.1"), "refused", "not_newer"),
        (asking(version=__version__, released_ms=RELEASED_MS - 1), "refused", "not_newer"),
        (asking(version=__version__, released_ms=RELEASED_MS), "healthy", "already"),
        (asking(name="cmdop-linux-m68k"), "refused", "no_program"),
    ],
)
async def test_what_is_not_for_this_machine_is_refused_and_nothing_is_fetched(
    tmp_path, own, fetched, nursery, message, progress, code
):
    machine = await begun(nursery, tmp_path, own)
    said = await machine.answers(message)
    assert (said.id, said.progress, said.code) == (message.id, progress, code)
    assert said.message
    assert last_attempt(machine.state_dir) is None


@pytest.mark.parametrize(
    ("change", "policy", "code", "remedy"),
    [
        ("", UpgradePolicy(enabled=False, keys=(PUBLIC,)), "policy_denied", "upgrade.enabled"),
        ("", UpgradePolicy(), "bundle_refused", "upgrade.keys in agent.toml"),
        ("not installed", TRUSTING, "not_installed", "cmdop install agent"),
        ("not writable", TRUSTING, "not_writable", "cmdop install agent"),
        ("full", TRUSTING, "no_space", "free some"),
    ],
)
async def test_what_this_machine_cannot_do_is_refused_with_a_remedy_before_anything_is_fetched(
    tmp_path, own, fetched, nursery, monkeypatch, change, policy, code, remedy
):
    if change == "not installed":
        own = None
    if change == "not writable":
        monkeypatch.setattr(Home, "is_writable", lambda _self: False)
    if change == "full":
        usage = namedtuple("usage", "free")(0)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _place: usage)
    machine = await begun(nursery, tmp_path, own, policy)
    said = await machine.answers(asking())
    assert (said.progress, said.code) == ("refused", code)
    assert remedy in said.message


@pytest.mark.parametrize(
    ("content", "code", "why"),
    [
        (NotFetched("another program", is_final=True), "wrong_program", "another program"),
        (b"#!/bin/sh\nexit 9\n", "unusable_program", "exit code 9"),
        (OSError(28, "no space left"), "no_space", "no space left"),
    ],
)
async def test_a_program_that_is_no_good_changes_nothing(
    tmp_path, own, fetched, nursery, content, code, why
):
    fetched["is"] = content
    machine = await begun(nursery, tmp_path, own)
    assert (await machine.answers(asking())).progress == "downloading"
    said = await machine.next()
    assert (said.progress, said.code) == ("failed", code)
    assert why in said.message
    home = Home(tmp_path / "home")
    assert (home.current(), home.versions()) == (own, [own])
    assert list(machine.state_dir.iterdir()) == []


async def test_a_program_of_another_version_than_was_signed_is_not_tried(
    tmp_path, own, fetched, nursery
):
    fetched["is"] = program(tmp_path / "new", "3.0.0").read_bytes()
    machine = await begun(nursery, tmp_path, own)
    await machine.answers(asking())
    said = await machine.next()
    assert (said.progress, said.code) == ("failed", "wrong_program")
    assert "it is 3.0.0, not 99.0.0" in said.message
    assert last_attempt(machine.state_dir) is None


async def test_a_hub_that_is_busy_is_asked_again(tmp_path, own, monkeypatch):
    content = program(tmp_path / "new", NEW).read_bytes()
    tries = []

    def fetch(_url, _file, target):
        tries.append(target)
        if len(tries) == 1:
            raise NotFetched("429", is_final=False)
        target.write_bytes(content)
        target.chmod(0o700)

    monkeypatch.setattr(module, "fetch", fetch)
    monkeypatch.setattr(module, "_RETRY_LEAST_S", 0)
    monkeypatch.setattr(module, "_RETRY_MOST_S", 0)
    machine = Machine(tmp_path, own, TRUSTING)
    message = asking()
    await machine.upgrades.hear(message)
    with trio.fail_after(20):
        plan = await machine.upgrades.run()
    assert len(tries) == 2
    assert plan.version.number == NEW
    assert plan.home.current() == own  # not before it is healthy
    assert last_attempt(machine.state_dir) == plan.attempt
    assert (plan.attempt.id, plan.attempt.progress) == (message.id, "starting")
    assert not (machine.state_dir / "upgrade.part").exists()


async def test_what_was_tried_is_told_and_not_tried_again(tmp_path, own, fetched, nursery):
    message = asking()
    (tmp_path / "state").mkdir()
    keep(tmp_path / "state", Attempt(id=message.id, version="x").rolled_back("silent", "60 s"))
    machine = await begun(nursery, tmp_path, own)
    said = await machine.answers(message)
    assert (said.progress, said.code, said.message) == ("rolled_back", "silent", "60 s")


async def test_who_asks_while_it_goes_on_is_told_how_far_it_is(tmp_path, own, nursery, monkeypatch):
    let_go = trio.Event()

    async def fetching(*_args) -> None:
        await let_go.wait()

    monkeypatch.setattr(Upgrades, "_fetch", fetching)
    machine, message = await begun(nursery, tmp_path, own), asking()
    assert (await machine.answers(message)).progress == "downloading"
    assert (await machine.answers(message)).progress == "downloading"
    nursery.cancel_scope.cancel()


async def test_a_hub_hears_of_it_over_the_link(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        assert "upgrade" in peer.heard[-1].features
        message = asking()
        await peer.send(message)
        said = await peer.expect(Upgrading, message.id)
        assert (said.progress, said.code) == ("refused", "bundle_refused")
