"""A person in a browser: Debian's Chromium, driven by Playwright, who forgives a page nothing."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, sync_playwright

from tests.support.appliance import Hub
from tests.support.dashboard import UI

CHROMIUM = shutil.which("chromium")

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}
_FLAGS = (  # of the last ones: its own errands, which it cannot run here
    "--no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-quic"
    " --disable-background-networking --disable-component-update --disable-sync"
)
_PATIENCE_MS = 30_000
_AXE = UI / "node_modules" / "axe-core" / "axe.min.js"
# What axe calls graver than an inconvenience.
_GRAVE = ("serious", "critical")
# While a hub is away, and of what is refused, browsers write this themselves.
_OF_THE_BROWSER = "Failed to load resource", "WebSocket connection to"


@dataclass
class Visitor:
    """One browser window, and what went wrong in it."""

    hub: Hub
    page: Page
    complaints: list[str] = field(default_factory=list)
    expects_trouble: bool = False  # the hub will be away, or refuse something

    @property
    def url(self) -> str:
        return self.hub.api.url

    def listen(self) -> None:
        """Hear from now on what goes wrong."""
        self.page.on("console", lambda said: self._hear(said.type, said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", self._look)
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))

    def _hear(self, kind: str, text: str) -> None:
        is_trouble = text.startswith(_OF_THE_BROWSER) and self.expects_trouble
        if kind in ("error", "warning") and not is_trouble:
            self.complaints.append(f"{kind}: {text}")

    def _look(self, request: Request) -> None:
        own = (self.url + "/", f"blob:{self.url}/", "data:")
        if not request.url.startswith(own):
            self.complaints.append(f"asked elsewhere: {request.url}")

    def sign_in(self) -> None:
        """By a link, as `cmdop dashboard` prints it."""
        link = self.hub.api.post("/sign-in-links")["token"]
        self.page.goto(f"{self.url}/sign-in#{link}")
        self.page.get_by_role("navigation", name="Pages").wait_for()

    def forget(self) -> None:
        """Leave the hub, and have no cookie of it any more.

        In this order: a page that finds its sign-in gone goes elsewhere by itself.
        """
        self.page.goto("about:blank")
        self.page.context.clear_cookies()

    def open(self, path: str) -> None:
        """Go to a page of the dashboard, and wait until it is at rest."""
        self.page.goto(self.url + path)
        self.page.locator("main h1").first.wait_for()
        self.rest()

    def rest(self) -> None:
        """Wait until nothing is being fetched and every part of the page is there."""
        self.page.wait_for_load_state("networkidle")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def judge(self) -> None:
        """Pass if axe finds nothing grave here, and nothing lies beside the screen."""
        if not self.page.evaluate("typeof axe === 'object'"):
            # By the debugger: a script element would need Trusted Types.
            self.page.evaluate(_AXE.read_text())
        found: list[dict[str, Any]] = self.page.evaluate(
            "axe.run(document, {resultTypes: ['violations']}).then(({violations}) => violations)"
        )
        grave = [
            f"{rule['id']}: {node['html'][:200]}: {node['failureSummary']}"
            for rule in found
            if rule["impact"] in _GRAVE
            for node in rule["nodes"]
        ]
        assert not grave, f"{self.page.url}\n" + "\n".join(grave)
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{self.page.url} is {wide} px wider than the screen"

    def shoot(self, folder: Path, name: str) -> None:
        """Keep a picture, to be looked at."""
        folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=folder / f"{name}.png")

    def require_nothing_wrong(self) -> None:
        assert not self.complaints, "\n".join(self.complaints)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; whoever has none skips what needs it, but CI."""
    if CHROMIUM is None and "CI" not in os.environ:
        pytest.skip("no chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS.split())
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(browser: Browser, hub: Hub, **options: Any) -> Iterator[Visitor]:
    """Somebody who is signed in; `options`: of Playwright's `new_context`."""
    context: BrowserContext = browser.new_context(**{"viewport": DESKTOP, **options})
    context.set_default_timeout(_PATIENCE_MS)
    try:
        visitor = Visitor(hub, context.new_page())
        visitor.listen()
        visitor.sign_in()
        yield visitor
        visitor.require_nothing_wrong()
    finally:
        context.close()
