"""Coding sessions are terminals that are made ready first, and tell when they wait for somebody."""

from contextlib import asynccontextmanager

import pytest
import trio

from cmdop_appliance.agent import commands, terminals
from cmdop_appliance.agent.coding.attention import Attention
from cmdop_appliance.agent.coding.settings import CodingPolicy, Flavour
from cmdop_appliance.agent.coding.spawn import CodingSessions
from cmdop_appliance.agent.keeper_client import Keeper, open_keeper
from cmdop_appliance.agent.policy import Policy, TerminalsPolicy
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.terminals import (
    Coding,
    Size,
    TerminalEnd,
    TerminalEnded,
    TerminalFailed,
    TerminalOpen,
    TerminalOpened,
    TerminalResize,
    TerminalWaiting,
    Worktree,
)
from tests.agent.coding.ground import Ground, Repository
from tests.agent.typed import told, type_in, watch
from tests.support.agents import clean_state_dir, eventually, running_agent

# It asks, and goes on when it was answered.
ASKING = "#!/bin/sh\nstty -echo\necho $0 $* in $PWD for $CMDOP_OPERATOR\nwhile read x; do :; done\n"


@pytest.fixture
def ground(tmp_path, monkeypatch):
    ground = Ground(tmp_path)
    monkeypatch.setenv("HOME", str(ground.home))
    with clean_state_dir(ground.state_dir):
        yield ground


@pytest.fixture
def repository(ground):
    return Repository(ground, ground.path / "repo")


@asynccontextmanager
async def connected(ground, hub, script=ASKING, waiting_ms=500, **policy):
    """An agent that knows one flavour, and the hub's end of its connection."""
    program = ground.program("asking", script)
    flavour = Flavour(programs=(str(program),), yolo=("--yolo",))
    coding = CodingPolicy(flavours={"asking": flavour}, waiting_ms=waiting_ms)
    async with running_agent(ground.state_dir, hub, policy=Policy(coding=coding, **policy)):
        yield await hub.accept()


async def spawn(peer, directory, **fields) -> str:
    """Ask for a session; its answer is not waited for."""
    session = new_id("session")
    what = Coding(directory=str(directory), flavour="asking", **fields)
    await peer.send(TerminalOpen(id=session, what=what, size=Size(), operator="eve@example.org"))
    return session


async def test_a_session_runs_its_flavour_where_it_was_asked_for(ground, hub):
    async with connected(ground, hub) as peer:
        session = await spawn(peer, ground.path / "new", model="opus", yolo=True)
        opened = await told(peer, TerminalOpened, session)
        assert (opened.directory, opened.worktree) == (f"{ground.path}/new", None)
        reader = await watch(peer, session)
        words = f"{ground.bin}/asking --model opus --yolo in {ground.path}/new for eve@example.org"
        await reader.read_until(words.encode())
        assert ground.notes() == []
        await type_in(peer, session, b"\4")
        assert (await told(peer, TerminalEnded, session)).exit_code == 0


async def test_a_worktree_that_was_made_is_told_and_outlives_its_session(ground, repository, hub):
    async with connected(ground, hub) as peer:
        session = await spawn(peer, repository.path, worktree="fix it")
        opened = await told(peer, TerminalOpened, session)
        path = f"{repository.path}-worktrees/fix-it"
        assert opened.directory == path
        assert opened.worktree == Worktree(
            repository=str(repository.path), path=path, branch="cmdop-fix-it", name="fix-it"
        )
        await peer.send(TerminalEnd(id=session))
        await told(peer, TerminalEnded, session)
    async with connected(ground, hub) as peer:
        await told(peer, TerminalEnded, session)
    assert path in repository.look()


async def test_a_session_that_does_not_start_leaves_no_worktree(ground, repository, hub):
    before = repository.look()
    async with connected(ground, hub, "#!/nowhere/interpreter\n") as peer:
        session = await spawn(peer, repository.path, worktree="fix")
        assert (await told(peer, TerminalFailed, session)).code == "exec_failed"
    assert repository.look() == before
    assert ground.notes() == []


async def test_a_refused_session_is_told_why(ground, hub):
    async with connected(ground, hub) as peer:
        (ground.bin / "asking").unlink()
        session = await spawn(peer, ground.path)
        failed = await told(peer, TerminalFailed, session)
    assert failed.code == "not_installed"
    assert "is not installed on" in failed.message


async def test_a_session_that_is_ended_while_it_is_made_ready_never_starts(ground, repository, hub):
    before = repository.look()
    repository.hook(f"touch {ground.path}/made; until [ -e {ground.path}/go ]; do sleep 0.01; done")
    async with connected(ground, hub) as peer:
        session = await spawn(peer, repository.path, worktree="fix")
        await eventually((ground.path / "made").exists, "git works for it")
        await peer.send(TerminalEnd(id=session))
        await peer.send(TerminalEnd(id=new_id("term")))
        await peer.expect(TerminalEnded)  # so that both were heard
        (ground.path / "go").touch()
        ended = await told(peer, TerminalEnded, session)
        assert (ended.end, ended.started_ms) == ("cancelled", None)
        await eventually(lambda: repository.look() == before, "it is as it was")


async def test_what_was_made_for_a_session_that_never_started_is_gone_after_a_crash(
    ground, repository, hub, monkeypatch
):
    before = repository.look()

    async def never(self, **fields):
        await trio.sleep_forever()

    with monkeypatch.context() as patched:
        patched.setattr(Keeper, "start", never)
        async with connected(ground, hub) as peer:
            session = await spawn(peer, repository.path, worktree="fix")
            await eventually(lambda: repository.look() != before, "the worktree is made")
            assert ground.notes()
    async with connected(ground, hub) as peer:
        await eventually(lambda: repository.look() == before, "it is as it was")
        another = await spawn(peer, repository.path, worktree="fix")
        assert (await told(peer, TerminalOpened, another)).worktree.name == "fix"
        assert not peer.heard_of(session)


async def test_a_crash_right_after_the_start_takes_nothing_from_a_session(
    ground, repository, hub, monkeypatch
):
    with monkeypatch.context() as patched:
        patched.setattr(CodingSessions, "started", lambda self, session_id: None)
        async with connected(ground, hub) as peer:
            session = await spawn(peer, repository.path, worktree="fix")
            await told(peer, TerminalOpened, session)
    assert ground.notes()
    async with connected(ground, hub) as peer:
        await eventually(lambda: ground.notes() == [], "it is settled")
        assert "repo-worktrees/fix" in repository.look()


async def test_a_keeper_that_is_met_again_changes_nothing(ground, hub, monkeypatch):
    monkeypatch.setattr(commands, "KEEPER_RETRY_S", 0.01)
    begun, settle, settled = [], CodingSessions.settle, []

    class Noted(Attention):
        def __init__(self, waiting_s: float) -> None:
            super().__init__(waiting_s)
            begun.append(self)

    async def noting(self: CodingSessions, known: frozenset[str]) -> None:
        settled.append(known)
        await settle(self, known)

    monkeypatch.setattr(terminals, "Attention", Noted)
    monkeypatch.setattr(CodingSessions, "settle", noting)
    async with connected(ground, hub) as peer:
        session = await spawn(peer, ground.path)
        await told(peer, TerminalOpened, session)
        peer.heard.clear()
        async with open_keeper(ground.state_dir):  # which has one agent at a time
            pass
        await told(peer, TerminalOpened, session)
    assert (len(begun), settled) == (1, [frozenset()])


async def test_a_session_is_not_ended_for_silence(ground, hub, monkeypatch):
    start, idle = Keeper.start, []

    async def noting(self, **fields):
        idle.append(fields["idle_ms"])
        await start(self, **fields)

    monkeypatch.setattr(Keeper, "start", noting)
    async with connected(ground, hub, terminals=TerminalsPolicy(idle_ms=1)) as peer:
        await told(peer, TerminalOpened, await spawn(peer, ground.path))
    assert idle == [None]


# ── waiting for somebody ─────────────────────────────────────────────────────────────────────


async def test_a_session_waits_when_it_is_silent_until_somebody_types(ground, hub, monkeypatch):
    redrawn = []
    monkeypatch.setattr(Attention, "resized", lambda self, now: redrawn.append(now))
    async with connected(ground, hub) as peer:
        session = await spawn(peer, ground.path)
        await waits(peer, session)
        await peer.send(TerminalResize(id=session, size=Size(100, 30)))
        await type_in(peer, session, b"y\r")
        assert (await peer.expect(TerminalWaiting, session)).on is False
        assert len(redrawn) == 1
        await waits(peer, session)
        await peer.cut()
        peer = await hub.accept()
        assert (await peer.expect(TerminalWaiting, session)).on is True  # told again


async def test_an_agent_that_starts_anew_takes_nothing_back_before_it_knows_better(ground, hub):
    async with connected(ground, hub) as peer:
        session = await spawn(peer, ground.path)
        await waits(peer, session)
    async with connected(ground, hub) as peer:
        assert (await peer.expect(TerminalWaiting, session)).on is True
        await type_in(peer, session, b"y\r")
        assert (await peer.expect(TerminalWaiting, session)).on is False
    async with connected(ground, hub, waiting_ms=3_600_000) as peer:
        await type_in(peer, session, b"y\r", 2)
        assert (await peer.expect(TerminalWaiting, session)).on is False  # what was told is over


async def waits(peer, session) -> None:
    """The next that is said of that is that it does."""
    assert (await peer.expect(TerminalWaiting, session)).on is True
