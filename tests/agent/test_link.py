"""The agent's link: joining, proving, coming back for ever, and the few ways in which it ends."""

import os
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import trio

from cmdop_appliance.agent.enrolment import enrolment_of, link_url
from cmdop_appliance.agent.link import LinkLost, open_link
from cmdop_appliance.agent.main import EXIT_REMOVED, run
from cmdop_appliance.agent.pace import Pace, retry_delay
from cmdop_appliance.agent.state import Membership, locked_state
from cmdop_appliance.errors import StartupError
from cmdop_appliance.identity import Identity
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.handshake import EnrolmentToken
from cmdop_appliance.protocol.messages import (
    Bye,
    Dispatch,
    Heartbeat,
    Hello,
    Inventory,
    Prove,
    Ready,
    Sampled,
    Samples,
    Spec,
    Started,
    encode,
)
from tests.support.agents import QUICK, commands_of, running_agent
from tests.support.hub_peer import MACHINE_ID, PATIENCE_S, HubPeer

STRANGER = Identity(b"\2" * 32)
RUN = """
import sys
from pathlib import Path
from cmdop_appliance.agent.main import run
from cmdop_appliance.errors import StartupError
url, token, state, eof = sys.argv[1:]
try:
    sys.exit(run(Path(state), hub_url=url or None, token=token or None, name=None,
                 stop_on_eof=bool(eof)))
except StartupError as error:
    print(error.message, error.hint, file=sys.stderr)
    sys.exit(2)
"""


async def agent_process(state_dir, hub: HubPeer, *, token: str = "", eof: str = ""):
    """The real program in a process of its own."""
    argv = [sys.executable, "-c", RUN, hub.url, token, str(state_dir), eof]
    return await trio.lowlevel.open_process(
        argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


async def ended(process) -> tuple[int, str]:
    """Exit code and stderr."""
    with trio.fail_after(PATIENCE_S):
        said = b"".join([piece async for piece in process.stderr])
        code = await process.wait()
        await process.stdin.aclose()
        return code, said.decode()


# ── joining and proving ──────────────────────────────────────────────────────────────────────


async def test_a_machine_joins_with_its_token_and_comes_back_with_its_key_alone(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        assert peer.prove.token == hub.token
        assert peer.prove.facts.hostname == socket.gethostname()
        joined = peer.prove
        await peer.cut()
        peer = await hub.accept()
        assert peer.prove.token is None
    async with running_agent(state_dir, hub, join=False):
        peer = await hub.accept()
        assert peer.prove.token is None
        assert peer.prove.public_key == joined.public_key
        assert peer.prove.boot_id == joined.boot_id
        assert peer.prove.keeper_id == joined.keeper_id


async def test_a_join_whose_answer_was_lost_is_repeated_with_the_same_key(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.dialled()
        await peer.challenge()
        first = await peer.verify()
        await peer.cut()
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        assert peer.prove.public_key == first.public_key
        assert peer.prove.token == hub.token


@pytest.mark.parametrize("joined", [False, True])
async def test_a_hub_with_another_key_learns_nothing_and_is_tried_again(state_dir, hub, joined):
    async with running_agent(state_dir, hub):
        if joined:
            await (await hub.accept()).cut()
        peer = await hub.dialled()
        await peer.challenge(STRANGER)
        assert await peer.expect_end() == Close.PROTOCOL  # and no proof came before it
        assert peer.prove is None
        await hub.accept()


async def test_a_hub_that_shows_the_right_key_but_cannot_sign_with_it_learns_nothing(
    state_dir, hub
):
    class Pretender:
        public_key = hub.identity.public_key
        sign = STRANGER.sign

    async with running_agent(state_dir, hub):
        peer = await hub.dialled()
        await peer.challenge(Pretender())
        assert await peer.expect_end() == Close.PROTOCOL
        await hub.accept()


async def test_heartbeats_follow_ready_and_samples_until_they_are_confirmed(state_dir, hub):
    pace = replace(QUICK, heartbeat_s=0.05, first_sample_s=0.01, sample_s=0.01)
    async with running_agent(state_dir, hub, pace=pace):
        peer = await hub.accept()
        first = await peer.expect(Samples)
        assert first.samples[0].telemetry.memory_total > 0
        await peer.expect(Heartbeat)
        await peer.cut()
        peer = await hub.accept()
        again = await peer.expect(Samples)
        assert again.series == first.series
        assert again.samples[0].number == first.samples[0].number == 1
        assert again.samples[0].age_ms >= first.samples[0].age_ms
        last = again.samples[-1].number
        await peer.send(Sampled(number=last))
        assert (await peer.expect(Samples)).samples[0].number == last + 1


async def test_each_sample_is_a_sign_of_life(state_dir, hub):
    pace = replace(QUICK, heartbeat_s=60, first_sample_s=0.01, sample_s=0.01)
    async with running_agent(state_dir, hub, pace=pace):
        peer = await hub.accept()
        for _ in range(5):
            await peer.expect(Heartbeat)


async def test_a_hub_of_the_first_release_keeps_its_agent_and_gets_the_samples_once_it_is_newer(
    state_dir, hub
):
    pace = replace(QUICK, heartbeat_s=0.05, first_sample_s=0.01, sample_s=0.01)
    async with running_agent(state_dir, hub, pace=pace):
        old = await hub.dialled()
        old.features = []
        await old.shake_hands()
        for _ in range(5):
            await old.expect(Heartbeat)
        assert {type(item) for item in old.heard} <= {Hello, Prove, Inventory, Ready, Heartbeat}
        await old.cut()
        new = await hub.accept()
        filled_in = await new.expect(Samples)
        assert filled_in.samples[0].number == 1
        assert len(filled_in.samples) > 1


# ── coming back ──────────────────────────────────────────────────────────────────────────────


async def test_a_silent_hub_is_left_and_dialled_again(state_dir, hub):
    pace = replace(QUICK, silent_s=0.2)
    async with running_agent(state_dir, hub, pace=pace):
        await hub.accept()
        await hub.accept()


async def test_a_hub_that_reads_nothing_is_left_and_dialled_again(state_dir, hub):
    async with running_agent(state_dir, hub, pace=replace(QUICK, send_s=0.3)):
        peer = await hub.accept()
        for _ in range(40):  # a window each: 10 MB, more than the sockets hold
            await peer.dispatch("head", "-c", "300000", "/dev/zero")
        peer = await hub.accept()
        assert len(peer.inventory) == 40


async def test_a_hub_that_leaves_no_room_is_gone_though_each_frame_was_taken(hub):
    async def fill() -> None:
        async with open_link(hub.url, replace(QUICK, send_s=0.3)) as link:
            while True:
                await link.wait_room()
                await link.send(bytes(16 * 1024))

    with trio.fail_after(PATIENCE_S), pytest.raises(LinkLost, match=r"^the hub took nothing for"):
        await fill()


async def test_a_hub_that_stops_in_the_handshake_is_left_and_dialled_again(state_dir, hub):
    pace = replace(QUICK, handshake_s=0.2)
    async with running_agent(state_dir, hub, pace=pace):
        await hub.dialled()
        await hub.dialled()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_link_that_is_cut_before_it_is_one_is_lost_at_once(reset):
    async def cut(stream):
        await stream.receive_some()
        if reset:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, cut, 0, host="127.0.0.1"))
        host, port = listener.socket.getsockname()
        patient = replace(QUICK, handshake_s=3600)
        with trio.fail_after(PATIENCE_S), pytest.raises(LinkLost, match=r"^the connection was cut"):
            async with open_link(f"http://{host}:{port}", patient):
                pass
        nursery.cancel_scope.cancel()


async def test_garbage_of_any_kind_costs_the_hub_its_connection_and_nothing_else(state_dir, hub):
    early = Dispatch(
        id="cmd_01JZZZZZZZZZZZZZZZZZZZZZZZ", spec_hash=b"h" * 32, ttl_ms=None, spec=Spec(argv=[])
    )
    async with running_agent(state_dir, hub):
        for garbage in ("", "{", "null", '{"type":"dispatch"}', "\0", b"", b"\1" * 100):
            peer = await hub.accept()
            await peer.ws.send_message(garbage)
            assert await peer.expect_end() == Close.PROTOCOL
        peer = await hub.dialled()
        await peer.receive()
        await peer.ws.send_message(encode(early))  # what is fine later is not fine now
        assert await peer.expect_end() == Close.PROTOCOL
        peer = await hub.accept()
        command = await peer.dispatch("true")
        assert (await peer.finish(command)).exit_code == 0


@pytest.mark.parametrize("code", [*Close, 1000, 1011, 4999])
async def test_no_close_code_keeps_a_joined_machine_away(state_dir, hub, code):
    async with running_agent(state_dir, hub):
        await (await hub.accept()).close(code, "for a test")
        peer = await hub.dialled()
        await peer.challenge()
        await peer.verify()
        await peer.close(code)
        await hub.accept()


async def test_what_is_no_websocket_is_dialled_again(state_dir, hub):
    answers = [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n", b"\0\xff garbage", b""]
    tries = 0
    enough = trio.Event()

    async def answer(stream):
        nonlocal tries
        with trio.fail_after(PATIENCE_S):
            await stream.receive_some(4096)
            await stream.send_all(answers[tries % len(answers)])
        tries += 1
        if tries > len(answers):
            enough.set()
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, answer, 0)
        hub.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with running_agent(state_dir, hub, pace=replace(QUICK, handshake_s=1)):
            with trio.fail_after(PATIENCE_S):
                await enough.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("attempt", "dice", "delay"),
    [
        (0, 0.0, 0.0),
        (0, 0.5, 0.25),
        (1, 0.5, 0.5),
        (2, 1.0, 2.0),
        (5, 1.0, 16.0),
        (6, 1.0, 30.0),
        (6, 0.1, 3.0),
        (100_000, 1.0, 30.0),
    ],
)
def test_the_wait_before_the_next_attempt_doubles_up_to_a_bound(attempt, dice, delay):
    assert retry_delay(attempt, Pace(), dice) == pytest.approx(delay)


# ── the end ──────────────────────────────────────────────────────────────────────────────────


async def test_a_signed_revocation_ends_the_agent_and_a_new_token_joins_as_a_new_machine(
    state_dir, hub
):
    process = await agent_process(state_dir, hub, token=hub.token)
    peer = await hub.accept()
    old_key = peer.prove.public_key
    command = await peer.dispatch("sleep", "60")
    await peer.expect(Started, command)
    await peer.revoke()
    code, said = await ended(process)
    assert code == EXIT_REMOVED
    assert "removed" in said
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        assert peer.prove.token == hub.token
        assert peer.prove.public_key != old_key
        assert peer.inventory == {}  # the commands of the one hub are no business of the other


async def test_a_revocation_instead_of_a_welcome_ends_the_agent(state_dir, hub):
    async with running_agent(state_dir, hub):
        await (await hub.accept()).cut()
    process = await agent_process(state_dir, hub)
    peer = await hub.dialled()
    await peer.challenge()
    await peer.verify()
    await peer.revoke()
    assert (await ended(process))[0] == EXIT_REMOVED


async def test_a_revocation_that_is_forged_or_for_another_machine_ends_nothing(state_dir, hub):
    async with running_agent(state_dir, hub):
        peer = await hub.accept()
        await peer.revoke(STRANGER)
        assert await peer.expect_end() == Close.PROTOCOL
        peer = await hub.accept()
        await peer.revoke(machine_id=MACHINE_ID[:-1] + "0")
        assert await peer.expect_end() == Close.PROTOCOL
        await hub.accept()


@pytest.mark.parametrize("code", [Close.TOO_OFTEN, Close.STOPPING, Close.LOCKED_OUT])
async def test_an_agent_that_is_to_come_back_later_comes_back(state_dir, hub, code):
    async with running_agent(state_dir, hub):
        peer = await hub.dialled()
        await peer.challenge()
        await peer.verify()
        await peer.close(code)
        await hub.accept()


async def test_a_refused_token_ends_the_program_and_says_what_to_do(state_dir, hub):
    process = await agent_process(state_dir, hub, token=hub.token)
    peer = await hub.dialled()
    await peer.challenge()
    await peer.verify()
    await peer.close(Close.REFUSED)
    code, said = await ended(process)
    assert code == 2
    assert "cmdop machines add" in said
    assert "Traceback" not in said
    assert hub.token not in said


async def test_sigterm_says_bye_and_ends_the_agent_within_5_s_while_its_commands_run_on(
    state_dir, hub
):
    process = await agent_process(state_dir, hub, token=hub.token)
    peer = await hub.accept()
    command = await peer.dispatch("sleep", "60")
    await peer.expect(Started, command)
    process.send_signal(signal.SIGTERM)
    await peer.expect(Bye)
    with trio.fail_after(5):
        code, said = await ended(process)
    assert code == 0
    assert "sleep" not in said
    assert hub.token not in said
    assert len(commands_of(state_dir)) == 1


async def test_sigterm_ends_the_agent_within_5_s_though_the_hub_is_stuck(state_dir, hub):
    process = await agent_process(state_dir, hub, token=hub.token)
    await hub.accept()  # which never reads again, and never answers a close frame
    process.send_signal(signal.SIGTERM)
    with trio.fail_after(5):
        code, _ = await ended(process)
    assert code == 0


async def test_sigterm_ends_an_agent_whose_keeper_cannot_start(state_dir, hub):
    state_dir.mkdir()
    (state_dir / "keeper").touch()  # where its folder should be
    process = await agent_process(state_dir, hub, token=hub.token)
    said = b""
    with trio.fail_after(PATIENCE_S):
        while b"no keeper" not in said:
            said += await process.stderr.receive_some()
    process.send_signal(signal.SIGTERM)
    with trio.fail_after(5):
        assert (await ended(process))[0] == 0


async def test_the_end_of_stdin_ends_an_agent_that_was_told_so(state_dir, hub):
    process = await agent_process(state_dir, hub, token=hub.token, eof="yes")
    await hub.accept()
    await process.stdin.aclose()
    with trio.fail_after(5):
        assert (await ended(process))[0] == 0


# ── starting ─────────────────────────────────────────────────────────────────────────────────


def test_a_machine_that_has_not_joined_needs_a_hub_and_a_token(tmp_path):
    for given in ({}, {"hub_url": "http://127.0.0.1:1"}, {"token": "cmdop_enroll_x"}):
        arguments = {"hub_url": None, "token": None, "name": None, "stop_on_eof": False} | given
        with pytest.raises(StartupError):
            run(tmp_path / "agent", **arguments)


def test_a_second_agent_on_one_directory_is_told_who_the_first_is(tmp_path):
    with (
        locked_state(tmp_path / "agent"),
        pytest.raises(StartupError, match=str(os.getpid())),
        locked_state(tmp_path / "agent"),
    ):
        pass


def test_a_token_of_another_hub_is_refused_and_one_of_the_same_is_not_used(tmp_path):
    ours, other = Identity.generate().public_key, Identity.generate().public_key
    with locked_state(tmp_path / "agent") as state:
        state.make_identity()
        state.join(Membership("http://127.0.0.1:1", ours, MACHINE_ID))
        with pytest.raises(StartupError, match="belongs to the hub"):
            enrolment_of(state, None, str(EnrolmentToken(b"s" * 24, other)), None)
        enrolment = enrolment_of(state, "http://[::1]:2", str(EnrolmentToken(b"s" * 24, ours)), "n")
        assert (enrolment.token, enrolment.url) == (None, "http://[::1]:2")


def test_the_state_is_private_whatever_the_umask_and_read_again(tmp_path):
    before = os.umask(0)
    try:
        with locked_state(tmp_path / "agent") as state:
            identity = state.make_identity()
            state.join(Membership("http://127.0.0.1:1", b"k" * 32, MACHINE_ID))
    finally:
        os.umask(before)
    assert (tmp_path / "agent").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "agent").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    with locked_state(tmp_path / "agent") as state:
        assert state.identity.public_key == identity.public_key
        assert state.membership == Membership("http://127.0.0.1:1", b"k" * 32, MACHINE_ID)
        state.leave()
    with locked_state(tmp_path / "agent") as state:
        assert (state.identity, state.membership) == (None, None)


@pytest.mark.parametrize("name", ["machine.key", "hub.json"])
@pytest.mark.parametrize("content", ["", "x", "{}", "[]", "null", "\0", "ff"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    with locked_state(tmp_path / "agent") as state:
        state.make_identity()
    (tmp_path / "agent" / name).write_text(content)
    with pytest.raises(StartupError, match=name), locked_state(tmp_path / "agent"):
        pass


@pytest.mark.parametrize("name", ["", "x" * 256, "e\nvil\x1b[2J"])
def test_a_name_that_a_hub_refuses_is_refused_at_the_start(tmp_path, name):
    token = str(EnrolmentToken(b"s" * 24, b"h" * 32))
    with locked_state(tmp_path / "agent") as state, pytest.raises(StartupError, match="the name"):
        enrolment_of(state, "http://127.0.0.1:1", token, name)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://127.0.0.1:3006", "ws://127.0.0.1:3006/agent"),
        ("https://hub.example/", "wss://hub.example/agent"),
        ("https://hub.example/cmdop/", "wss://hub.example/cmdop/agent"),
        ("http://[::1]:80", "ws://[::1]:80/agent"),
    ],
)
def test_the_link_is_at_agent_below_the_address_of_the_hub(given, address):
    assert link_url(given) == address


@pytest.mark.parametrize(
    "given", ["", "hub:3006", "ftp://hub", "http://", "http://h:x", "http://["]
)
def test_what_is_no_address_is_refused_with_an_example(given):
    with pytest.raises(StartupError) as caught:
        link_url(given)
    assert "http://HOST:PORT" in caught.value.hint


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="file/agent"), locked_state(tmp_path / "file" / "agent"):
        pass
