"""The first page with 1,000 machines and 100 samples a second, beside a page that does nothing."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Page, sync_playwright

from tests.support.appliance import Hub, running_hub
from tests.support.pretender import pretending_machines

MACHINES: Final = 1000
SAMPLE_S: Final = 10.0  # of each machine: 100 a second of all
LOOK_S: Final = 15.0
_CONFIG: Final = "[sessions]\nsilent_ms = 300000\n"  # a busy machine must not part them
_PATIENCE_MS: Final = 120_000  # of a machine that does much else
LONG_MS: Final = 50  # what a browser calls a long task, and people notice
_SIZE: Final = {"width": 1280, "height": 800}
_CHROMIUM: Final = "/usr/bin/chromium"
_FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
)
# Before any script of a page: long tasks since it began, and the time between frames.
_WATCH: Final = """
window.bench = { tasks: [], frames: [] };
const note = (found) => bench.tasks.push(...found.getEntries().map((task) => task.duration));
new PerformanceObserver(note).observe({ type: "longtask", buffered: true });
let last = 0;
const frame = (at) => {
  if (last) bench.frames.push(at - last);
  last = at;
  requestAnimationFrame(frame);
};
requestAnimationFrame(frame);
"""

Report = Callable[..., None]
Percentile = Callable[[list[float], float], float]


def run(report: Report, percentile: Percentile) -> None:
    """Frames and long tasks of the page as it opens, as it is looked at, scrolled, and ordered."""
    with (
        tempfile.TemporaryDirectory(prefix="cmdop-bench-") as name,
        running_hub(Path(name), config=_CONFIG) as hub,
    ):
        with pretending_machines(hub, MACHINES, SAMPLE_S), _browser(hub) as page:
            _look(hub, page, partial(_show, report, percentile))
        hub.kill()  # how it parts from a thousand machines is no matter here


def _look(hub: Hub, page: Page, show: Callable[[str, dict[str, Any], str], None]) -> None:
    def look(label: str, target: str = "", act: Callable[[], None] = lambda: None) -> None:
        give_up = time.monotonic() + LOOK_S
        while time.monotonic() < give_up:
            act()
            page.wait_for_timeout(100)
        show(label, page.evaluate("bench"), target)
        page.evaluate("bench.tasks = []; bench.frames = []")

    def open_page(query: str) -> None:
        page.goto(f"{hub.api.url}/{query}")
        page.get_by_text("machines, ").wait_for(timeout=_PATIENCE_MS)

    page.goto(f"{hub.api.url}/help")
    look("a page at rest")
    open_page("")
    limit = f"none > {LONG_MS} ms"
    look(f"{MACHINES:,} machines, from opening them")
    look("  looked at", limit)
    look("  scrolled", limit, lambda: page.mouse.wheel(0, 700))
    open_page("?sort=-cpu")
    look("  ordered by CPU, from opening them")
    look("  ordered by CPU", limit)


@contextmanager
def _browser(hub: Hub) -> Iterator[Page]:
    """A page of a browser that is signed in."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=list(_FLAGS))
        context = browser.new_context(viewport=_SIZE)
        signed_in = context.request.post(
            f"{hub.api.url}/api/v1/sign-ins",
            data=json.dumps({"key": hub.api.key}),
            headers={"Content-Type": "application/json", "Origin": hub.api.url},
        )
        if not signed_in.ok:
            raise SystemExit(f"bench: the browser is not signed in: {signed_in.text()}")
        context.add_init_script(_WATCH)
        yield context.new_page()
        browser.close()


def _show(
    report: Report, percentile: Percentile, label: str, seen: dict[str, Any], target: str
) -> None:
    frames = [frame / 1000 for frame in seen["frames"]]
    p99 = f"frames p99 {percentile(frames, 0.99):.0f} ms"
    tasks = seen["tasks"]
    long = f"{len(tasks)} long tasks"
    if tasks:
        long += f", {max(tasks):.0f} ms"
    report(label, p99, long, target)
