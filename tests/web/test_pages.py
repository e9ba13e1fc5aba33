"""The page of the dashboard, and what it loads, as the hub serves them."""

import gzip
import re

import pytest

from cmdop_appliance.web import pages
from tests.support.site import open_site

PAGE = (
    '<!doctype html><meta name="csp-nonce" nonce="{{nonce}}"><script src="/assets/a.js"></script>'
    '<meta name="cookie" content="{{cookie}}">'
)
SCRIPT = b"console.log(1)\n" * 100
ADDRESSES = [path.replace("<id>", "<b>") for path in pages.PAGES]  # an id may be any text


@pytest.fixture
async def get(tmp_path, monkeypatch):
    """What gets a path of a hub whose dashboard is in tmp_path/static."""
    monkeypatch.setattr(pages, "_STATIC", tmp_path / "static")
    async with open_site(tmp_path) as site:
        yield site.get


@pytest.fixture
def assets(tmp_path):
    """Where the parts of a built dashboard are."""
    folder = tmp_path / "static/assets"
    folder.mkdir(parents=True)
    (folder.parent / "index.html").write_text(PAGE)
    for name in ("app-ABCD2345.js", "licenses.txt", "icon.svg"):
        (folder / name).write_bytes(SCRIPT)
        (folder / f"{name}.gz").write_bytes(gzip.compress(SCRIPT))
    (folder / "font-ABCD2345.woff2").write_bytes(b"packed already")
    (folder / "page.html").write_text("no part of it")
    return folder


def rules_of(answer):
    """The Content-Security-Policy: what may come from where."""
    text = answer.headers["content-security-policy"]
    return dict(rule.strip().partition(" ")[::2] for rule in text.split(";"))


@pytest.mark.usefixtures("assets")
async def test_every_address_of_the_dashboard_gets_the_page_with_a_nonce_of_its_own(get):
    nonces = set()
    for address in ADDRESSES:
        answer = await get(address)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert answer.headers["cache-control"] == "no-store"
        (nonce,) = re.findall("'nonce-(.{22})'", rules_of(answer)["style-src"])
        page = PAGE.replace("{{nonce}}", nonce).replace("{{cookie}}", "no")
        assert answer.body == page.encode()
        nonces.add(nonce)
    assert len(nonces) == len(ADDRESSES)


@pytest.mark.usefixtures("assets")
@pytest.mark.parametrize("name", ["cmdop", "__Host-cmdop"])
async def test_the_page_knows_that_its_browser_has_a_cookie_and_not_which(get, name):
    answer = await get("/", Cookie=f"other=1; {name}=secret")
    assert b'name="cookie" content="yes"' in answer.body
    assert b"secret" not in answer.body


@pytest.mark.usefixtures("assets")
async def test_the_page_loads_and_runs_what_the_hub_serves_and_nothing_else(get):
    answer = await get("/")
    rules = rules_of(answer)
    assert re.fullmatch(r"'self' 'nonce-[\w-]{22}'", rules.pop("style-src"))
    assert rules == {
        "default-src": "'none'",
        "script-src": "'self'",
        "img-src": "'self' data: blob:",
        "font-src": "'self'",
        "connect-src": "'self'",
        "manifest-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert "microphone=()" in answer.headers["permissions-policy"]


async def test_without_a_dashboard_the_page_says_how_to_build_it_and_how_to_go_on(get):
    for address in ("/", "/commands/cmd_1"):
        answer = await get(address)
        text = answer.body.decode()
        assert answer.status == 200
        assert "scripts/build-web" in text
        assert "cmdop machines ls" in text
        assert "<script" not in text
    assert (await get("/assets/app-ABCD2345.js")).status == 404


@pytest.mark.usefixtures("assets")
async def test_a_part_comes_packed_to_those_who_take_that(get):
    path, tags = "/assets/app-ABCD2345.js", set()
    for takes, encoding in (
        ("gzip, deflate, br, zstd", "gzip"),
        ("gzip;q=0, br", None),
        ("", None),
    ):
        answer = await get(path, Accept_Encoding=takes)
        assert answer.headers.get("content-encoding") == encoding
        assert answer.headers["vary"] == "Accept-Encoding"
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        content = answer.body
        assert (gzip.decompress(content) if encoding else content) == SCRIPT
        tags.add(answer.headers["etag"])
        again = await get(path, Accept_Encoding=takes, If_None_Match=answer.headers["etag"])
        assert (again.status, again.body) == (304, b"")
    assert len(tags) == 2  # these are two things, for caches on the way
    font = await get("/assets/font-ABCD2345.woff2", Accept_Encoding="gzip")
    assert font.body == b"packed already"
    assert "content-encoding" not in font.headers


@pytest.mark.usefixtures("assets")
async def test_only_what_is_named_by_its_content_is_kept_for_ever(get):
    for name, caching in {
        "app-ABCD2345.js": "public, max-age=31536000, immutable",
        "font-ABCD2345.woff2": "public, max-age=31536000, immutable",
        "licenses.txt": "no-cache",
        "icon.svg": "no-cache",
    }.items():
        answer = await get(f"/assets/{name}")
        assert answer.headers["cache-control"] == caching
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.usefixtures("assets")
async def test_nothing_else_is_served(get):
    for name in (
        *("app-ABCD2345.js.gz", "page.html", "..", "../index.html", "..%2findex.html", "", ".js"),
        *("%00.js", "%2e%2e%5cindex.html", "no-such.js", "a" * 5000 + ".js", "app-ABCD2345.js/"),
    ):
        answer = await get(f"/assets/{name}")
        assert (answer.status, answer.error["code"]) == (404, "not_found"), name
    for path in ("/index.html", "/machines", "/machines/a/b", "/sign-in/", "/x"):
        assert (await get(path)).status == 404, path


@pytest.mark.usefixtures("assets")
async def test_a_credential_in_the_address_of_a_page_is_refused(get):
    for path in ("/", "/sign-in", "/assets/icon.svg", "/help"):
        answer = await get(f"{path}?token=canary")
        assert answer.status == 400
        assert "canary" not in answer.body.decode()
