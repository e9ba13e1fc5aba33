r"""What of a program's output may reach a person's terminal.

Dropped is what a terminal would answer by typing, what touches the clipboard, a printer, a window
or a file, and what makes it read differently from then on. Nothing passes because nobody thought of
it: the lists say what may.

How it works. What comes out is text and whole sequences in their plainest spelling, which every
terminal reads the same way, whatever it would have made of what came in; C1 characters become the
ESC forms that they stand for. A sequence that has not ended waits here, at most `_IMAGE_CHARS` of
it, and is not counted: `offset` lies before it, and whoever begins there misses nothing. Bytes that
are no UTF-8 become U+FFFD, so that two halves never meet behind what was dropped between them.
"""

import codecs
import re
from io import StringIO
from typing import Final

# Characters of a control sequence, a string to the terminal, a picture; longer ones are dropped.
_CONTROL_CHARS: Final = 128
_STRING_CHARS: Final = 4096
_IMAGE_CHARS: Final = 256 * 1024
_TITLE_CHARS: Final = 255

# Of control sequences without more to them: cursor, tabs, insert, delete, erase, scroll, colours.
_PLAIN: Final = "@A-MPSXZ^`adefgmrsu"
_NUMBERS: Final = "[0-9]{0,5}(?:[;:][0-9]{0,5}){0,31}"
# Text, what moves the cursor or rings, plain control sequences; cursor, keypad, line feeds, tab and
# reset: all this passes as it stands.
_CLEAN: Final = re.compile(
    rf"(?:[^\x00-\x06\x10-\x1f\x7f-\x9f]+|\x1b(?:\[{_NUMBERS}[{_PLAIN}]|[78=>DEHMc]))*"
)
# Anything else by how it begins; what fits the last line only has no end yet, or never has one.
_OTHER: Final = re.compile(
    rf"(?:\x1b\[|\x9b)(?P<control>[ -?]{{0,{_CONTROL_CHARS}}}[@-~])"
    r"|(?:\x1b(?P<string>[]PX^_k])|(?P<string_c1>[\x90\x98\x9d-\x9f]))"
    r"|\x1b(?P<escape>[ -/]{1,2}[0-~]|[0-OQ-WYZ\\`-jl-~])"
    r"|(?P<c1>[\x84\x85\x88\x8d])"
    rf"|(?:\x1b\[|\x9b)[ -?]{{0,{_CONTROL_CHARS}}}|\x1b+(?=\x1b)|\x1b[ -/]{{0,2}}"
    r"|[\x00-\x06\x10-\x1a\x1c-\x1f\x7f]+|[\x80-\x9f]"
)
_C1: Final = dict(zip("\x84\x85\x88\x8d\x90\x98\x9d\x9e\x9f", "DEHMPX]^_", strict=True))
# What ends a string or breaks it off; a command to the system may end with a bell, too.
_STOP: Final = re.compile("[\x18\x1a\x1b\x80-\x9f]")
_COMMAND_STOP: Final = re.compile("[\x07\x18\x1a\x1b\x80-\x9f]")
_NO_UTF8: Final = re.compile("[\udc80-\udcff]")

# Double size and alignment; character sets.
_ESCAPE: Final = re.compile("#[34568]|[()*+][012AB]")
_CONTROL: Final = re.compile(
    rf"(?P<mark>[<=>?]?)(?P<numbers>{_NUMBERS})(?P<kind>[ -/]{{0,2}}[@-~])"
)
# Beside the plain ones: protected erasing, tabs; cursor and attributes, also on stacks; soft reset;
# rectangles; sideways; how keys are told.
_MORE: Final = re.compile(r"""\?[JKW]|"q|#[pq{}PQ]|!p|\$[rtvxz{]|\*x|'[}~]| [q@A]|>[mu]|=u""")
# Insert, new line. Not 2, which locks the keyboard, and 12, which shows what is typed twice.
_MODE: Final = re.compile("4|20")
# Not 2 (another language), 46 (log to a file), 1001 (the terminal waits for an answer), 1040 to
# 1044 (the clipboard, windows), 2048 (each viewer's terminal would type a size of its own).
_PRIVATE_MODE: Final = re.compile(
    "[13-9]|12|25|4[057]|6[679]|80|100[02-7]|101[56]|103[4569]|104[789]|1070|2004|202[67]|2031|8452"
)
# What passes with these numbers only: keys told as before, scrolling, to repeat a character.
# Nothing saves or restores titles and modes, lest a viewer who has left find its own changed.
_NUMBERED: Final = re.compile("<[0-9]{0,5}u|[0-9]{0,5}T|[0-9]{0,4}b")
# What a terminal answers, and nobody has a say in how: its kind, version and state, the cursor,
# modes and ways of keys; sizes in pixels and cells.
_QUERY: Final = re.compile(
    r"[>=]?0?c|[56]n|\?(6|996)n|>0?q|\?u|\?[0-9]{1,5}m|1[468](;2)?t"
    r"|\??(?!2048\$)[1-9][0-9]{0,4}\$p"
)
_COLOUR_QUERY: Final = re.compile(r"4(;[0-9]{1,3};\?){1,16}|1[0-2](;\?){1,3}")

_COLOUR: Final = "[#A-Za-z][#A-Za-z0-9:/., -]{0,40}"
_COLOURS: Final = re.compile(
    f"4(;[0-9]{{1,3}};{_COLOUR})+|1[0-2](;{_COLOUR}){{1,3}}|104(;[0-9]{{1,3}})*|11[0-2];?"
)
_TITLE: Final = re.compile("([012];)(.*)", re.DOTALL)
# A link to anything but the web only ends the link before: its place is on the viewer's machine.
_LINK: Final = re.compile(
    "(8;[A-Za-z0-9_=:.+-]{0,255};)(?:((?:https?://|mailto:)[!-~]{1,2000})|.*)", re.DOTALL
)
_PROMPT: Final = re.compile("133;[A-D](;[0-9]{1,3}|;[a-z]{1,16}=[A-Za-z0-9_-]{0,64}){0,8}")
_BLANKS: Final = re.compile("[\x00-\x20\x7f]+")
_SIXEL: Final = re.compile("[0-9]{0,2}(;[0-9]{0,4}){0,2}q[!-~]*")
_FAR: Final = re.compile("[0-9]{5}")  # no screen is so wide; a terminal might take the memory


class Screener:
    """The filter of one viewer, for output from byte `offset` on."""

    def __init__(self, offset: int) -> None:
        self.skip(offset)

    def skip(self, offset: int) -> None:
        """The output goes on at byte `offset`; what had not ended never will."""
        self.offset = offset  # what came before was passed on, or dropped for good
        self._fed = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._held = ""  # the beginning of a sequence, or of what may end a string
        self._string: str | None = None  # the kind of a string that has not ended
        self._kept = StringIO()  # of it
        self._room = 0  # characters that may be kept of it; negative: it was too long

    def screen(self, data: bytes, *, may_ask: bool = False) -> bytes:
        """What may be passed on now that `data` has come, which goes on where the last ended.

        `may_ask`: it goes to a terminal whose answers are typed, and may ask it something.
        """
        self._fed += len(data)
        text = self._held + self._decoder.decode(data)
        passed: list[str] = []
        at, begun = 0, None  # where the string that has not ended began, if that was in `text`
        while at < len(text):
            if self._string is not None:
                at, string = self._read_on(text, at, may_ask=may_ask)
                passed.append(string)
                if self._string is not None:
                    break
            clean = _CLEAN.match(text, at)
            assert clean is not None  # it may be empty
            passed.append(clean[0])
            at = clean.end()
            other = _OTHER.match(text, at)
            if other is None:
                break
            what = other.lastgroup
            if what is None and other.end() == len(text) and text[at] in "\x1b\x9b":
                break
            if what in ("string", "string_c1"):
                begun = at
                self._begin(_C1.get(other[what], other[what]))
            elif what is not None:
                passed.append(_sequence(what, other[what], may_ask=may_ask))
            at = other.end()
        self._held = text[at:]
        if self._string is None:
            self._count_all_but(self._held)
        elif begun is not None:
            self._count_all_but(text[begun:])
        return _encode("".join(passed))

    def _count_all_but(self, text: str) -> None:
        undecoded, _ = self._decoder.getstate()
        waiting = len(text.encode("utf-8", "surrogateescape")) + len(undecoded)
        self.offset = self._fed - waiting

    def _begin(self, kind: str) -> None:
        self._string = kind
        self._kept = StringIO()
        self._room = {"]": _STRING_CHARS, "P": _IMAGE_CHARS}.get(kind, 0)  # no others pass

    def _read_on(self, text: str, at: int, *, may_ask: bool) -> tuple[int, str]:
        """Where to go on, and what to pass on. If the string has not ended, that is to wait."""
        assert self._string is not None
        stop = (_COMMAND_STOP if self._string == "]" else _STOP).search(text, at)
        end = len(text) if stop is None else stop.start()
        self._keep(text[at:end])
        if stop is None or text[end:] == "\x1b":
            return end, ""
        kind, self._string = self._string, None
        mark = "\x1b\\" if text.startswith("\x1b\\", end) else stop[0]
        if mark not in ("\x07", "\x1b\\", "\x9c"):
            return end, ""  # something else has broken it off
        body = _string(kind, self._kept.getvalue(), may_ask=may_ask)
        if body is None:
            return end + len(mark), ""
        return end + len(mark), f"\x1b{kind}{body}" + ("\x07" if mark == "\x07" else "\x1b\\")

    def _keep(self, part: str) -> None:
        self._room -= len(part)
        if self._room >= 0:
            self._kept.write(part)
        else:
            self._kept = StringIO()


def _sequence(what: str, body: str, *, may_ask: bool) -> str:
    """What passes of an escape or control sequence that has ended, or of one C1 character."""
    if what == "c1":
        return f"\x1b{_C1[body]}"
    if what == "escape":
        return f"\x1b{body}" if _ESCAPE.fullmatch(body) else ""
    control = _CONTROL.fullmatch(body)
    if control is None:
        return ""
    mark, numbers, kind = control.group("mark", "numbers", "kind")
    if kind in "hl" and mark in ("", "?"):
        allowed = _PRIVATE_MODE if mark else _MODE
        numbers = ";".join(filter(allowed.fullmatch, numbers.split(";")))
        return f"\x1b[{mark}{numbers}{kind}" if numbers else ""
    passes = (
        (not mark and kind in _PLAIN)
        or _MORE.fullmatch(mark + kind)
        or _NUMBERED.fullmatch(body)
        or (may_ask and _QUERY.fullmatch(body))
    )
    return f"\x1b[{body}" if passes else ""


def _string(kind: str, body: str, *, may_ask: bool) -> str | None:
    """What passes of a string that has ended; None: nothing."""
    if kind == "P":
        body = _BLANKS.sub("", body)
        return body if _SIXEL.fullmatch(body) and not _FAR.search(body) else None
    if title := _TITLE.fullmatch(body):
        return title[1] + "".join(filter(str.isprintable, title[2]))[:_TITLE_CHARS]
    if link := _LINK.fullmatch(body):
        return link[1] + (link[2] or "")
    if _COLOURS.fullmatch(body) or _PROMPT.fullmatch(body):
        return body
    return body if may_ask and _COLOUR_QUERY.fullmatch(body) else None


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _NO_UTF8.sub("\ufffd", text).encode()
