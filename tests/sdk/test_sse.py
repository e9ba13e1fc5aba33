"""Server-sent events, however their bytes come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.sdk import UnexpectedAnswer, sse
from cmdop_appliance.sdk.sse import EventParser, ServerSentEvent

LINE = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=8)


@given(
    st.lists(st.tuples(LINE.filter(bool), LINE, LINE), max_size=5),
    st.integers(1, 20),
    st.sampled_from(["\n", "\r\n"]),
)
def test_events_are_the_same_however_the_bytes_are_cut(events, size, newline):
    raw = "".join(
        f"event: {name}\nid: {ident}\ndata: {data}\n\n" for name, data, ident in events
    ).replace("\n", newline)
    parser, body = EventParser(), raw.encode()
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    found = [event for piece in pieces for event in parser.feed(piece)]
    assert found == [ServerSentEvent(*event) for event in events]


def test_lines_of_one_event_are_joined():
    assert list(EventParser().feed(b"data: a\ndata: b\n\n")) == [ServerSentEvent("message", "a\nb")]


def test_an_endless_event_is_refused(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    parser = EventParser()
    assert not list(parser.feed(b"data: " + b"x" * 90))
    with pytest.raises(UnexpectedAnswer):
        list(parser.feed(b"x" * 10))
