import json
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.agent.keeper.requests import Start, parse

TEXT = st.sampled_from(["", "cmd_1", "\0", "\ud800", "é", "eA=="])
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
ANY = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(TEXT, SCALAR, max_size=3)
FIELDS = ("id", "argv", "env", "cwd", "user", "stdin", "timeout_ms", "ids")


@given(st.binary())
def test_any_bytes_are_a_request_or_a_value_error(line):
    with suppress(ValueError):
        parse(line)


@given(
    st.sampled_from(["start", "cancel", "forget"]), st.dictionaries(st.sampled_from(FIELDS), ANY)
)
def test_any_fields_are_a_request_or_a_value_error(do, fields):
    with suppress(ValueError):
        parse(json.dumps({"do": do, "id": "cmd_1", "argv": ["true"], **fields}).encode())


def test_what_is_left_out_has_no_value():
    start = parse(b'{"do":"start","id":"cmd_1","argv":["true"]}')
    assert isinstance(start, Start)
    assert (start.env, start.cwd, start.user, start.stdin, start.timeout_ms) == ({},) + (None,) * 4
