"""What a browser has to load: small enough for a slow line."""

import gzip
import re

import pytest

from tests.support.dashboard import STATIC, needs_dashboard

pytestmark = needs_dashboard

SHELL_BYTES = 15 * 1024  # page, script and style of the first paint, gzipped
TERMINAL_BYTES = 110 * 1024


def assets(name, seen):
    """The files that `name` needs at once, itself among them."""
    if name not in seen:
        seen.add(name)
        text = (STATIC / "assets" / name).read_text()
        for needed in re.findall(r'(?:from|import)\s*"\./([^"]+)"', text):
            assets(needed, seen)
    return seen


def weight(names):
    return sum((STATIC / "assets" / f"{name}.gz").stat().st_size for name in names)


@pytest.fixture
def shell():
    page = (STATIC / "index.html").read_text()
    script, style = (re.search(rf"/assets/({kind}-[^\"]+)", page)[1] for kind in ("app", "style"))
    return assets(script, set()) | {style}


def test_the_first_paint_is_small(shell):
    page = gzip.compress((STATIC / "index.html").read_bytes())
    assert len(page) + weight(shell) <= SHELL_BYTES


def test_the_terminal_is_no_larger_than_it_must_be(shell):
    (screen,) = (STATIC / "assets").glob("screen-*.js")
    assert weight(assets(screen.name, set()) - shell) <= TERMINAL_BYTES


def test_no_page_brings_what_another_needs(shell):
    """xterm and uPlot, the heavy ones, are chunks of their own."""
    for page in (STATIC / "assets").glob("*.js"):
        if not page.name.startswith(("screen-", "graph-")):
            text = page.read_text()
            assert "xterm-helper" not in text, page.name
            assert "uplot" not in text.lower() or page.stat().st_size < 60_000, page.name
