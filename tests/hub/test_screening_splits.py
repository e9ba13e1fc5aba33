"""Screening, whatever pieces the output comes in."""

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.hub.screening import Screener

PARTS = [
    b"\x1b", b"\x1b[", b"\x1b]", b"\x1bP", b"\x1b\\", b"\x1bk", b"\x1b_", b"\x07", b"\x18",
    b"\xc2\x9b", b"\xc2\x9d", b"\xc2\x9c", b"\xc2", b"\x9d", b"\x9c", b"\xe2\x82\xac",
    b"\xe2\x82", b"\xff", b"52;c;eA==", b"0;title", b"8;;https://a.b", b"11;?", b"q~~", b"?25h",
    b"31m", b"6n", b"1;2", b";", b"?", b"$p", b"c", b"text", b"\r\n", b"\x00", b"\x05", b"(0",
    b"A" * 130, b"1" * 130, b"B" * 4100,
]  # fmt: skip
OUTPUT = st.lists(st.sampled_from(PARTS) | st.binary(max_size=3), max_size=30).map(b"".join)
# All that may ever come out: text, and whole sequences.
WHOLE = re.compile(
    "(?:[^\x00-\x06\x10-\x1f\x7f-\x9f]"
    r"|\x1b\[[<-?]?[0-9:;]*[ -/]*[@-~]|\x1b[#()*+]?[0-9A-Zc=>]"
    r"|\x1b\][^\x00-\x1f\x7f-\x9f]*(?:\x07|\x1b\\)|\x1bP[!-~]*\x1b\\)*"
)


def all_of(screener: Screener, data: bytes, cuts: list[int], *, may_ask: bool) -> bytes:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return b"".join(
        screener.screen(data[begin:end], may_ask=may_ask) for begin, end in pairwise(edges)
    )


@given(OUTPUT, st.lists(st.integers(0, 5000), max_size=8), st.booleans())
def test_the_pieces_make_no_difference(data, cuts, may_ask):
    whole, cut = Screener(7), Screener(7)
    passed = whole.screen(data, may_ask=may_ask)
    assert all_of(cut, data, cuts, may_ask=may_ask) == passed
    assert cut.offset == whole.offset <= 7 + len(data)


@given(OUTPUT, st.booleans())
def test_what_was_screened_passes_unchanged(data, may_ask):
    passed = Screener(0).screen(data, may_ask=may_ask)
    again = Screener(0)
    assert again.screen(passed, may_ask=may_ask) == passed
    assert again.offset == len(passed)  # nothing in it is half a sequence
    assert WHOLE.fullmatch(passed.decode())


@given(OUTPUT, st.integers(0, 5000), st.integers(0, 5000))
def test_whoever_begins_at_a_reported_offset_misses_nothing(data, cut, end):
    cut %= len(data) + 1
    first = Screener(0)
    before = first.screen(data[:cut])
    second = Screener(first.offset)
    after = second.screen(data[first.offset :])
    assert before + after == Screener(0).screen(data)
