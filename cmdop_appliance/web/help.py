"""docs/ as pages at /help: for people without a checkout, without the internet, without scripts."""

import functools
import hashlib
import itertools
import re
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from quart import Response, request

from cmdop_appliance.errors import NotFound
from cmdop_appliance.web.pages import GUARDED, HTML

if TYPE_CHECKING:
    from markdown_it.token import Token

# Addresses, below which each document has its own.
PAGES: Final = ("/help", "/help/<name>")
_INDEX: Final = Path(__file__).parents[2] / "docs/README.md"  # the first page
_INDEXED: Final = re.compile(r"\]\(((?:\.\./)?[A-Za-z0-9-]+\.md)\)")
_LINK: Final = re.compile(r"(?:\.\./|docs/)?([a-z0-9-]+)\.md(#.*)?", re.IGNORECASE)
_NOT_IN_AN_ANCHOR: Final = re.compile(r"[^\w\- ]")  # as on GitHub, where these files are read, too
_STYLE: Final = """
:root { color-scheme: light dark; --back: light-dark(#f6f7f9, #111418);
  --card: light-dark(#fff, #1a1e24); --line: light-dark(#d5dae1, #323a45);
  font: 15px/1.5 system-ui, sans-serif; background: var(--back);
  color: light-dark(#14181d, #e6e9ee); }
body { display: flex; margin: 0; }
nav { flex: 0 0 11.5rem; min-height: 100vh; padding: 1rem; background: var(--card);
  border-right: 1px solid var(--line); box-sizing: border-box; }
ul { padding-left: 1.2rem; }
nav ul { padding: 0; list-style: none; }
nav li a { display: block; padding: .35rem .6rem; border-radius: 6px; color: inherit;
  text-decoration: none; }
nav [aria-current] { background: var(--back); font-weight: 600; }
.brand { font: 700 1.2rem ui-monospace, monospace; text-decoration: none; }
main { flex: 1; min-width: 0; max-width: 56rem; padding: 0 1.5rem 4rem; }
a { color: light-dark(#1a5fb4, #7ab3ff); }
:focus-visible { outline: 2px solid; outline-offset: 2px; }
code, pre { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .9em; }
pre { overflow-x: auto; padding: .8rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; }
table { display: block; overflow-x: auto; border-collapse: collapse; }
td, th { padding: .35rem .6rem; border: 1px solid var(--line); text-align: left;
  vertical-align: top; }
@media (max-width: 48rem) {
  body { flex-direction: column; }
  nav { flex: none; min-height: 0; border: 0; border-bottom: 1px solid var(--line); }
  nav ul { display: flex; flex-wrap: wrap; }
}
"""
_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · cmdop</title>
<link rel="icon" href="/assets/icon.svg">
<style>{style}</style>
<nav aria-label="Documents"><a class="brand" href="/">cmdop</a><ul>{documents}</ul></nav>
<main>{content}</main>
"""
_HEADERS: Final = GUARDED | {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'sha256-"
    + b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


@dataclass(frozen=True, slots=True)
class _Document:
    title: str
    content: str  # HTML


async def document(name: str = "") -> Response:
    """One document, beside the list of all.

    Raises:
        NotFound: there is none of this name, or this installation has no documents.
    """
    pages = await trio.to_thread.run_sync(_pages)
    if (page := pages.get(name)) is None:
        raise NotFound("Not found")
    tag = hashlib.sha256(page).hexdigest()[:16]
    headers = _HEADERS | {"ETag": f'"{tag}"'}
    if request.if_none_match.contains_weak(tag):
        return Response(b"", status=304, headers=headers)
    return Response(page, content_type=HTML, headers=headers)


@functools.cache
def _pages() -> dict[str, bytes]:
    """Every page by its name, as the first one lists them; that has none."""
    if not _INDEX.exists():
        return {}
    index = _INDEX.read_text("utf-8")
    paths = [_INDEX.parent / link for link in _INDEXED.findall(index)]
    documents = {"": _render(index)} | {
        path.stem.lower(): _render(path.read_text("utf-8")) for path in paths
    }
    return {
        name: _PAGE.format(
            title=escape(found.title),
            style=_STYLE,
            documents=_list(documents, name),
            content=found.content,
        ).encode()
        for name, found in documents.items()
    }


def _list(documents: dict[str, _Document], shown: str) -> str:
    items = []
    for name, found in documents.items():
        here = ' aria-current="page"' if name == shown else ""
        items.append(f'<li><a href="{_address(name)}"{here}>{escape(found.title)}</a></li>')
    return "".join(items)


def _render(text: str) -> _Document:
    from markdown_it import MarkdownIt  # 70 ms, for a page that few ask for

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    headings = [
        (token, _text(inline))
        for token, inline in itertools.pairwise(tokens)
        if token.type == "heading_open"
    ]
    seen: Counter[str] = Counter()
    for token, heading in headings:
        anchor = _NOT_IN_AN_ANCHOR.sub("", heading.lower()).replace(" ", "-")
        token.attrSet("id", f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    for token in tokens:
        for part in token.children or ():
            if part.type == "link_open" and (link := _LINK.fullmatch(str(part.attrGet("href")))):
                part.attrSet("href", _address(link[1].lower()) + (link[2] or ""))
    return _Document(headings[0][1], reader.renderer.render(tokens, reader.options, {}))


def _text(inline: "Token") -> str:
    return "".join(part.content for part in inline.children or ())


def _address(name: str) -> str:
    return f"/help/{name}" if name not in ("", "readme") else "/help"
