"""Messages: what is sent is received, and what a peer sends is understood or blamed on it."""

import base64
import json
from contextlib import nullcontext, suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.errors import LocalProtocolError, RemoteProtocolError
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol import messages
from cmdop_appliance.protocol.limits import (
    FEATURES_ITEMS,
    INPUT_BYTES,
    INVENTORY_ITEMS,
    LABEL_CHARS,
    MESSAGE_BYTES,
    OUTPUT_BYTES,
    SAMPLES_IN_ONE,
    SAMPLES_ITEMS,
    SIDE_CELLS,
)
from cmdop_appliance.protocol.messages import (
    Accepted,
    Bye,
    Cancel,
    Dispatch,
    Finished,
    Heartbeat,
    Hello,
    Inventory,
    Known,
    Notice,
    Peak,
    Prove,
    Ready,
    Rejected,
    Sample,
    Samples,
    Spec,
    Started,
    Telemetry,
    Welcome,
)
from cmdop_appliance.protocol.terminals import (
    KnownTerminal,
    Shell,
    Size,
    TerminalEnd,
    TerminalEnded,
    TerminalForget,
    TerminalInput,
    TerminalOpen,
    TerminalResize,
    Terminals,
)
from cmdop_appliance.protocol.words import Message
from tests.protocol.drawn import BOTH_WAYS, FROM_AGENT, FROM_HUB
from tests.support.records import FACTS as RECORDED
from tests.support.records import samples

KINDS = {kind.__struct_config__.tag: kind for kind in (*FROM_AGENT, *FROM_HUB)}
TERMINAL, WRITER = "term_01JZZZZZZZZZZZZZZZZZZZZZZZ", "0f" * 16
TYPED = TerminalInput(id=TERMINAL, writer=WRITER, offset=0, data=b"x")
DECODERS = (messages.decode_from_agent, messages.decode_from_hub)

# Text as no sane peer sends it: lone surrogates, NUL, anything that JSON can escape.
EVIL_TEXT = st.text(max_size=20) | st.sampled_from(["\ud800", "\0", "x" * (LABEL_CHARS + 1), "="])
EVIL = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | EVIL_TEXT
    | st.sampled_from(["cmd_01JZZZZZZZZZZZZZZZZZZZZZZZ", "cmd_01JZZZZZZZZZZZZZZZZZZZZZZZ\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(EVIL_TEXT, inner, max_size=3),
    max_leaves=10,
)


@st.composite
def shaped(draw):
    """The right type and field names, some of them missing, with evil values."""
    tag = draw(st.sampled_from(sorted(KINDS)))
    names = draw(st.sets(st.sampled_from(["id", *KINDS[tag].__struct_fields__])))
    return {"type": tag, **{name: draw(EVIL) for name in sorted(names)}}


def test_every_message_is_covered_here():
    assert set(FROM_AGENT) == set(messages.FromAgent.__args__)
    assert set(FROM_HUB) == set(messages.FromHub.__args__)
    assert set(FROM_AGENT) | set(FROM_HUB) == set(Message.__subclasses__())
    assert set(FROM_AGENT) & set(FROM_HUB) == BOTH_WAYS


def test_what_an_agent_says_since_the_first_release_is_named_as_a_feature():
    first = {Hello, Prove, Inventory, Ready, Heartbeat, Accepted, Started, Finished, Rejected}
    first |= {Notice, Bye}
    later = {kind.__struct_config__.tag for kind in FROM_AGENT if kind not in first}
    assert later == set(messages.FEATURES)


def test_a_hub_of_the_first_release_names_no_features():
    welcome = Welcome(machine_id="m", session_id="s", epoch=1, features=list(messages.FEATURES))
    fields = msgspec.json.decode(messages.encode(welcome))
    assert messages.decode_from_hub(json.dumps(fields)) == welcome
    del fields["features"]
    assert messages.decode_from_hub(json.dumps(fields)).features == []
    with pytest.raises(RemoteProtocolError):
        messages.decode_from_hub(json.dumps({**fields, "features": ["x"] * (FEATURES_ITEMS + 1)}))


@given(st.one_of(*FROM_AGENT.values()))
def test_what_an_agent_sends_the_hub_receives(message):
    assert messages.decode_from_agent(messages.encode(message)) == message


@given(st.one_of(*FROM_HUB.values()))
def test_what_the_hub_sends_an_agent_receives(message):
    assert messages.decode_from_hub(messages.encode(message)) == message


@given(st.one_of(*(FROM_AGENT[kind] for kind in FROM_AGENT.keys() - BOTH_WAYS)))
def test_the_hub_takes_no_message_of_an_agent_for_one_of_a_hub(message):
    with pytest.raises(RemoteProtocolError):
        messages.decode_from_hub(messages.encode(message))


@given(st.one_of(*(FROM_HUB[kind] for kind in FROM_HUB.keys() - BOTH_WAYS)))
def test_no_hub_message_is_taken_for_one_of_an_agent(message):
    with pytest.raises(RemoteProtocolError):
        messages.decode_from_agent(messages.encode(message))


@pytest.mark.parametrize("decode", DECODERS)
@given(frame=st.text() | EVIL.map(json.dumps))
def test_any_text_is_understood_or_blamed_on_the_peer(decode, frame):
    with suppress(RemoteProtocolError):
        decode(frame)


@pytest.mark.parametrize("decode", DECODERS)
@given(value=shaped())
def test_any_message_with_evil_values_is_understood_or_blamed_on_the_peer(decode, value):
    for frame in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        with suppress(RemoteProtocolError):
            decode(frame)


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("frame", ["[" * 100_000, '{"a":' * 100_000, "1" * 100_000, "\ud800", ""])
def test_depth_and_length_are_blamed_on_the_peer(decode, frame):
    with pytest.raises(RemoteProtocolError):
        decode(frame)


@given(st.one_of(*FROM_AGENT.values()), EVIL_TEXT, EVIL)
def test_an_unknown_field_is_ignored(message, name, value):
    fields = msgspec.json.decode(messages.encode(message))
    frame = json.dumps({f"x_{name}": value, **fields})
    # JSON knows no NaN, and a lone surrogate is no text: those spoil the whole frame.
    with suppress(RemoteProtocolError):
        assert messages.decode_from_agent(frame) == message


@pytest.mark.parametrize(
    ("hostname", "is_taken"),
    [("é" * 127, True), ("é" * 128, False), ("web\n1", False), ("web\x9b1", False)],
)
def test_a_hostname_is_short_and_of_one_line(hostname, is_taken):
    with nullcontext() if is_taken else pytest.raises(RemoteProtocolError, match="hostname"):
        _hear_of(hostname=hostname)


@pytest.mark.parametrize(
    "field", ["name", "hostname", "os", "arch", "kernel", "user", "home", "agent_version"]
)
@pytest.mark.parametrize("text", ["e\nvil\x1b[2J", "a\0b", "\x7f", "web\x9b1"])
def test_what_a_machine_says_of_itself_has_no_control_characters(field, text):
    _hear_of(**{field: "plain"})
    with pytest.raises(RemoteProtocolError, match=f"{field} has control|matching regex"):
        _hear_of(**{field: text})


def _hear_of(name="web", **facts):
    """A hub hears what a machine says of itself."""
    prove = Prove(
        public_key=b"k" * 32, signature=b"s" * 64, boot_id="", keeper_id="", facts=RECORDED
    )
    fields = msgspec.json.decode(messages.encode(prove)) | {"name": name}
    fields["facts"] |= facts
    messages.decode_from_agent(json.dumps(fields))


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        (Cancel(id="cmd_01JZZZZZZZZZZZZZZZZZZZZZZZ"), "id", "cmd_01JZZZZZZZZZZZZZZZZZZZZZZZ\n"),
        (Cancel(id="cmd_01JZZZZZZZZZZZZZZZZZZZZZZZ"), "id", "run_01JZZZZZZZZZZZZZZZZZZZZZZZ"),
        (Hello(version=1, nonce=b"n" * 32), "nonce", "bm4="),
        (Hello(version=1, nonce=b"n" * 32), "version", 0),
        (Rejected(id="cmd_01JZZZZZZZZZZZZZZZZZZZZZZZ", reason="r"), "reason", "r" * 4097),
        (Notice(event="e", message="m"), "message", "m" * 4097),
        (Notice(event="e", message="m"), "event", "e" * 4097),
        (Started(id="cmd_01JZZZZZZZZZZZZZZZZZZZZZZZ", started_ms=1), "started_ms", 2**63),
        (Started(id="cmd_01JZZZZZZZZZZZZZZZZZZZZZZZ", started_ms=1), "started_ms", -1),
        (Started(id="cmd_01JZZZZZZZZZZZZZZZZZZZZZZZ", started_ms=1), "started_ms", True),
        (TerminalEnd(id=TERMINAL), "id", "cmd_01JZZZZZZZZZZZZZZZZZZZZZZZ"),
        (TerminalEnd(id=TERMINAL), "id", TERMINAL + "\n"),
        (TYPED, "writer", WRITER[1:]),
        (TYPED, "writer", WRITER.upper()),
        (TYPED, "writer", WRITER + "\n"),
        (TYPED, "offset", 2**63),
        (TYPED, "data", ""),
        (TYPED, "data", base64.b64encode(bytes(INPUT_BYTES + 1)).decode()),
        (TerminalResize(id=TERMINAL, size=Size()), "size", {"cols": 0, "rows": 24}),
        (TerminalResize(id=TERMINAL, size=Size()), "size", {"cols": 80, "rows": SIDE_CELLS + 1}),
        (TerminalOpen(id=TERMINAL, what=Shell(), size=Size()), "what", {"kind": "other"}),
        (TerminalEnded(id=TERMINAL, end="exited"), "exit_code", 256),
        (TerminalForget(ids=[]), "ids", [TERMINAL] * (INVENTORY_ITEMS + 1)),
    ],
)
def test_a_value_outside_its_limits_is_blamed_on_the_peer(message, field, value):
    decode = messages.decode_from_hub if type(message) in FROM_HUB else messages.decode_from_agent
    fields = msgspec.json.decode(messages.encode(message))
    assert decode(json.dumps(fields)) == message
    with pytest.raises(RemoteProtocolError):
        decode(json.dumps({**fields, field: value}))


def test_we_send_nothing_that_is_larger_than_a_message_may_be():
    spec = Spec(argv=["x" * MESSAGE_BYTES])
    command = Dispatch(id=new_id("cmd"), spec_hash=b"h" * 32, ttl_ms=None, spec=spec)
    with pytest.raises(LocalProtocolError):
        messages.encode(command)


def test_a_full_inventory_fits_into_one_message():
    known = [Known(id=new_id("cmd"), phase="running") for _ in range(INVENTORY_ITEMS)]
    assert messages.decode_from_agent(messages.encode(Inventory(commands=known)))


def test_every_terminal_that_an_agent_knows_fits_into_one_message():
    known = [KnownTerminal(id=new_id("session"), phase="ended") for _ in range(INVENTORY_ITEMS)]
    message = Terminals(terminals=known, is_last=True)
    assert messages.decode_from_agent(messages.encode(message)) == message


def test_a_full_message_of_samples_is_no_larger_than_a_piece_of_output():
    most = dict.fromkeys(Telemetry.__struct_fields__, 2**63 - 1)
    telemetry = Telemetry(**most | dict.fromkeys(Peak.__struct_fields__, 33.333333333333336))
    peak = Peak(**dict.fromkeys(Peak.__struct_fields__, 66.666666666666671))
    sample = Sample(number=2**63 - 1, age_ms=2**63 - 1, telemetry=telemetry, count=9999, peak=peak)
    frame = messages.encode(Samples(series=b"s" * 16, samples=[sample] * SAMPLES_ITEMS))
    assert len(frame) < OUTPUT_BYTES
    assert messages.decode_from_agent(frame).samples == [sample] * SAMPLES_ITEMS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("age_ms", -1),
        ("age_ms", 2**63),
        ("number", -1),
        ("count", 0),
        ("count", SAMPLES_IN_ONE + 1),
        ("peak", {"cpu_percent": 101, "memory_percent": 0, "disk_percent": 0}),
        ("telemetry", None),
    ],
)
def test_a_sample_outside_its_limits_is_blamed_on_the_agent(field, value):
    fields = msgspec.json.decode(messages.encode(samples(1)))
    messages.decode_from_agent(json.dumps(fields))
    fields["samples"][0][field] = value
    with pytest.raises(RemoteProtocolError):
        messages.decode_from_agent(json.dumps(fields))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-0.1", "100.1", "1e999", "null", '"1"'])
def test_a_percentage_that_is_none_is_blamed_on_the_agent(value):
    frame = messages.encode(samples(1, cpu_percent=12.25))
    with pytest.raises(RemoteProtocolError):
        messages.decode_from_agent(frame.replace("12.25", value))


@pytest.mark.parametrize("count", [0, SAMPLES_ITEMS + 1])
def test_no_samples_and_too_many_are_blamed_on_the_agent(count):
    frame = messages.encode(samples(*range(count)))
    with pytest.raises(RemoteProtocolError):
        messages.decode_from_agent(frame)
