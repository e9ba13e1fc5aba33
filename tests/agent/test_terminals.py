"""A real agent and a real keeper: terminals open once, are typed into, and end as they do."""

import signal
from pathlib import Path

from cmdop_appliance.agent.journal import Journal
from cmdop_appliance.agent.keeper_client import (
    Keeper,
)
from cmdop_appliance.agent.policy import Policy, TerminalsPolicy
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.terminals import (
    KnownTerminal,
    Size,
    TerminalEnd,
    TerminalEnded,
    TerminalForget,
    TerminalOpened,
    TerminalResize,
    TerminalTaken,
)
from cmdop_appliance.protocol.terminals import Terminals as Inventory
from tests.agent.dispatched import sh
from tests.agent.typed import WRITER, ask_for, open_terminal, screens, told, type_in, watch
from tests.support.agents import eventually, running_agent

# ── open, type, resize ───────────────────────────────────────────────────────────────────────


async def test_what_is_typed_reaches_the_program_and_what_it_writes_is_seen(peer):
    terminal = await open_terminal(peer, *sh("read x; echo got $x; read y; exit 7"))
    reader = await watch(peer, terminal)
    await type_in(peer, terminal, b"one\r")
    taken = TerminalTaken(id=terminal, writer=WRITER, offset=4)
    assert await told(peer, TerminalTaken, terminal) == taken
    await reader.read_until(b"got one\r\n")
    await type_in(peer, terminal, b"\r", 4)
    ended = await told(peer, TerminalEnded, terminal)
    assert (ended.end, ended.exit_code, ended.reason) == ("exited", 7, None)


async def test_what_is_typed_twice_arrives_once_and_what_is_behind_a_gap_not_at_all(peer):
    terminal = await open_terminal(peer, *sh("stty -echo; echo ready; cat"))
    reader = await watch(peer, terminal)
    await reader.read_until(b"ready")
    for data, offset in ((b"one\r", 0), (b"one\r", 0), (b"three\r", 9), (b"two\r", 4)):
        await type_in(peer, terminal, data, offset)
    await reader.read_until(b"two")
    assert reader.data == b"ready\r\none\r\ntwo\r\n"


async def test_a_program_gets_its_environment_directory_operator_and_size(peer, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    terminal = await ask_for(
        peer,
        *sh('echo "$COLOUR $CMDOP_OPERATOR $(pwd -P) $(stty size)"'),
        cwd=f"{tmp_path}/link",
        env={"COLOUR": "green"},
        size=Size(100, 30),
        operator="eve@example.org",
    )
    opened = await told(peer, TerminalOpened, terminal)
    assert opened.directory == f"{tmp_path}/real"
    reader = await watch(peer, terminal)
    assert reader.watched.size == Size(100, 30)
    expected = f"green eve@example.org {tmp_path}/real 30 100\r\n"
    assert await reader.read_all() == expected.encode()


async def test_a_resize_is_seen_by_the_program_and_by_whoever_looks_next(peer):
    terminal = await open_terminal(peer, *sh("trap 'stty size' WINCH; echo ready; cat"))
    reader = await watch(peer, terminal)
    await reader.read_until(b"ready")
    await peer.send(TerminalResize(id=terminal, size=Size(90, 20)))
    await type_in(peer, terminal, b"\4")
    await reader.read_until(b"20 90")
    assert (await watch(peer, terminal, 2)).watched.size == Size(90, 20)


# ── an id opens at most once ─────────────────────────────────────────────────────────────────


async def test_a_terminal_that_is_asked_for_again_is_told_again_and_opened_once(
    state_dir, hub, tmp_path
):
    script = sh(f"echo x >> {tmp_path}/opened; cat")
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        terminal = await ask_for(peer, *script, cwd=f"{tmp_path}")
        first = await told(peer, TerminalOpened, terminal)
        await ask_for(peer, *script, again=terminal)
        assert await peer.expect(TerminalOpened, terminal) == first
        await peer.cut()
        peer = await hub.accept()
        await ask_for(peer, *script, again=terminal)
        assert await peer.expect(TerminalOpened, terminal) == first
        reader = await watch(peer, terminal)
        await type_in(peer, terminal, b"\4")
        await reader.read_all()
        await told(peer, TerminalEnded, terminal)
        await ask_for(peer, *script, again=terminal)
        await peer.expect(TerminalEnded, terminal)
        await peer.send(TerminalForget(ids=[terminal, terminal]))
        await ask_for(peer, *script, again=terminal)
        forgotten = await peer.expect(TerminalEnded, terminal)
    assert (forgotten.end, forgotten.reason) == ("lost", "forgotten")
    assert (tmp_path / "opened").read_text() == "x\n"


async def test_what_is_forgotten_is_known_to_no_later_agent_and_takes_no_room(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        terminal = await open_terminal(peer, *sh("seq 10000"))
        await told(peer, TerminalEnded, terminal)
        await peer.send(TerminalForget(ids=[terminal]))
        await eventually(lambda: not screens(state_dir), "its output removed")
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        assert await peer.expect(Inventory) == Inventory(terminals=[], is_last=True)
        await peer.send(TerminalEnd(id=terminal))
        assert (await peer.expect(TerminalEnded, terminal)).reason == "forgotten"


async def test_what_the_keeper_missed_of_a_forgetting_it_is_told_later(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        ended, running = [
            await open_terminal(peer, *sh(script)) for script in ("echo", "echo; cat")
        ]
        await told(peer, TerminalEnded, ended)
        await eventually(lambda: len(screens(state_dir)) == 2, "both have written")
    journal = Journal(state_dir / "journal.log")
    journal.forget(ended)
    journal.forget(running)
    journal.close()
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        assert await peer.expect(Inventory) == Inventory(terminals=[], is_last=True)
        await eventually(lambda: not screens(state_dir), "both are gone")


# ── ends ─────────────────────────────────────────────────────────────────────────────────────


async def test_an_end_on_request_takes_all_that_runs_in_the_terminal(peer, tmp_path):
    terminal = await open_terminal(peer, *sh(f"sleep 1000 & echo $! > {tmp_path}/pid; cat"))
    await eventually(lambda: (tmp_path / "pid").exists() and pid_in(tmp_path / "pid"), "it runs")
    await peer.send(TerminalEnd(id=terminal))
    assert (await told(peer, TerminalEnded, terminal)).end == "cancelled"
    assert not Path(f"/proc/{pid_in(tmp_path / 'pid')}").exists()


async def test_an_end_is_told_on_each_connection_until_it_is_forgotten(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        terminal = await open_terminal(peer, *sh("kill -TERM $$"))
        ended = await told(peer, TerminalEnded, terminal)
        assert (ended.exit_code, ended.signal) == (128 + signal.SIGTERM, "SIGTERM")
        await peer.cut()
        peer = await hub.accept()
        known = [KnownTerminal(id=terminal, phase="ended")]
        assert await peer.expect(Inventory) == Inventory(terminals=known, is_last=True)
        assert await peer.expect(TerminalEnded, terminal) == ended
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        assert await peer.expect(TerminalEnded, terminal) == ended
        await peer.send(TerminalForget(ids=[terminal]))
        await peer.send(TerminalEnd(id=terminal))
        assert (await peer.expect(TerminalEnded, terminal)).reason == "forgotten"
        await peer.cut()
        peer = await hub.accept()
        assert await peer.expect(Inventory) == Inventory(terminals=[], is_last=True)


async def test_a_terminal_that_ends_before_it_was_ever_opened_never_is(peer, tmp_path):
    terminal = new_id("term")
    await peer.send(TerminalEnd(id=terminal))
    assert (await peer.expect(TerminalEnded, terminal)).end == "cancelled"
    await ask_for(peer, "touch", f"{tmp_path}/opened", again=terminal)
    assert (await peer.expect(TerminalEnded, terminal)).end == "lost"
    assert not (tmp_path / "opened").exists()


async def test_a_terminal_that_runs_is_not_forgotten(peer):
    terminal = await open_terminal(peer, "cat")
    await peer.send(TerminalForget(ids=[terminal, new_id("term")]))
    await ask_for(peer, "cat", again=terminal)
    await peer.expect(TerminalOpened, terminal)


async def test_a_terminal_of_which_nobody_thinks_any_more_ends(state_dir, hub):
    policy = Policy(terminals=TerminalsPolicy(idle_ms=1))
    async with running_agent(state_dir, hub, policy=policy):
        peer = await hub.accept()
        terminal = await open_terminal(peer, "cat")
        assert (await told(peer, TerminalEnded, terminal)).end == "idle"


async def test_whoever_comes_to_look_is_told_to_the_keeper(peer, monkeypatch):
    touched = []

    async def touch(self: Keeper, terminal_id: str) -> None:
        touched.append(terminal_id)

    monkeypatch.setattr(Keeper, "touch", touch)
    terminal = await open_terminal(peer, "cat")
    await watch(peer, terminal)
    await peer.send(TerminalEnd(id=terminal))
    await told(peer, TerminalEnded, terminal)
    assert touched == [terminal]


async def test_a_removed_machine_ends_all_its_terminals(state_dir, hub, tmp_path):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        terminal = await open_terminal(peer, *sh(f"echo $$ > {tmp_path}/pid; cat"))
        await eventually(lambda: (tmp_path / "pid").exists() and pid_in(tmp_path / "pid"), "it")
        await peer.revoke()
        await peer.expect_end()
        program = Path(f"/proc/{pid_in(tmp_path / 'pid')}")
        await eventually(lambda: not program.exists(), "the program has ended")
    journal = Journal(state_dir / "journal.log")
    assert terminal in journal.tombstones  # no other hub hears of it
    journal.close()


def pid_in(path: Path) -> str:
    return path.read_text().strip()
