"""docs/ as the hub serves them."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from cmdop_appliance.web import help as documents
from tests.support.site import open_site

DOCS = Path(__file__).parents[2] / "docs"
NAMES = {path.stem for path in DOCS.glob("*.md")} - {"README"}
PATHS = ["/help", "/help/changelog", *(f"/help/{name}" for name in NAMES)]


class Page(HTMLParser):
    """What a page has that matters here."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.anchors, self.links, self.bad = set(), set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.bad |= {name for name, _ in attrs if name.startswith("on") or name == "style"}
        given = dict(attrs)
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a":
            self.links.add(unquote(given["href"]))


@pytest.fixture
async def get(tmp_path):
    async with open_site(tmp_path) as site:
        yield site.get


@pytest.fixture
def page():
    """The parts of a document's page."""
    return lambda text: Page(documents._render(text).content)


async def test_every_document_is_a_page_that_leads_to_all_others_and_runs_nothing(get):
    found = {}
    for path in PATHS:
        answer = await get(path)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        rules = answer.headers["content-security-policy"]
        assert rules.startswith("default-src 'none'; ")
        assert "script-src" not in rules
        found[path] = Page(answer.body.decode())
        assert set(PATHS) <= found[path].links
        assert "script" not in found[path].tags
        assert not found[path].bad
    for path, shown in found.items():
        for link in shown.links:
            target, _, anchor = link.partition("#")
            if link.startswith(("https://", "http://")) or target in ("/", "/docs"):
                continue
            there = found.get(target or path)
            assert there is not None, f"{path} leads to {link}, which is no page"
            assert not anchor or anchor in there.anchors, f"{path} leads to {link}"


async def test_the_style_is_the_one_that_the_page_allows(get):
    answer = await get("/help")
    (style,) = re.findall("<style>(.*?)</style>", answer.body.decode(), re.DOTALL)
    assert style == documents._STYLE


async def test_a_page_that_is_known_is_not_sent_again(get):
    answer = await get("/help/files")
    again = await get("/help/files", If_None_Match=answer.headers["etag"])
    assert (again.status, again.body) == (304, b"")


async def test_nothing_else_is_served(get):
    for name in ("x", "README", "..", "openapi.json", "%2e%2e%5cREADME", ""):
        assert (await get(f"/help/{name}")).status == 404, name


def test_links_between_documents_lead_to_their_pages(page):
    text = (
        "# A\n[1](docs/files.md) [2](webhooks.md#your-own-network) [3](README.md)"
        " [4](../CHANGELOG.md) [5](https://ntfy.sh/a.md) [6](#a)"
    )
    assert page(text).links == {
        *("/help/files", "/help/webhooks#your-own-network", "/help", "/help/changelog"),
        *("https://ntfy.sh/a.md", "#a"),
    }


def test_headings_have_the_anchors_that_they_have_elsewhere(page):
    shown = page("# What `cmdop`'s *hub* is\n## Ends\n## Ends\n")
    assert shown.anchors == {"what-cmdops-hub-is", "ends", "ends-1"}


def test_markup_in_a_document_is_text(page):
    shown = page("# A <script>\n<img src=x onerror=alert(1)>\n[a](javascript:alert(1))\n")
    assert shown.tags <= {"h1", "p"}
    assert documents._render("# <b>").title == "<b>"
