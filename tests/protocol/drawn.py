"""Any message of either side, as Hypothesis draws it."""

from hypothesis import strategies as st

from cmdop_appliance.protocol import files
from cmdop_appliance.protocol.limits import (
    SAMPLES_IN_ONE,
    SIDE_CELLS,
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
from cmdop_appliance.protocol.terminals import (
    Coding,
    KnownTerminal,
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
    Worktree,
)
from cmdop_appliance.protocol.upgrades import Upgrade, Upgrading

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
SIZES = st.builds(Size, cols=st.integers(1, SIDE_CELLS), rows=st.integers(1, SIDE_CELLS))
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
    pty=st.none() | SIZES,
)
UPGRADES = st.from_regex(r"upg_[0-7][0-9A-HJKMNP-TV-Z]{25}", fullmatch=True)
TERMINALS = st.from_regex(r"(term|session)_[0-7][0-9A-HJKMNP-TV-Z]{25}", fullmatch=True)
WRITERS = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
WHATS = st.one_of(
    st.builds(
        Shell,
        argv=st.lists(TEXT, max_size=3),
        cwd=st.none() | TEXT,
        env=st.dictionaries(TEXT, TEXT, max_size=3),
        user=st.none() | TEXT,
    ),
    st.builds(
        Coding,
        directory=TEXT,
        flavour=TEXT.filter(bool),
        model=st.none() | TEXT.filter(bool),
        yolo=st.booleans(),
        worktree=st.none() | TEXT.filter(bool),
    ),
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
    Terminals: st.builds(
        Terminals,
        terminals=st.lists(
            st.builds(KnownTerminal, id=TERMINALS, phase=st.sampled_from(["running", "ended"])),
            max_size=5,
        ),
        is_last=BOOLS,
    ),
    TerminalOpened: st.builds(
        TerminalOpened,
        id=TERMINALS,
        started_ms=COUNTS,
        directory=st.none() | TEXT,
        worktree=st.none()
        | st.builds(Worktree, repository=TEXT, path=TEXT, branch=TEXT, name=TEXT),
    ),
    TerminalFailed: st.builds(TerminalFailed, id=TERMINALS, code=TEXT, message=TEXT),
    TerminalEnded: st.builds(
        TerminalEnded,
        id=TERMINALS,
        end=st.sampled_from(["exited", "cancelled", "idle", "lost"]),
        exit_code=st.none() | st.integers(0, 255),
        signal=st.none() | TEXT,
        reason=st.none() | TEXT,
        message=st.none() | TEXT,
        started_ms=st.none() | COUNTS,
        duration_ms=st.none() | COUNTS,
    ),
    TerminalTaken: st.builds(TerminalTaken, id=TERMINALS, writer=WRITERS, offset=COUNTS),
    TerminalWatched: st.builds(
        TerminalWatched, watch=COUNTS, offset=COUNTS, end=COUNTS, size=SIZES
    ),
    TerminalGap: st.builds(TerminalGap, watch=COUNTS, offset=COUNTS),
    TerminalDone: st.builds(TerminalDone, watch=COUNTS, end=COUNTS),
    TerminalWaiting: st.builds(TerminalWaiting, id=TERMINALS, on=BOOLS),
    Upgrading: st.builds(
        Upgrading,
        id=UPGRADES,
        progress=st.sampled_from(["downloading", "starting", "healthy", "rolled_back"]),
        code=TEXT,
        message=TEXT,
    ),
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
    Dispatch: st.builds(
        Dispatch,
        id=IDS,
        spec_hash=BYTES32,
        ttl_ms=st.none() | COUNTS,
        spec=SPECS,
        is_restored=st.booleans(),
    ),
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
    TerminalOpen: st.builds(
        TerminalOpen, id=TERMINALS, what=WHATS, size=SIZES, operator=st.none() | TEXT
    ),
    TerminalEnd: st.builds(TerminalEnd, id=TERMINALS),
    TerminalForget: st.builds(TerminalForget, ids=st.lists(TERMINALS, max_size=3)),
    TerminalResize: st.builds(TerminalResize, id=TERMINALS, size=SIZES),
    TerminalInput: st.builds(
        TerminalInput,
        id=TERMINALS,
        writer=WRITERS,
        offset=COUNTS,
        data=st.binary(min_size=1, max_size=50),
    ),
    TerminalWatch: st.builds(
        TerminalWatch,
        watch=COUNTS,
        id=TERMINALS,
        offset=st.none() | COUNTS,
        quiet=st.booleans(),
    ),
    TerminalCredit: st.builds(TerminalCredit, watch=COUNTS, offset=COUNTS),
    TerminalUnwatch: st.builds(TerminalUnwatch, watch=COUNTS),
    Upgrade: st.builds(Upgrade, id=UPGRADES, manifest=st.binary(max_size=50), signature=SIGNATURES),
}
BOTH_WAYS = {FileCredit, FileEnd}
