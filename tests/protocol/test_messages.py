"""Messages: what is sent is received, and what a peer sends is understood or blamed on it."""

import json
from contextlib import nullcontext, suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.errors import LocalProtocolError, RemoteProtocolError
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol import files, messages
from cmdop_appliance.protocol.limits import (
    FEATURES_ITEMS,
    INVENTORY_ITEMS,
    LABEL_CHARS,
    MESSAGE_BYTES,
    OUTPUT_BYTES,
    SAMPLES_IN_ONE,
    SAMPLES_ITEMS,
)
from cmdop_appliance.protocol.messages import (
    Accepted,
    Acknowledge,
    AuditHead,
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
    Known,
    Message,
    Notice,
    Peak,
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
    Telemetry,
    Welcome,
)
from tests.support.records import FACTS as RECORDED
from tests.support.records import samples

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
LINE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)
IDS = st.from_regex(r"cmd_[0-7][0-9A-HJKMNP-TV-Z]{25}", fullmatch=True)
COUNTS = st.integers(0, 2**63 - 1)
PERCENTS = st.floats(0, 100)
BYTES32 = st.binary(min_size=32, max_size=32)
SIGNATURES = st.binary(min_size=64, max_size=64)
VERSIONS = st.integers(1, 65535)
HEADS = st.builds(AuditHead, seq=st.integers(1, 2**63 - 1), hash=BYTES32)
STREAMS = st.builds(Stream, COUNTS, BYTES32)
FACTS = st.builds(
    Facts,
    **dict.fromkeys(("hostname", "os", "arch", "kernel", "user", "home", "agent_version"), LINE),
    platform=st.sampled_from(["linux", "darwin", "win32"]),
    cpu_cores=COUNTS,
    memory_bytes=COUNTS,
)
TELEMETRY = st.builds(
    Telemetry,
    **{
        name: PERCENTS if name.endswith("percent") else COUNTS
        for name in Telemetry.__struct_fields__
    },
)
SAMPLES = st.builds(
    Sample,
    number=COUNTS,
    age_ms=COUNTS,
    telemetry=TELEMETRY,
    count=st.integers(1, SAMPLES_IN_ONE),
    peak=st.none() | st.builds(Peak, **dict.fromkeys(Peak.__struct_fields__, PERCENTS)),
)
SPECS = st.builds(
    Spec,
    argv=st.lists(TEXT, min_size=1, max_size=5),
    cwd=st.none() | TEXT,
    env=st.dictionaries(TEXT, TEXT, max_size=3),
    user=st.none() | TEXT,
    stdin=st.none() | st.binary(max_size=50),
    timeout_ms=st.none() | st.integers(1, 2**53 - 1),
    operator=st.none() | TEXT,
    serial_key=st.none() | TEXT.filter(bool),
)
PATHS = st.binary(max_size=30)
MODES = st.integers(0, 0o7777)
UPLOADS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
BOOLS = st.booleans()
ENTRIES = st.builds(
    files.Entry,
    name=PATHS,
    type=st.sampled_from(["file", "directory", "symlink", "other"]),
    size=COUNTS,
    mode=MODES,
    owner=TEXT,
    group=TEXT,
    modified_ms=st.integers(-(2**50), 2**50),
    target=st.none() | PATHS,
)
CALLS = st.one_of(
    st.builds(files.List, path=PATHS, hidden=BOOLS, offset=COUNTS, limit=st.integers(0, 100)),
    st.builds(files.Stat, path=PATHS, checksum=BOOLS),
    st.builds(files.Exist, paths=st.lists(PATHS, max_size=3)),
    st.builds(
        files.Read,
        path=PATHS,
        offset=st.integers(-(2**63), 2**63 - 1),
        length=st.none() | COUNTS,
        if_version=st.none() | TEXT,
    ),
    st.builds(
        files.Write,
        path=PATHS,
        upload=st.none() | UPLOADS,
        offset=COUNTS,
        mode=st.none() | MODES,
        owner=st.none() | TEXT.filter(bool),
        group=st.none() | TEXT.filter(bool),
        create_parents=BOOLS,
        overwrite=BOOLS,
        if_match=st.none() | BYTES32,
    ),
    st.builds(files.Uploaded, path=PATHS, upload=UPLOADS),
    st.builds(files.Delete, path=PATHS, recursive=BOOLS),
    st.builds(files.Move, source=PATHS, destination=PATHS, overwrite=BOOLS),
    st.builds(files.Copy, source=PATHS, destination=PATHS, overwrite=BOOLS),
    st.builds(files.Mkdir, path=PATHS, parents=BOOLS, mode=st.none() | MODES),
)
ANSWERS = st.one_of(
    st.builds(files.Entries, path=PATHS, entries=st.lists(ENTRIES, max_size=3), total=COUNTS),
    st.builds(files.Found, path=PATHS, entry=ENTRIES, version=TEXT, sha256=st.none() | BYTES32),
    st.builds(files.Existing, exist=st.lists(BOOLS, max_size=3)),
    st.builds(
        files.Opened,
        path=PATHS,
        size=COUNTS,
        first=COUNTS,
        end=COUNTS,
        version=TEXT,
        modified_ms=COUNTS,
        sha256=st.none() | BYTES32,
    ),
    st.builds(files.Placed, path=PATHS, offset=COUNTS),
    st.builds(files.Written, path=PATHS, size=COUNTS, sha256=BYTES32, created=BOOLS),
    st.builds(files.Kept, offset=COUNTS),
    st.just(files.Done()),
)
CREDITS = st.builds(FileCredit, id=COUNTS, offset=COUNTS)
ENDS = st.builds(FileEnd, id=COUNTS, end=COUNTS, sha256=st.none() | BYTES32)
FROM_AGENT = {
    Hello: st.builds(Hello, version=VERSIONS, nonce=BYTES32),
    Prove: st.builds(
        Prove,
        public_key=BYTES32,
        signature=SIGNATURES,
        boot_id=TEXT,
        keeper_id=TEXT,
        facts=FACTS,
        token=st.none() | TEXT,
        name=st.none() | LINE.filter(bool),
    ),
    Inventory: st.builds(
        Inventory,
        commands=st.lists(
            st.builds(Known, id=IDS, phase=st.sampled_from(["queued", "running", "ended"])),
            max_size=5,
        ),
    ),
    Ready: st.builds(Ready, audit_head=st.none() | HEADS, features=st.lists(TEXT, max_size=2)),
    Heartbeat: st.builds(Heartbeat, telemetry=st.none() | TELEMETRY),
    Samples: st.builds(
        Samples,
        series=st.binary(min_size=16, max_size=16),
        samples=st.lists(SAMPLES, min_size=1, max_size=3),
    ),
    Background: st.builds(Background, on=st.booleans()),
    Accepted: st.builds(Accepted, id=IDS),
    Started: st.builds(Started, id=IDS, started_ms=COUNTS),
    Finished: st.builds(
        Finished,
        id=IDS,
        end=st.sampled_from(["exited", "timeout", "cancelled", "failed", "lost", "expired"]),
        stdout=STREAMS,
        stderr=STREAMS,
        exit_code=st.none() | st.integers(0, 255),
        signal=st.none() | TEXT,
        reason=st.none() | TEXT,
        message=st.none() | TEXT,
        started_ms=st.none() | COUNTS,
        duration_ms=st.none() | COUNTS,
    ),
    Rejected: st.builds(Rejected, id=IDS, reason=TEXT),
    Notice: st.builds(Notice, event=TEXT, message=TEXT),
    FileAnswer: st.builds(FileAnswer, id=COUNTS, answer=ANSWERS),
    FileFailed: st.builds(
        FileFailed, id=COUNTS, code=TEXT, message=TEXT, offset=st.none() | COUNTS
    ),
    FileCredit: CREDITS,
    FileEnd: ENDS,
    Bye: st.just(Bye()),
}
FROM_HUB = {
    Challenge: st.builds(
        Challenge, version=VERSIONS, hub_key=BYTES32, nonce=BYTES32, signature=SIGNATURES
    ),
    Welcome: st.builds(
        Welcome,
        machine_id=TEXT,
        session_id=TEXT,
        epoch=COUNTS,
        features=st.lists(TEXT, max_size=3),
    ),
    Revoked: st.builds(Revoked, machine_id=TEXT, signature=SIGNATURES),
    Dispatch: st.builds(Dispatch, id=IDS, spec_hash=BYTES32, ttl_ms=st.none() | COUNTS, spec=SPECS),
    Cancel: st.builds(Cancel, id=IDS),
    Resume: st.builds(Resume, id=IDS, stdout=COUNTS, stderr=COUNTS),
    Stored: st.builds(Stored, id=IDS, stdout=COUNTS, stderr=COUNTS),
    Acknowledge: st.builds(Acknowledge, id=IDS),
    Sampled: st.builds(Sampled, number=COUNTS),
    Heartbeatack: st.builds(Heartbeatack, audit_head=st.none() | HEADS),
    FileCall: st.builds(FileCall, id=COUNTS, call=CALLS),
    FileStop: st.builds(FileStop, id=COUNTS),
    FileCredit: CREDITS,
    FileEnd: ENDS,
}
BOTH_WAYS = {FileCredit, FileEnd}
KINDS = {kind.__struct_config__.tag: kind for kind in (*FROM_AGENT, *FROM_HUB)}
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
