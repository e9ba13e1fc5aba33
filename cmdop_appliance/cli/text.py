"""What may be written to a terminal: names and messages from elsewhere are hostile text."""

import json
import re
from typing import Final

_HIDDEN_IN_JSON: Final = re.compile(
    # C1, bidi and other invisible controls, line separators, surrogates: JSON strings may hold them
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]"
)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def unicode_text(text: str) -> str:
    """`text` with U+FFFD for what is no character: a byte of a file name that is not UTF-8."""
    return _SURROGATE.sub("\ufffd", text)


def visible(text: object) -> str:
    """`text` on one line, each control, bidi and other invisible character as its escape."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in line
    )


def visible_json(value: object, *, indent: int | None = None) -> str:
    """`value` as JSON that is the same to a parser and harmless to a terminal."""
    return escaped(json.dumps(value, ensure_ascii=False, indent=indent))


def escaped(plain: str) -> str:
    """JSON or TOML in which whatever a terminal does not show stands as its escape."""
    return _HIDDEN_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", plain)
