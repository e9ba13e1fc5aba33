"""Every page, on a desk and on a phone, by day and by night: nothing is broken, for anybody."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser.visitor import DESKTOP, PHONE, visiting
from tests.support.appliance import add_coding_agent, running_agent
from tests.support.dashboard import needs_dashboard

pytestmark = [pytest.mark.slow, needs_dashboard]

# Where pictures of all pages are kept, for a person to look at; default: nowhere.
_PICTURES = os.environ.get("CMDOP_TEST_PICTURES")
_OUTPUT = "for i in 1 2 3; do echo line $i; done; printf '\\033[31mred\\033[0m\\n'; echo wrong >&2"


@dataclass(frozen=True)
class World:
    """Ids of one of each, for the pages that show one."""

    machine: str
    command: str
    terminal: str
    schedule: str
    webhook: str


@pytest.fixture(scope="module")
def world(hub, place):
    """A hub on which something of everything happens."""
    add_coding_agent(place, "codex", "printf 'what next? '; cat")
    with running_agent(hub, place, "nas") as agent:
        api, machine = hub.api, agent.machine_id
        api.call("PATCH", f"/machines/{machine}", {"tags": ["web", "attic"]})
        command = api.run(machine, _OUTPUT)["id"]
        api.run(machine, "exit 4")
        terminal = api.post(f"/machines/{machine}/terminals", name="main", argv=["sh"])["id"]
        directory = place / "project"
        api.call(
            "POST",
            f"/api/machines/{machine}/spawn",
            {"directory": str(directory), "agent": "codex"},
        )
        schedule = api.post(
            "/schedules", name="backup", machine_id=machine, command="true", cron="0 3 * * *"
        )["id"]
        api.post(f"/schedules/{schedule}/run")
        webhook = api.post(
            "/webhooks", url="https://hooks.example.com/x", events=["schedule.failed"]
        )["id"]
        api.post(f"/webhooks/{webhook}/test")
        yield World(machine, command, terminal, schedule, webhook)
        api.delete(f"/terminals/{terminal}")


def paths(world):
    """Every page, and every dialog that has an address."""
    return {
        "machines": "/",
        "machine": f"/machines/{world.machine}",
        "add": "/?add=1",
        "run": "/run?tags=web&command=uptime",
        "commands": "/commands",
        "command": f"/commands/{world.command}",
        "terminals": "/terminals",
        "new-terminal": "/terminals?new=1",
        "terminal": f"/terminals/{world.terminal}",
        "coding": "/coding",
        "new-coding": "/coding?new=1",
        "files": f"/files?machine={world.machine}&path=/etc",
        "schedules": "/schedules",
        "new-schedule": "/schedules?new=1",
        "schedule": f"/schedules/{world.schedule}",
        "webhooks": "/webhooks",
        "new-webhook": "/webhooks?new=1",
        "webhook": f"/webhooks/{world.webhook}",
        "keys": "/keys",
        "new-key": "/keys?new=1",
        "audit": "/audit",
        "settings": "/settings",
    }


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_no_page_complains_or_shuts_anybody_out_by_day_or_by_night(browser, hub, world, size):
    touch = size is PHONE
    with visiting(browser, hub, viewport=size, has_touch=touch, is_mobile=touch) as visitor:
        for name, path in paths(world).items():
            visitor.open(path)
            for scheme in ("light", "dark"):
                visitor.page.emulate_media(color_scheme=scheme)
                if _PICTURES:
                    visitor.shoot(Path(_PICTURES), f"{name}-{size['width']}-{scheme}")
                visitor.judge()
            visitor.page.emulate_media(color_scheme="light")
            visitor.require_nothing_wrong()


def test_every_page_of_the_hub_is_one_of_the_dashboard_and_the_other_way_round(browser, hub, world):
    with visiting(browser, hub) as visitor:
        for path in paths(world).values():
            assert visitor.page.request.get(visitor.url + path.partition("?")[0]).status == 200
        assert visitor.page.request.get(f"{visitor.url}/nowhere").status == 404


def test_everything_is_reached_by_keys(visitor, world):
    page = visitor.page
    visitor.open("/")
    page.keyboard.press("Control+k")
    page.get_by_role("combobox", name="Machine, page or action").fill("nas")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/machines/{world.machine}")
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keys").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("s")
    page.wait_for_url("**/schedules")
    page.get_by_role("link", name="backup").wait_for()


def test_a_theme_that_was_chosen_is_kept(visitor):
    visitor.open("/settings")
    visitor.page.get_by_label("Dark").check()
    visitor.page.reload()
    visitor.page.get_by_label("Dark").wait_for()
    assert visitor.page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert visitor.page.evaluate(
        "getComputedStyle(document.body.parentElement).backgroundColor"
    ) == ("rgb(17, 20, 24)")


def test_a_page_changes_with_the_keyboard_on_it(visitor, world):
    page = visitor.page
    visitor.open("/settings")
    page.keyboard.press("g")
    page.keyboard.press("a")
    page.get_by_role("heading", name="Audit").wait_for()
    page.wait_for_function("document.activeElement.id === 'content'")
    visitor.open(f"/run?machines={world.machine}")
    page.wait_for_function("document.activeElement.matches('textarea')")


def test_a_phone_shows_in_the_navigation_where_one_is(browser, hub, world):
    with visiting(browser, hub, viewport=PHONE, has_touch=True, is_mobile=True) as visitor:
        visitor.open("/settings")
        box = visitor.page.get_by_role("link", name="Settings").bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= PHONE["width"] - box["width"]


@pytest.mark.long
def test_a_key_without_the_scope_asks_the_hub_for_nothing(browser, hub, world):
    # Each refusal would be an entry of the audit log.
    with visiting(browser, hub) as visitor:
        link = hub.new_key("sessions:read").post("/sign-in-links")["token"]
        page = visitor.page
        visitor.forget()
        page.goto(f"{visitor.url}/sign-in#{link}")
        page.get_by_role("navigation", name="Pages").wait_for()
        refused: list[str] = []
        page.on("response", lambda got: refused.append(got.url) if got.status == 403 else None)
        for path in {path.partition("?")[0] for path in paths(world).values()}:
            visitor.open(path)
            assert page.locator("h1").count() == 1, path
        assert not refused
        visitor.open("/keys")
        page.get_by_text("which lacks admin").wait_for()


def test_the_secret_of_a_key_stays_until_it_is_saved(visitor, world):
    page = visitor.page
    visitor.open("/keys?new=1")
    page.get_by_role("textbox", name="Name").fill("kept")
    visitor.button("Make the key").click()
    secret = page.get_by_label("API key", exact=True)
    secret.wait_for()
    for _ in range(3):
        page.keyboard.press("Escape")
    assert secret.is_visible()
    visitor.button("I saved it").click()
    secret.wait_for(state="detached")
