"""`cmdop events`: a line an event."""

from cmdop_appliance.cli.events import _line
from cmdop_appliance.sdk.types import Event


def test_a_line_has_every_value_but_the_empty_ones():
    data = {"exit_code": 0, "duration": 0, "signal": None, "late": False, "name": "", "a": "\x1b"}
    event: Event = {"id": "evt_1", "type": "t", "timestamp": "T", "seq": 7, "data": data}
    assert _line(event) == "7  T  t  exit_code=0  duration=0  a=\\x1b"
