"""What hostile output would have had on somebody's terminal, and what is left of it."""

import re

import pytest

from cmdop_appliance.hub.screening import Screener

CLIPBOARD = b"52;c;ZXZpbA=="
OSC = {"esc": b"\x1b]", "c1": b"\xc2\x9d"}
ST = {"bel": b"\x07", "st": b"\x1b\\", "c1 st": b"\xc2\x9c"}
DCS = {"esc": b"\x1bP", "c1": b"\xc2\x90"}
OTHER_STRINGS = {
    "sos": b"\x1bX", "pm": b"\x1b^", "apc": b"\x1b_", "screen": b"\x1bk",
    "sos c1": b"\xc2\x98", "pm c1": b"\xc2\x9e", "apc c1": b"\xc2\x9f",
}  # fmt: skip


def screened(data: bytes, *, may_ask: bool = False) -> bytes:
    """What passes in one piece, before which and behind which plain text passes."""
    passed = Screener(0).screen(b"<" + data + b">", may_ask=may_ask)
    assert passed.startswith(b"<")
    return passed[1:].removesuffix(b">")


def in_bytes(data: bytes, *, may_ask: bool = False) -> bytes:
    """The same, a byte at a time."""
    screener = Screener(0)
    return b"".join(screener.screen(bytes([each]), may_ask=may_ask) for each in data)


# ── the clipboard ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("end", ST.values(), ids=ST)
@pytest.mark.parametrize("begin", OSC.values(), ids=OSC)
@pytest.mark.parametrize("what", [CLIPBOARD, b"52;;ZXZpbA==", b"52;c;?", b"52", b"052;c;eA=="])
def test_the_clipboard_is_never_reached(begin, what, end):
    for may_ask in (False, True):
        assert screened(begin + what + end, may_ask=may_ask) == b""
        assert in_bytes(begin + what + end, may_ask=may_ask) == b""


@pytest.mark.parametrize(
    "begin", [*DCS.values(), *OTHER_STRINGS.values()], ids=[*DCS, *OTHER_STRINGS]
)
@pytest.mark.parametrize(
    "inner",
    [b"tmux;\x1b\x1b]%s\x07", b"tmux;\x1b\x1b]%s\x1b\x1b\\", b"\x1b]%s\x07", b"]%s\x07", b"%s"],
)
def test_nothing_gets_through_inside_something_else(begin, inner):
    passed = screened(begin + inner.replace(b"%s", CLIPBOARD) + b"\x1b\\", may_ask=True)
    assert passed == b""


@pytest.mark.parametrize("stop", [b"\x18", b"\x1a"])
def test_what_was_broken_off_does_not_go_on(stop):
    assert screened(b"\x1b]0;a" + stop + b"b") == b"b"
    assert screened(b"\x1b[3" + stop + b"1m") == b"1m"
    assert screened(b"\x1bPq~" + stop + b"b") == b"b"


@pytest.mark.parametrize(
    "games",
    [
        b"\x1b\x1b]52;c;eA==\x07",
        b"\x1b]52;c;eA==\x1b\x1b\\",
        b"\x1b]0;a\x1b]52;c;eA==\x07",
        b"\x1b]52;c;\x1b[1P\x1b\\",
        b"\x1b(\x1b]52;c;eA==\x07",
        b"\x1b[\x1b]52;c;eA==\x07",
        b"\x1b[1;\xc2\x9d52;c;eA==\x07",
        b"\x1b[?\x9d]52",
        b"\x1b\x9d52;c;eA==\x07",
    ],
)
def test_no_string_is_left_whole_by_one_around_it(games):
    passed = screened(games)
    assert b"\x1b]" not in passed
    assert not re.search(rb"\x1b(?!\[1P)", passed)


@pytest.mark.parametrize(
    "halves",
    [b"\xc2\x1b]52;c;eA==\x07\x9d52;c;eA==\x07", b"\xc2\x00\x9b2J", b"\x1b\x00]52;c;eA==\x07"],
)
def test_halves_do_not_become_whole_where_something_was_dropped(halves):
    for passed in (screened(halves), in_bytes(halves)):
        assert b"\x1b" not in passed
        assert not re.search(r"[\x80-\x9f]", passed.decode())


def test_an_overlong_character_is_none():
    for spelling in (b"\xc0\x9b", b"\xe0\x80\x9b", b"\xf0\x80\x80\x9b", b"\xc1\x9b", b"\xf8\x9b"):
        assert set(screened(spelling + b"[2J").decode()) == set("\ufffd[2J")


def test_bytes_that_are_no_text_are_replaced_one_by_one():
    assert screened(b"caf\xe9 \x9d\xff\xed\xa0\x80").decode() == "caf� �����"


@pytest.mark.parametrize("begin", [b"\x1b]52;c;", b"\x1b]0;", b"\x1bPq", b"\x1b_G", b"\x1bk"])
def test_what_never_ends_is_not_held(begin):
    screener = Screener(100)
    assert screener.screen(b"a" + begin) == b"a"
    for _ in range(12):
        assert screener.screen(b"A" * 32_768) == b""
        held = len(screener._kept.getvalue()) + len(screener._held)
        assert held <= 256 * 1024
        assert screener.offset == 101  # whoever begins there misses nothing
    assert screener.screen(b"\x1b\\b") == b"b"
    assert screener.offset == 100 + 1 + len(begin) + 12 * 32_768 + 3


def test_numbers_that_never_end_are_not_held():
    screener = Screener(0)
    screener.screen(b"\x1b[" + b"1;" * 20_000)
    assert len(screener._held) < 200
    assert b"\x1b" not in screener.screen(b"m")


# ── what a terminal would answer ─────────────────────────────────────────────────────────────────

QUESTIONS = [
    b"\x1b[c", b"\x1b[0c", b"\x1b[>c", b"\x1b[=c", b"\x1b[5n", b"\x1b[6n", b"\x1b[?6n",
    b"\x1b[?996n", b"\x1b[>q", b"\x1b[>0q", b"\x1b[?u", b"\x1b[?4m", b"\x1b[4$p", b"\x1b[?2026$p",
    b"\x1b[14t", b"\x1b[14;2t", b"\x1b[16t", b"\x1b[18t", b"\x1b]10;?\x07", b"\x1b]11;?\x1b\\",
    b"\x1b]4;1;?\x07",
]  # fmt: skip
NEVER_ASKED = [
    b"\x05", b"\x1bZ", b"\x1b[?15n", b"\x1b[?26n", b"\x1b[x", b"\x1b[1x", b"\x1b[11t", b"\x1b[13t",
    b"\x1b[19t", b"\x1b[20t", b"\x1b[21t", b"\x1b[1;1;1;1;1;1*y", b"\x1b[1$w", b"\x1b[&u",
    b"\x1b[?2048$p", b"\x1b[?02048$p", b"\x1b[#R", b"\x1b[1#|", b"\x1bP$qm\x1b\\",
    b"\x1bP+q544e\x1b\\", b"\x1b]52;c;?\x07", b"\x1b]10;red;?\x07", b"\x1b]4;1;red;2;?\x07",
    b"\x1b]60\x07", b"\x1b[?1;1;1S", b"\x1b[0'|", b"\x1b[\"v", b"\x1b]l\x07",
    b"\x1b[?1;2c", b"\x1b]1337;ReportVariable=eA==\x07", b"\x1b_Gi=1,a=q;AAAA\x1b\\",
]  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_passes_to_the_one_who_answers(question):
    assert screened(question, may_ask=True) == question
    assert screened(question) == b""


@pytest.mark.parametrize("question", NEVER_ASKED)
def test_a_question_whose_answer_somebody_else_writes_never_passes(question):
    assert screened(question, may_ask=True) == b""


# ── what would change a terminal, or what is around it ───────────────────────────────────────────

HARMFUL = {
    "another language": b"\x1b[?2l",
    "another character coding": b"\x1b%@",
    "8-bit answers": b"\x1b G",
    "a conformance level": b'\x1b[61"p',
    "Tektronix": b"\x1b[?38h",
    "a macro": b"\x1bP1;0;0!z1b5d\x1b\\",
    "to run a macro": b"\x1b[1*z",
    "keys that say something": b"\x1bP0;1|17/6c73\x1b\\",
    "the printer": b"\x1b[5i",
    "the printer, too": b"\x1b[?5i",
    "a log file": b"\x1b[?46h",
    "the keyboard locked": b"\x1b[2h",
    "what is typed shown twice": b"\x1b[12l",
    "a selection that is a clipboard": b"\x1b[?1041h",
    "highlighting that waits": b"\x1b[?1001h",
    "highlighting": b"\x1b[1;1;1;1;1T",
    "sizes typed": b"\x1b[?2048h",
    "a window that is moved": b"\x1b[3;0;0t",
    "a window that is resized": b"\x1b[8;1;1t",
    "an icon": b"\x1b[2t",
    "titles in hex": b"\x1b[>0t",
    "a title on its stack": b"\x1b[22;0;0t\x1b[22t",
    "a title from its stack": b"\x1b[23;0t",
    "a mode on its stack": b"\x1b[?1049s",
    "a mode from its stack": b"\x1b[?1003;1006r",
    "two stacks of keys": b"\x1b[<1;2u\x1b[<1:2u",
    "what a paste begins with": b"\x1b[200~",
    "what a paste ends with": b"\x1b[201~",
    "a self-test": b"\x1b[2;1y",
    "a key of a console": b"\x1b[[A",
    "a console's blanking": b"\x1b[9;1]",
    "a console's colours": b"\x1b]P0ffffff\x07",
    "a file": b"\x1b]1337;File=name=eA==:eA==\x07",
    "a notification": b"\x1b]9;evil\x07",
    "another notification": b"\x1b]777;notify;a;b\x07",
    "a clipboard of kitty": b"\x1b]5522;type=write\x07",
    "a directory of the viewer": b"\x1b]7;file:///tmp/evil\x07",
    "a font": b"\x1b]50;evil\x07",
    "all colours": b"\x1b]104;a\x07",
    "characters without number": b"\x1b[99999b",
    "a number without end": b"\x1b[999999999C",
    "a picture without end": b"\x1bPq!99999~\x1b\\",
    "a picture of any size": b'\x1bPq"1;1;99999;99999~\x1b\\',
    "flow control": b"\x13\x11",
    "nothing": b"\x00\x7f\xc2\x80\xc2\x9c\x1b\\",
}


@pytest.mark.parametrize("harmful", HARMFUL.values(), ids=HARMFUL)
def test_what_changes_more_than_a_screen_is_dropped(harmful):
    passed = screened(harmful, may_ask=True)
    assert b"\x1b" not in passed
    assert in_bytes(harmful, may_ask=True) == passed


def test_of_modes_only_those_pass_that_are_harmless():
    assert screened(b"\x1b[?1;2;1041;2004h") == b"\x1b[?1;2004h"
    assert screened(b"\x1b[2;4l") == b"\x1b[4l"


def test_a_title_is_a_line_of_bounded_length():
    assert screened(b"\x1b]0;a\nb\x01c\x07") == b"\x1b]0;abc\x07"
    assert screened(b"\x1b]2;\xe2\x80\xaea\xff\x1b\\") == b"\x1b]2;a\x1b\\"
    assert screened(b"\x1b]0;" + b"x" * 4000 + b"\x07") == b"\x1b]0;" + b"x" * 255 + b"\x07"
    assert screened(b"\x1b]0;" + b"x" * 5000 + b"\x07") == b""
    assert screened("\x1b]0;✳ Größe\x07".encode()) == "\x1b]0;✳ Größe\x07".encode()


def test_a_link_leads_to_the_web_or_nowhere():
    link = b"\x1b]8;id=1;https://example.com/a?b\x1b\\text\x1b]8;;\x1b\\"
    assert screened(link) == link
    for target in (
        b"file:///etc/passwd",
        b"javascript:alert(1)",
        b"x-man-page://ls",
        b"https://a b",
    ):
        assert screened(b"\x1b]8;;" + target + b"\x07text").startswith(b"\x1b]8;;")
        assert target not in screened(b"\x1b]8;;" + target + b"\x07text")


GOOD = [
    b"\x1b]4;1;rgb:ff/00/00\x07", b"\x1b]10;#ffffff\x07", b"\x1b]11;red\x1b\\", b"\x1b]12;red\x07",
    b"\x1b]104\x07", b"\x1b]104;1;2\x07", b"\x1b]110\x07", b"\x1b]133;A\x07", b"\x1b]133;D;1\x07",
    b'\x1bP0;1q"1;1;9;9#0;2;0;0;0~-\x1b\\', b"\x1b7\x1b8\x1b=\x1b>\x1bD\x1bE\x1bH\x1bM\x1bc",
    b"\x1b#8\x1b(0\x1b)B\x0e\x0f\x08\x09\x0a\x0b\x0c\x0d\x07",
    b"\x1b[H\x1b[2J\x1b[?2J\x1b[3;4H\x1b[m\x1b[38;5;9m\x1b[38:2::1:2:3m\x1b[4:3m\x1b[1;24r",
    b"\x1b[5 q\x1b[!p\x1b[2b\x1b[2T\x1b[>4;2m\x1b[>1u\x1b[<u\x1b[<2u\x1b[=1;2u\x1b[4h",
    b"\x1b[?1049h\x1b[?25l\x1b[?2004h\x1b[?1006;1000h\x1b[?2026l", "Größe ✓ 日本 👩‍💻".encode(),
]  # fmt: skip


@pytest.mark.parametrize("good", GOOD)
def test_what_programs_need_passes_as_it_is(good):
    assert screened(good) == good
    assert in_bytes(good) == good


def test_a_picture_comes_without_what_is_between_its_parts():
    assert screened(b"\x1bPq~-\r\n #1~\x1b\\") == b"\x1bPq~-#1~\x1b\\"


def test_a_c1_character_becomes_what_it_stands_for():
    assert screened("\x9b31m\x84\x85\x88\x8d\x9d0;a\x9c\x90q~\x9c".encode()) == (
        b"\x1b[31m\x1bD\x1bE\x1bH\x1bM\x1b]0;a\x1b\\\x1bPq~\x1b\\"
    )


def test_what_is_not_decided_is_not_counted():
    screener = Screener(1000)
    counted = []
    for part in (
        b"a",
        b"\x1b",
        b"[3",
        b"1m",
        b"b\xe2",
        b"\x82",
        b"\xac",
        b"\x1b]0;t",
        b"\x1b",
        b"\\",
    ):
        screener.screen(part)
        counted.append(screener.offset - 1000)
    assert counted == [1, 1, 1, 6, 7, 7, 10, 10, 10, 17]


def test_behind_a_gap_it_begins_anew():
    screener = Screener(0)
    screener.screen(b"\x1b]52;c;")
    screener.skip(50)
    assert (screener.screen(b"eA==\x07b"), screener.offset) == (b"eA==\x07b", 56)
