"""What a person asks for once happens once: through double clicks, lost answers and restarts."""

import hashlib
import os

import pytest

from tests.support.appliance import wait_for
from tests.support.dashboard import needs_dashboard

pytestmark = [pytest.mark.slow, pytest.mark.long, needs_dashboard]

# Several parts, so that a hub can die between two of them.
SIZE = 20_000_000
FULL = {"error": {"code": "storage_full", "message": "no room"}}


def test_an_upload_goes_on_behind_a_restart_of_the_hub_and_a_full_disk(
    place, hub, agent, visitor, tmp_path
):
    page, visitor.expects_trouble = visitor.page, True
    source, folder = tmp_path / "big.bin", place / "uploaded"
    source.write_bytes(os.urandom(SIZE))
    folder.mkdir()
    visitor.open(f"/files?machine={agent.machine_id}&path={folder}")
    uploads = "**/files/upload?*"
    page.route(uploads, lambda route: route.fulfill(status=507, json=FULL), times=1)
    page.locator("input[type=file]").set_input_files(source)
    with page.expect_response(lambda answer: answer.request.method == "PUT" and answer.ok):
        visitor.button("Go on").click()
    hub.kill()
    assert not (folder / source.name).exists()
    hub.start()
    agent.wait_connected(hub)
    wait_for((folder / source.name).exists, "the upload is in place")
    page.get_by_label("Uploads").wait_for(state="detached")
    with (folder / source.name).open("rb") as arrived:
        found = hashlib.file_digest(arrived, "sha256")
    assert found.digest() == hashlib.sha256(source.read_bytes()).digest()


def test_a_double_click_runs_a_schedule_once(hub, agent, visitor):
    schedule = hub.api.post(
        "/schedules", name="once", machine_id=agent.machine_id, command="true", cron="0 3 * * *"
    )["id"]
    asked = []
    visitor.page.on("request", lambda each: each.method == "POST" and asked.append(each.url))
    visitor.open(f"/schedules/{schedule}")
    visitor.button("Run now").dblclick()
    visitor.page.wait_for_url("**/commands/*")
    visitor.rest()
    assert [url for url in asked if url.endswith("/run")] == [
        f"{visitor.url}/api/v1/schedules/{schedule}/run"
    ]


def test_a_run_whose_answer_was_lost_is_settled_first_and_run_again_as_it_was(
    place, hub, agent, visitor
):
    page, visitor.expects_trouble = visitor.page, True
    command = f"pwd >> {place}/ran; exit 3"

    def lose(route):
        route.fetch()
        route.abort("connectionreset")

    visitor.open(f"/run?machines={agent.machine_id}")
    page.get_by_role("textbox", name="Command").fill(command)
    page.get_by_text("Options", exact=True).click()
    directory = page.get_by_label("Directory")
    directory.fill("/usr")
    page.route("**/commands/batch?*", lose, times=1)
    visitor.button("Run on 1 machine").click()
    page.get_by_text("The hub does not answer.").wait_for()
    directory.fill("/etc")
    visitor.button("Run on 1 machine").click()
    visitor.button("Send it again").click()
    again = visitor.button("Run again on the 1 that failed")
    again.click()
    wait_for(lambda: len(of_batches(hub, command)) == 2, "it runs again")
    visitor.rest()
    assert [each["cwd"] for each in of_batches(hub, command)] == ["/usr", "/usr"]


def of_batches(hub, command):
    return [each for each in hub.api.get("/commands") if each["command"] == command]
