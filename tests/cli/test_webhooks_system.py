"""`cmdop webhooks` against a hub and a receiver, all of it real."""

import json

import pytest

from tests.support.appliance import running_hub, wait_for
from tests.support.webhook_receiver import ALLOWED, running_receiver


@pytest.fixture(scope="module")
def hub(place):
    """A hub that may send to this machine."""
    with running_hub(place, config=ALLOWED) as hub:
        yield hub


@pytest.fixture
def cmdop(hub, command_line):
    """Runs `cmdop webhooks …`: (its exit code, what it printed, what it said)."""

    def run(*args, stdin=b""):
        return command_line(hub.api.url, hub.api.key, "webhooks", *args, stdin=stdin)

    return run


def test_a_receiver_is_tested_told_told_again_and_given_up(hub, agent, cmdop):
    replies = [503, 200, 200, 410, 200]
    with running_receiver(lambda *_: replies.pop(0)) as receiver:
        events = ["--events", "command.*", "-o", "json"]
        webhook = json.loads(cmdop("create", "-", *events, stdin=f"{receiver.url}/t\n".encode())[1])
        receiver.expect("/t", webhook["secret"])
        code, out, _ = cmdop("test", webhook["id"])
        assert (code, "it answered 503" in out) == (1, True)
        code, out, _ = cmdop("test", webhook["id"])
        assert (code, out.startswith("HTTP 200 (")) == (0, True)

        cmdop("edit", webhook["id"], "--events", "command.completed")
        command = hub.api.run(agent.machine_id, "true")
        told = receiver.wait_for("/t", 3)[2]
        assert told.event["type"] == "command.completed"
        assert told.event["data"]["command_id"] == command["id"]

        ask = ["deliveries", webhook["id"], "--status", "delivered", "--event", "command.completed"]
        wait_for(lambda: cmdop(*ask, "-o", "name")[1], "it is recorded")
        delivery = cmdop(*ask, "-o", "name")[1].strip()
        assert cmdop("redeliver", webhook["id"], delivery)[0] == 0
        assert receiver.wait_for("/t", 4)[3].event == told.event
        disabled = "\tdisabled: its receiver answered 410 Gone\t"
        wait_for(lambda: disabled in cmdop("ls")[1], "it is disabled")

        again = ["redeliver", webhook["id"], "--since", "1h"]
        code, _, err = cmdop(*again)
        assert (code, err.splitlines()) == (
            1,
            ["error: the webhook is disabled", f"hint: cmdop webhooks resume {webhook['id']}"],
        )
        assert cmdop("resume", webhook["id"])[0] == 0
        assert cmdop(*again)[1] == "redelivered\t1\n"
        assert receiver.wait_for("/t", 5)[4].event == told.event
        shown = ["deliveries", webhook["id"], "--event", "command.completed", "-v"]
        wait_for(lambda: "  3. " in cmdop(*shown)[1], "it is recorded")
        lines = [line.partition(" (")[0] for line in cmdop(*shown)[1].splitlines()]
        assert [line.rpartition("  ")[2] for line in lines] == [
            "delivered",
            "HTTP 200",
            f"{receiver.url}: it answered 410",
            "HTTP 200",
        ]
        assert cmdop("rm", webhook["id"])[0] == 0
        assert cmdop("ls")[1] == ""


def test_one_that_there_is_not_is_looked_for_in_the_list(cmdop):
    code, out, err = cmdop("test", "hook_1")
    hint = "add one: cmdop webhooks create URL --events A,B"
    assert (code, out, err) == (3, "", f'error: webhook "hook_1" not found\nhint: {hint}\n')


def test_where_the_hub_may_not_send_is_said_with_the_remedy(cmdop):
    code, _, err = cmdop("create", "http://192.168.1.20/", "--events", "*")
    assert (code, "add it to [webhooks] allow_networks" in err) == (1, True)
    code, _, err = cmdop("create", "http://169.254.169.254/", "--events", "*")
    assert (code, "metadata" in err) == (1, True)
