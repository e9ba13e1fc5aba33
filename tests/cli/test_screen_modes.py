"""What programs leave behind in a terminal, judged by a terminal."""

import pyte
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cmdop_appliance.cli.screen_modes import ScreenModes

ALWAYS = ScreenModes().undo()


def _undone(*outputs: bytes) -> bytes:
    modes = ScreenModes()
    for output in outputs:
        modes.see(output)
    undone = modes.undo()
    assert modes.undo() == ALWAYS  # once is enough
    assert undone.startswith(b"\x1b[0m\x1b[4;20l")
    return undone.removeprefix(ALWAYS)


@pytest.mark.parametrize(
    ("output", "undone"),
    [
        (b"plain \x1b[31mtext\x1b[m", b""),
        (b"\x1b[?2004h", b"\x1b[?2004l"),
        (b"\x1b[?2004h$ \x1b[?2004l", b""),
        (b"\x1b[?1000;1006h", b"\x1b[?1000l\x1b[?1006l"),
        (b"\x1b[?25l", b"\x1b[?25h"),
        (b"\x1b[?25l\x1b[?25h", b""),
        (b"\x1b[?1h\x1b=", b"\x1b[?1l"),
        (b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l"),
        (b"\x1b[?1049h\x1b[?1049l", b""),
        (b"\x1b[?12h\x1b[?9999h", b""),  # nobody knows how it was
        (b"\x1b[2;10r", b"\x1b7\x1b[r\x1b8"),
        (b"\x1b[4 q", b"\x1b[0 q"),
        (b"\x1b[>4;2m", b"\x1b[>4m"),
        (b"\x1b[>1u\x1b[>5u", b"\x1b[<2u"),
        (b"\x1b[>1u\x1b[<u\x1b[<5u", b""),
        (b"\x1b[=1;1u", b"\x1b[=0u"),
        (b"\x1b[>1u\x1b[=5u", b"\x1b[<1u"),  # what is taken off the stack was replaced
        (b"\x1b[>1;3m\x1b[>2m", b"\x1b[>1m\x1b[>2m"),
        (b"\x1b[?67;1034h\x1b[?1036l\x1b[?1039l", b"\x1b[?67l\x1b[?1034l\x1b[?1036h\x1b[?1039h"),
        (b"\x1b]8;id=1;https://example.com\x1b\\", b"\x1b]8;;\x1b\\"),
        (b"\x1b]8;;\x1b\\", b""),
        (b"\x1b]11;#000000\x1b\\", b"\x1b]111\x1b\\"),
        (b"\x1b]4;1;red\x07", b"\x1b]104\x1b\\"),
        (b"\x1b]10;?\x07\x1b]4;1;?\x07", b""),  # questions
        (b"\x1b]0;title\x07", b""),  # see LocalTerminal
        (b"\x1b[?1049h\x1b[?1000h\x1bc", b""),
    ],
)
def test_what_was_set_is_undone_and_nothing_else(output, undone):
    assert _undone(output) == undone


@example(["\x1b[<1;2u"])
@example(["\x1b[?1:2h"])
@example(["\x1b[<", "9" * 5000, "u"])
@given(
    st.lists(
        st.sampled_from(
            ["\x1b[", "?", "<", ">", "=", ";", ":", "1049", "9" * 5000, *"0hlurmqc ]4"]
        ),
        max_size=30,
    )
)
def test_no_output_is_more_than_it_takes(pieces):
    modes = ScreenModes()
    modes.see("".join(pieces).encode())
    assert modes.undo().startswith(ALWAYS)


def test_ways_of_telling_keys_are_undone_on_the_screen_where_they_were_set():
    output = (b"\x1b[>1u", b"\x1b[?1049h\x1b[>3u")
    assert _undone(*output) == b"\x1b[<1u\x1b[?1049l\x1b[<1u"
    assert _undone(b"\x1b[=31u", b"\x1b[?1049h") == b"\x1b[?1049l\x1b[=0u"
    assert _undone(b"\x1b[?47h\x1b[=31u\x1b[?47l") == b"\x1b[?1049h\x1b[=0u\x1b[?1049l"


def test_a_terminal_is_afterwards_as_it_was():
    screen = pyte.Screen(20, 5)
    stream = pyte.ByteStream(screen)
    before = set(screen.mode)
    output = b"\x1b[?7l\x1b[?25l\x1b[?6h\x1b[?5h\x1b[4h\x1b[20h\x1b[2;3r\x1b[7mx"
    modes = ScreenModes()
    modes.see(output)
    stream.feed(output)
    assert screen.mode != before
    stream.feed(modes.undo())
    assert (set(screen.mode), screen.margins, screen.cursor.attrs.reverse) == (before, None, False)
