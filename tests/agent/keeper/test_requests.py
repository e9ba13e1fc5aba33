import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.agent.keeper.requests import Start, parse

TEXT = st.sampled_from(["", "cmd_1", "\0", "\ud800", "é", "eA=="])
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
ANY = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(TEXT, SCALAR, max_size=3)
START = ("id", "argv", "env", "cwd", "user", "stdin", "timeout_ms", "pty", "terminal", "idle_ms")
FIELDS = (*START, "ids", "writer", "offset", "data", "cols", "rows")
KINDS = ["start", "cancel", "forget", "input", "resize", "watch", "touch"]


@given(st.binary())
def test_any_bytes_are_a_request_or_a_value_error(line):
    with suppress(ValueError):
        parse(line)


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), ANY))
def test_any_fields_are_a_request_or_a_value_error(do, fields):
    with suppress(ValueError):
        parse(json.dumps({"do": do, "id": "cmd_1", "argv": ["true"], **fields}).encode())


def test_what_is_left_out_has_no_value():
    start = parse(b'{"do":"start","id":"cmd_1","argv":["true"]}')
    assert isinstance(start, Start)
    assert (start.env, start.cwd, start.user, start.stdin, start.timeout_ms) == ({},) + (None,) * 4
    assert (start.pty, start.is_terminal, start.idle_ms) == (None, False, None)


def test_only_a_terminal_has_a_program_of_its_own():
    start = parse(b'{"do":"start","id":"t","argv":[],"pty":{"cols":9,"rows":5},"terminal":true}')
    assert isinstance(start, Start)
    assert (start.argv, start.pty, start.is_terminal) == ([], (9, 5), True)
    for rest in ("", ',"terminal":true', ',"pty":{"cols":9,"rows":5}'):
        with pytest.raises(ValueError, match="argv is empty"):
            parse(f'{{"do":"start","id":"t","argv":[]{rest}}}'.encode())


@pytest.mark.parametrize(
    "line",
    [
        '{"do":"start","id":"t","argv":["x"],"pty":true}',
        '{"do":"resize","id":"t","cols":0,"rows":5}',
        '{"do":"resize","id":"t","cols":5,"rows":65536}',
        '{"do":"resize","id":"t","cols":5}',
        '{"do":"input","id":"t","writer":"w","offset":-1,"data":"eA=="}',
        '{"do":"input","id":"t","writer":"","offset":0,"data":"eA=="}',
        '{"do":"input","id":"t","writer":"w","offset":0,"data":"\u00e9"}',
        '{"do":"input","id":"t","writer":"w","offset":0}',
        '{"do":"watch","id":"t","offset":true}',
        '{"do":"touch"}',
    ],
)
def test_what_is_no_request_of_a_terminal(line):
    with pytest.raises(ValueError, match=r"not |Only|string"):
        parse(line.encode())
