"""Screening against a terminal emulator: real programs look as they would without it."""

import re
from pathlib import Path

import pyte
import pytest

from cmdop_appliance.hub.screening import Screener

CAPTURES = sorted((Path(__file__).parent / "captures").iterdir())


def shown(data: bytes) -> pyte.Screen:
    screen = pyte.Screen(80, 24)
    pyte.ByteStream(screen).feed(data)
    return screen


def look(screen: pyte.Screen) -> tuple:
    """All that can be told of a screen."""
    cells = [[screen.buffer[y][x] for x in range(screen.columns)] for y in range(screen.lines)]
    return cells, screen.cursor.x, screen.cursor.y, screen.mode, screen.title, screen.margins


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_a_program_looks_as_without_it(capture):
    data = capture.read_bytes()
    screener = Screener(0)
    passed = b"".join(screener.screen(data[at : at + 97]) for at in range(0, len(data), 97))
    assert screener.offset == len(data)
    assert look(shown(passed)) == look(shown(data))


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_whoever_comes_back_sees_the_same_screen(capture):
    """It went away somewhere, with what it was shown up to the offset that it was told."""
    data = capture.read_bytes()
    whole = re.sub(rb"\x1b\[2[23];[0-9;]+t", b"", data)  # titles on their stack
    for cut in range(0, len(data), 251):
        before, after = Screener(0), Screener(0)
        passed = before.screen(data[:cut])
        after.skip(before.offset)
        assert passed + after.screen(data[before.offset :]) == whole


def test_the_title_and_the_screen_are_those_of_the_harmless_part():
    """What a hostile program wrote between is nowhere on the screen."""
    hostile = (
        b"\x1b]52;c;ZXZpbA==\x07\x1bPtmux;\x1b\x1b]52;c;ZXZpbA==\x07\x1b\\\x1b[21t\x1b[5i\x1bk"
    )
    screen = shown(Screener(0).screen(b"\x1b]2;mine\x07one" + hostile + b"\x1b\\\r\ntwo"))
    assert screen.title == "mine"
    assert [line.rstrip() for line in screen.display[:3]] == ["one", "two", ""]
