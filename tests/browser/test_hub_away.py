"""While the hub is away the page says so, and it goes on behind what it saw last."""

import pytest

from tests.support.dashboard import needs_dashboard

pytestmark = [pytest.mark.slow, needs_dashboard]


def test_the_page_tells_that_the_hub_is_away_and_catches_up(hub, agent, visitor):
    page, visitor.expects_trouble = visitor.page, True
    visitor.open("/commands")
    hub.kill()
    banner = page.get_by_text("The hub is away since")
    banner.wait_for()
    hub.start()
    agent.wait_connected(hub)
    hub.api.run(agent.machine_id, "echo while-you-were-away")
    banner.wait_for(state="detached")
    page.get_by_text("echo while-you-were-away").first.wait_for()


def test_a_revoked_key_signs_its_browsers_out(hub, agent, visitor):
    made = hub.api.post("/api-keys", name="short", scopes=["machines:read"])
    page, visitor.expects_trouble = visitor.page, True
    visitor.forget()
    page.goto(f"{visitor.url}/")
    page.get_by_label("Or an API key").fill(made["key"])
    visitor.button("Sign in").click()
    page.get_by_role("link", name="target").first.wait_for()
    visitor.open("/commands?status=failed")
    page.evaluate("window.before = true")
    hub.api.delete(f"/api-keys/{made['id']}")
    page.get_by_role("heading", name="Sign in").wait_for()
    assert not page.evaluate("window.before")  # nothing is left for who comes next
    assert page.url.endswith("/commands?status=failed")


@pytest.mark.long
def test_every_page_opens_while_the_hub_is_away(hub, agent, visitor):
    page, visitor.expects_trouble = visitor.page, True
    visitor.open("/")  # and the others come as soon as there is nothing else to do
    hub.kill()
    page.get_by_text("The hub is away since").wait_for()
    page.get_by_role("link", name="Settings").click()
    page.get_by_role("heading", name="This browser").wait_for()
    hub.start()


@pytest.mark.long
def test_a_page_that_did_not_come_comes_when_the_hub_is_back(hub, agent, visitor):
    page, visitor.expects_trouble = visitor.page, True
    visitor.open("/")
    page.route("**/assets/commands-*.js", lambda route: route.abort())
    page.goto(f"{visitor.url}/commands")
    page.get_by_text("This part of the page did not load.").wait_for()
    page.unroute("**/assets/commands-*.js")
    hub.kill()
    page.get_by_text("The hub is away since").wait_for()
    hub.start()
    page.get_by_role("heading", name="Commands").wait_for()
