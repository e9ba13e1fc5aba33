"""Webhooks with a real hub, agent and receivers, and a clock that the test turns."""

import pytest

from tests.support.appliance import wait_for
from tests.support.quick_hub import quick_hub
from tests.support.webhook_receiver import ALLOWED, running_receiver

RETRY_MS = 7000  # the first retry comes after 5 s, 20 % more or less


@pytest.fixture(scope="module")
def hub(place, clock):
    with quick_hub(place, clock, ALLOWED) as hub:
        yield hub


@pytest.fixture
def subscribe(hub):
    """Makes webhooks; they are gone with the test."""
    made = []

    def make(receiver, path, *events):
        webhook = hub.api.post("/webhooks", url=receiver.url + path, events=events)
        made.append(webhook["id"])
        receiver.expect(path, webhook["secret"])
        return f"/webhooks/{webhook['id']}/deliveries"

    yield make
    for webhook_id in made:
        hub.api.delete(f"/webhooks/{webhook_id}")


def test_what_happens_to_a_command_is_told_in_order_and_signed(hub, agent, clock, subscribe):
    with running_receiver(now_ms=clock.now_ms) as receiver:
        deliveries = subscribe(receiver, "/x", "command.started", "command.failed")
        command = hub.api.run(agent.machine_id, "exit 7")
        started, failed = receiver.wait_for("/x", 2)
        assert [started.event["type"], failed.event["type"]] == [
            "command.started",
            "command.failed",
        ]
        told = failed.event["data"]
        assert (told["command_id"], told["exit_code"]) == (command["id"], 7)
        assert [started.event["seq"], failed.event["seq"]] == [1, 2]

        def statuses():
            return [delivery["status"] for delivery in hub.api.get(deliveries)]

        wait_for(lambda: statuses() == ["delivered", "delivered"], "both are recorded")


def test_what_was_refused_comes_again_from_a_hub_that_was_killed(hub, agent, clock, subscribe):
    def reply(path, event_id, tries):
        return 200 if tries else 500

    with running_receiver(reply, clock.now_ms) as receiver:
        deliveries = subscribe(receiver, "/x", "command.completed")
        hub.api.run(agent.machine_id, "true")
        wait_for(lambda: hub.api.get(deliveries)[0]["attempts"], "the first attempt is recorded")
        hub.kill()
        clock.skip(RETRY_MS)
        hub.start(config=ALLOWED)
        refused, taken = receiver.wait_for("/x", 2)
        assert (refused.event["id"], refused.body) == (taken.event["id"], taken.body)
        wait_for(lambda: hub.api.get(deliveries)[0]["status"] == "delivered", "it is recorded")
        (delivery,) = hub.api.get(deliveries)
        statuses = [attempt["response_status"] for attempt in delivery["attempts"]]
        assert statuses == [200, 500]
        agent.wait_connected(hub)


def test_a_receiver_that_hangs_holds_up_nobody_else(hub, agent, clock, subscribe):
    def reply(path, event_id, tries):
        return "hang" if path == "/tarpit" else 200

    with running_receiver(reply, clock.now_ms) as receiver:
        hung = subscribe(receiver, "/tarpit", "*")
        subscribe(receiver, "/good", "command.completed")
        for _ in range(10):  # more than there are places for one receiver
            hub.api.run(agent.machine_id, "true")
        receiver.wait_for("/good", 10)
        wait_for(lambda: receiver.hanging == 8, "its places are taken")
        assert {each["status"] for each in hub.api.get(hung)} == {"pending"}
