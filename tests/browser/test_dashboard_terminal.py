"""A terminal in the browser: typed into, left, come back to, watched by a second person."""

import pytest

from tests.browser.visitor import visiting
from tests.support.dashboard import needs_dashboard

pytestmark = [pytest.mark.slow, needs_dashboard]


@pytest.fixture
def terminal(hub, agent):
    opened = hub.api.post(f"/machines/{agent.machine_id}/terminals", argv=["sh"])
    yield opened["id"]
    hub.api.call("DELETE", f"/terminals/{opened['id']}")


def screen(visitor, terminal):
    visitor.open(f"/terminals/{terminal}")
    rows = visitor.page.locator(".xterm-rows")
    rows.wait_for()
    return rows


def shows(rows, text):
    rows.get_by_text(text).first.wait_for()


def test_what_is_typed_runs_and_is_there_after_a_reload(visitor, terminal):
    rows = screen(visitor, terminal)
    visitor.page.keyboard.type("echo so-$((6 * 7))-héllo\n")
    shows(rows, "so-42-héllo")
    visitor.page.reload()
    shows(visitor.page.locator(".xterm-rows"), "so-42-héllo")


def test_the_colours_of_the_screen_pass_the_policy(visitor, terminal):
    rows = screen(visitor, terminal)
    visitor.page.keyboard.type("printf '\\033[31mr%s\\033[0m\\n' ed\n")
    red = rows.get_by_text("red", exact=True).first
    red.wait_for()
    assert red.evaluate("(element) => getComputedStyle(element).color") == "rgb(204, 0, 0)"


def test_a_second_person_looks_on_and_both_know(browser, hub, visitor, terminal):
    rows = screen(visitor, terminal)
    with visiting(browser, hub) as other:
        theirs = screen(other, terminal)
        visitor.page.get_by_text("2 watching").wait_for()
        other.button("Only look").click()
        other.page.get_by_text("you only look").wait_for()
        other.page.keyboard.type("echo from-the-second\n")
        visitor.page.locator(".xterm-helper-textarea").focus()
        visitor.page.keyboard.type("echo from-the-first\n")
        shows(theirs, "from-the-first")
        assert "from-the-second" not in rows.inner_text()


def test_a_screen_outlives_its_hub(browser, place, agent, hub, visitor, terminal):
    visitor.expects_trouble = True
    rows = screen(visitor, terminal)
    visitor.page.keyboard.type("echo before\n")
    shows(rows, "before")
    hub.stop()
    visitor.page.get_by_text("The hub is away").first.wait_for()
    visitor.page.keyboard.type("echo typed-while-away\n")
    hub.start()
    agent.wait_connected(hub)
    shows(rows, "typed-while-away")
    assert rows.inner_text().count("echo typed-while-away") == 1
    assert visitor.page.locator(".terminal [role=alert]").all_inner_texts() == []


def test_many_pasted_lines_are_asked_about(visitor, terminal):
    screen(visitor, terminal)
    paste = """(text) => {
      const data = new DataTransfer();
      data.setData("text", text);
      const area = document.querySelector(".xterm-helper-textarea");
      area.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
    }"""
    visitor.page.evaluate(paste, "echo one\necho two\n")
    visitor.page.get_by_role("dialog").get_by_text("echo two").wait_for()
    visitor.button("Cancel").click()
