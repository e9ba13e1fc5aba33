"""The first minute: sign in by the banner's link, see the machine, run a command, like it."""

import re

import pytest

from cmdop_appliance.joining import SERVICE_PAGE
from tests.browser.visitor import visiting
from tests.support.appliance import running_agent, running_hub, stopped_agent
from tests.support.dashboard import needs_dashboard

pytestmark = [pytest.mark.slow, needs_dashboard]


def test_the_link_of_the_banner_signs_in_once_and_the_first_command_runs(browser, tmp_path):
    with running_hub(tmp_path) as hub, running_agent(hub, tmp_path, "nas"):
        link = re.search(r"http://\S+/sign-in#\S+", hub.out.read_text())
        assert link is not None
        with visiting(browser, hub) as visitor:
            page, visitor.expects_trouble = visitor.page, True
            visitor.forget()
            page.goto(link[0])
            page.get_by_role("link", name="nas", exact=True).first.wait_for()
            assert "cmdop_link" not in page.url

            visitor.open("/run")
            page.get_by_role("textbox", name="Command").fill("echo it-$((6 * 7)); exit 3")
            page.get_by_role("button", name=re.compile("^Run")).first.click()
            page.get_by_text("it-42").first.wait_for()

            visitor.forget()
            page.goto(link[0])
            page.get_by_role("alert").first.wait_for()  # it was good once


def test_a_machine_that_joins_is_seen_at_once(browser, tmp_path):
    with running_hub(tmp_path) as hub, visiting(browser, hub) as visitor:
        page = visitor.page
        visitor.open("/")
        line = page.get_by_text(re.compile("cmdop_enroll_")).first
        token = re.search(r"cmdop_enroll_[\w-]+", line.inner_text())
        assert token is not None
        with stopped_agent(tmp_path, "attic") as agent:
            agent.join(hub, token[0])
            page.get_by_role("dialog").get_by_text("attic has joined").wait_for()
            keeping = page.get_by_role("link", name="how to keep it").get_attribute("href")
            assert keeping == SERVICE_PAGE


def test_whoever_is_not_signed_in_sees_nothing_but_how_to(browser, hub):
    with visiting(browser, hub) as visitor:
        page, visitor.expects_trouble = visitor.page, True
        visitor.forget()
        page.goto(f"{visitor.url}/machines/mach_1")
        page.get_by_role("heading", name="Sign in").wait_for()
        visitor.judge()
        page.get_by_label("Or an API key").fill("cmdop_apikey_wrong")
        visitor.button("Sign in").click()
        page.get_by_role("alert").get_by_text("Is it whole?").wait_for()
        page.get_by_label("Or an API key").fill(hub.api.key)
        visitor.button("Sign in").click()
        page.get_by_role("navigation", name="Pages").wait_for()
        assert page.url.endswith("/machines/mach_1")  # where they wanted to go


def test_whoever_signs_out_is_out(visitor):
    visitor.expects_trouble = True
    visitor.open("/settings")
    visitor.page.evaluate("window.before = true")
    visitor.button("Sign out").first.click()
    visitor.page.get_by_role("heading", name="Sign in").wait_for()
    assert not visitor.page.evaluate("window.before")  # nothing is left for who comes next
    answer = visitor.page.request.get(f"{visitor.url}/api/v1/auth/me")
    assert answer.status == 401


def test_a_link_of_somebody_else_signs_nobody_in_anew_unasked(hub, visitor):
    page = visitor.page
    link = hub.new_key("machines:read").post("/sign-in-links")["token"]
    page.goto("about:blank")
    page.goto(f"{visitor.url}/sign-in#{link}")
    page.get_by_role("heading", name="You are signed in").wait_for()
    visitor.judge()
    who = f"{visitor.url}/api/v1/auth/me"
    assert page.request.get(who).json()["data"]["name"] == "admin"
    visitor.button("Sign in by the link").click()
    page.get_by_role("navigation", name="Pages").wait_for()
    assert page.request.get(who).json()["data"]["name"] == "machines.read"
