"""Nothing from elsewhere reaches a terminal as more than characters on one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.cli.text import unicode_text, visible, visible_json

ANY_TEXT = st.text(st.characters())  # surrogates and controls included
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("nas-1", "nas-1"),
        ("Büro 書斎 🚀", "Büro 書斎 🚀"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b31m", "\\x9b31m"),
        ("\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),
        ("a\tb\nc\r", "a\\tb\\nc\\r"),
        ("exe\u202etxt", "exe\\u202etxt"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("\u2028\ufeff\u200b", "\\u2028\\ufeff\\u200b"),
        ("\udcff", "\\udcff"),
        ("\x7f\0", "\\x7f\\x00"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(hostile, shown):
    assert visible(hostile) == shown


@given(ANY_TEXT)
def test_any_text_becomes_one_line_of_printable_characters(text):
    assert visible(text).isprintable()
    assert visible(visible(text)) == visible(text)


@given(ANY_JSON, st.sampled_from([None, 2]))
def test_json_says_the_same_with_nothing_hidden_in_it(value, indent):
    text = visible_json(value, indent=indent)
    assert json.loads(text) == value
    assert not set(text) & set("\x1b\x07\x7f\x85\x9b\xad\u200f\u202e\u2028\u2066\ufeff\udcff")
    text.encode()


@given(ANY_TEXT)
def test_text_that_every_reader_takes_differs_only_where_there_is_no_character(text):
    shown = unicode_text(text)
    shown.encode()
    assert len(shown) == len(text)
    assert all(a == b or "\ud800" <= a <= "\udfff" for a, b in zip(text, shown, strict=True))
