"""The state table: what it allows both sides do, and what it does not both sides refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.errors import LocalProtocolError, RemoteProtocolError
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol import messages
from cmdop_appliance.protocol.conversation import TRANSITIONS, Conversation, State
from cmdop_appliance.protocol.files import Delete, Done
from cmdop_appliance.protocol.frames import Data, Output, Screen, encode
from cmdop_appliance.protocol.messages import (
    Accepted,
    Acknowledge,
    Background,
    Bye,
    Cancel,
    Challenge,
    Dispatch,
    Facts,
    FileAnswer,
    FileCall,
    FileCredit,
    FileEnd,
    FileFailed,
    FileStop,
    Finished,
    Heartbeat,
    Heartbeatack,
    Hello,
    Inventory,
    Notice,
    Prove,
    Ready,
    Rejected,
    Resume,
    Revoked,
    Sample,
    Sampled,
    Samples,
    Spec,
    Started,
    Stored,
    Stream,
    Welcome,
)
from cmdop_appliance.protocol.terminals import (
    Shell,
    Size,
    TerminalCredit,
    TerminalDone,
    TerminalEnd,
    TerminalEnded,
    TerminalFailed,
    TerminalForget,
    TerminalGap,
    TerminalInput,
    TerminalOpen,
    TerminalOpened,
    TerminalResize,
    Terminals,
    TerminalTaken,
    TerminalUnwatch,
    TerminalWaiting,
    TerminalWatch,
    TerminalWatched,
)
from cmdop_appliance.protocol.upgrades import Upgrade, Upgrading
from cmdop_appliance.protocol.words import Message
from tests.support.records import TELEMETRY

ID, KEY, SIGNATURE = new_id("cmd"), b"k" * 32, b"s" * 64
TERMINAL, SESSION, WRITER = new_id("term"), new_id("session"), "0f" * 16
UPGRADE = new_id("upg")
NOTHING = Stream(0, KEY)
FACTS = Facts(
    **dict.fromkeys(("hostname", "os", "arch", "kernel", "user", "home", "agent_version"), "x"),
    platform="linux",
    cpu_cores=1,
    memory_bytes=1,
)
SAID = {
    "agent": {
        "hello": Hello(version=1, nonce=KEY),
        "prove": Prove(
            public_key=KEY, signature=SIGNATURE, boot_id="b", keeper_id="k", facts=FACTS
        ),
        "inventory": Inventory(commands=[]),
        "ready": Ready(),
        "heartbeat": Heartbeat(),
        "samples": Samples(
            series=b"s" * 16, samples=[Sample(number=1, age_ms=0, telemetry=TELEMETRY)]
        ),
        "background": Background(on=True),
        "accepted": Accepted(id=ID),
        "started": Started(id=ID, started_ms=1),
        "output": Output(ID, "stdout", 0, b"x"),
        "finished": Finished(id=ID, end="exited", stdout=NOTHING, stderr=NOTHING, exit_code=0),
        "rejected": Rejected(id=ID, reason="spec_mismatch"),
        "notice": Notice(event="grant.opened", message="for 30 s"),
        "fileanswer": FileAnswer(id=1, answer=Done()),
        "filefailed": FileFailed(id=1, code="no_space", message="full"),
        "filecredit": FileCredit(id=1, offset=2),
        "fileend": FileEnd(id=1, end=2, sha256=KEY),
        "data": Data(1, 2, b"x"),
        "terminals": Terminals(terminals=[], is_last=True),
        "terminalopened": TerminalOpened(id=TERMINAL, started_ms=1),
        "terminalfailed": TerminalFailed(id=SESSION, code="not_installed", message="no codex"),
        "terminalended": TerminalEnded(id=TERMINAL, end="exited", exit_code=0),
        "terminaltaken": TerminalTaken(id=TERMINAL, writer=WRITER, offset=1),
        "terminalwatched": TerminalWatched(watch=1, offset=0, end=2, size=Size()),
        "terminalgap": TerminalGap(watch=1, offset=2),
        "terminaldone": TerminalDone(watch=1, end=2),
        "terminalwaiting": TerminalWaiting(id=SESSION, on=True),
        "screen": Screen(1, 2, b"x"),
        "upgrading": Upgrading(id=UPGRADE, progress="downloading"),
        "bye": Bye(),
    },
    "hub": {
        "challenge": Challenge(version=1, hub_key=KEY, nonce=KEY, signature=SIGNATURE),
        "welcome": Welcome(machine_id="m", session_id="s", epoch=1),
        "revoked": Revoked(machine_id="m", signature=SIGNATURE),
        "dispatch": Dispatch(id=ID, spec_hash=KEY, ttl_ms=None, spec=Spec(argv=["true"])),
        "cancel": Cancel(id=ID),
        "resume": Resume(id=ID, stdout=0, stderr=0),
        "sampled": Sampled(number=1),
        "stored": Stored(id=ID, stdout=0, stderr=0),
        "acknowledge": Acknowledge(id=ID),
        "heartbeat_ack": Heartbeatack(),
        "filecall": FileCall(id=1, call=Delete(path=b"/\xff")),
        "filestop": FileStop(id=1),
        "filecredit": FileCredit(id=1, offset=2),
        "fileend": FileEnd(id=1, end=2),
        "data": Data(1, 2, b"x"),
        "terminalopen": TerminalOpen(id=TERMINAL, what=Shell(), size=Size()),
        "terminalend": TerminalEnd(id=TERMINAL),
        "terminalforget": TerminalForget(ids=[TERMINAL]),
        "terminalresize": TerminalResize(id=TERMINAL, size=Size()),
        "terminalinput": TerminalInput(id=TERMINAL, writer=WRITER, offset=0, data=b"x"),
        "terminalwatch": TerminalWatch(watch=1, id=TERMINAL),
        "terminalcredit": TerminalCredit(watch=1, offset=2),
        "terminalunwatch": TerminalUnwatch(watch=1),
        "upgrade": Upgrade(id=UPGRADE, manifest=b"{}", signature=SIGNATURE),
    },
}
CASES = [(state, side, kind) for state in State for side in SAID for kind in SAID[side]]


def in_state(we_are, state):
    conversation = Conversation(we_are)
    conversation.state = state
    return conversation


def frame_of(item):
    return messages.encode(item) if isinstance(item, Message) else encode(item)


def receive(conversation, side, frame):
    if side == "agent":
        return conversation.receive_from_agent(frame)
    return conversation.receive_from_hub(frame)


def test_every_transition_is_between_words_that_exist():
    assert {(side, kind) for _, side, kind in TRANSITIONS} == {
        (side, kind) for side in SAID for kind in SAID[side]
    }


@pytest.mark.parametrize(("state", "side", "kind"), CASES)
def test_the_table_binds_both_sides(state, side, kind):
    other = "hub" if side == "agent" else "agent"
    item = SAID[side][kind]
    sender, receiver = in_state(side, state), in_state(other, state)
    following = TRANSITIONS.get((state, side, kind))
    if following is None:
        with pytest.raises(LocalProtocolError):
            sender.send(item)
        with pytest.raises(RemoteProtocolError):
            receive(receiver, side, frame_of(item))
        following = state  # and nothing has changed
    else:
        assert receive(receiver, side, sender.send(item)) == item
    assert sender.state is receiver.state is following


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("frame", [b"x", encode(Screen(1, 2, b"x"))])
def test_a_hub_that_sends_other_binary_frames_than_data_is_blamed(state, frame):
    with pytest.raises(RemoteProtocolError):
        in_state("agent", state).receive_from_hub(frame)


@given(st.sampled_from(State), st.text() | st.binary())
def test_any_frame_in_any_state_is_understood_or_blamed_on_the_peer(state, frame):
    for side, other in (("agent", "hub"), ("hub", "agent")):
        conversation = in_state(other, state)
        with pytest.raises(RemoteProtocolError):
            receive(conversation, side, frame)
        assert conversation.state is state


def test_nothing_follows_the_end():
    assert not [key for key in TRANSITIONS if key[0] is State.OVER]
