"""/webhooks: made once and shown without its secrets; what became of each delivery, and again."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from tests.api.contract_table import WEBHOOK, error_of
from tests.api.test_metrics import Scrape
from tests.api.worlds import of_tags
from tests.support.appliance import Api, Hub, running_agent, running_hub, wait_for
from tests.support.webhook_receiver import ALLOWED, Receiver, Reply, running_receiver

KEY = "whsec_" + "c2VjcmV0" * 4
TOKEN = "canary-4711"
_numbers = count()


@pytest.fixture(scope="module")
def replies() -> dict[str, Reply]:
    """What a receiver answers, by its path; else 200."""
    return {}


@pytest.fixture(scope="module")
def receiver(replies) -> Iterator[Receiver]:
    with running_receiver(lambda path, *_: replies.get(path, 200)) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def hub(place) -> Iterator[Hub]:
    with running_hub(place, config=f'{ALLOWED}[log]\nlevel = "debug"\n') as hub:
        yield hub
    assert TOKEN not in hub.log.read_text()


@pytest.fixture
def path() -> str:
    """Of a receiver of the test's own."""
    return f"/hook-{next(_numbers)}"


def made(api: Api, receiver: Receiver, path: str, *events: str, **fields):
    """A webhook at the receiver, by default for what no machine does."""
    webhook = api.post(
        "/webhooks", url=receiver.url + path, events=events or WEBHOOK["events"], **fields
    )
    receiver.expect(path, webhook["secret"])
    return webhook


def deliveries(api: Api, webhook, query: str = ""):
    return api.get(f"/webhooks/{webhook['id']}/deliveries?limit=100&{query}")


def refused(api: Api, field: str, method: str = "POST", path: str = "/webhooks", **body) -> str:
    """The reason why a body is not valid."""
    answer = api.call(method, path, (WEBHOOK if method == "POST" else {}) | body)
    details = error_of(answer, 422, "validation_failed")["details"]
    assert set(details) == {field}
    return str(details[field])


# ── made, shown, changed ─────────────────────────────────────────────────────────────────────────


def test_a_secret_is_shown_once_and_the_value_of_a_header_never(hub):
    headers = {"X-Token": TOKEN, "Authorization": TOKEN}
    webhook = hub.api.post("/webhooks", **WEBHOOK, headers=headers, description="text")
    assert webhook["secret"].startswith("whsec_")
    assert webhook["header_names"] == ["Authorization", "X-Token"]
    assert (webhook["enabled"], webhook["description"], webhook["preset"]) == (True, "text", None)
    assert (webhook["pending"], webhook["failing_since"], webhook["last_success_at"]) == (
        0,
        None,
        None,
    )
    shown = {name: value for name, value in webhook.items() if name != "secret"}
    assert hub.api.get(f"/webhooks/{webhook['id']}") == shown
    assert shown in hub.api.get("/webhooks?limit=100")
    for answer in (
        hub.api.call("GET", "/webhooks?limit=100"),
        hub.api.call("GET", f"/webhooks/{webhook['id']}"),
        hub.api.call("PATCH", f"/webhooks/{webhook['id']}", {"description": "other"}),
        hub.api.call("GET", "/audit?limit=100"),
    ):
        assert webhook["secret"].encode() not in answer.body
        assert TOKEN.encode() not in answer.body


def test_a_secret_that_was_brought_along_is_the_one(hub):
    for secret in (KEY, "a secret of another form"):
        assert hub.api.post("/webhooks", **WEBHOOK, secret=secret)["secret"] == secret


def test_only_those_that_are_enabled_are_listed_if_that_is_asked_for(hub):
    off = hub.api.post("/webhooks", **WEBHOOK, enabled=False)
    hub.api.post("/webhooks", **WEBHOOK)
    listed = {
        value: hub.api.get(f"/webhooks?limit=100&enabled={value}") for value in ("true", "false")
    }
    for value, webhooks in listed.items():
        assert {each["enabled"] for each in webhooks} == {value == "true"}
        assert (off["id"] in {each["id"] for each in webhooks}) == (value == "false")


def test_what_is_wrong_is_said_with_what_would_be_right(hub):
    reason = refused(hub.api, "events", events=["command.failed", "command.finished"])
    assert "'command.finished'" in reason
    assert "command.failed" in reason
    assert refused(hub.api, "events", events=[])
    for url in ("http://10.1.2.3/", "http://[::1]:8000/"):
        assert "allow_networks" in refused(hub.api, "url", url=url)
    assert "metadata" in refused(hub.api, "url", url="http://169.254.169.254/latest")
    assert "ntfy.sh/TOPIC" in refused(hub.api, "url", preset="ntfy", url="https://x.example/a/b")
    reason = refused(hub.api, "headers", headers={"X-Key": f"{TOKEN}\n"})
    assert TOKEN not in reason
    webhook = hub.api.post("/webhooks", **WEBHOOK)
    path = f"/webhooks/{webhook['id']}"
    assert "telegram" in refused(hub.api, "url", "PATCH", path, preset="telegram")
    assert refused(hub.api, "url", "PATCH", path, url="http://10.1.2.3/")
    assert hub.api.get(path) == {name: webhook[name] for name in webhook if name != "secret"}


def test_headers_go_to_where_they_were_given_for_and_nowhere_else(hub):
    body = WEBHOOK | {"url": "https://x.example/a", "headers": {"X-Token": TOKEN}}
    where = f"/webhooks/{hub.api.post('/webhooks', **body)['id']}"
    for url in ("http://x.example/a", "https://evil.example/a", "https://x.example:8443/a"):
        assert "again" in refused(hub.api, "headers", "PATCH", where, url=url)
    for change in (
        {"url": "https://X.example:443/b"},
        {"url": "https://y.example/", "headers": {}},
    ):
        shown = hub.api.call("PATCH", where, change).data
        assert shown["url"] == change["url"]
    hub.api.call("PATCH", where, {"url": "https://z.example/"})
    assert hub.api.get(where)["url"] == "https://z.example/"


def test_an_event_that_is_named_twice_is_there_once(hub):
    twice = ["machine.online", "command.lost", "machine.online"]
    webhook = hub.api.post("/webhooks", **WEBHOOK | {"events": twice})
    assert webhook["events"] == twice[:2]
    changes = {"events": ["*", *twice, "*"]}
    shown = hub.api.call("PATCH", f"/webhooks/{webhook['id']}", changes).data
    assert shown["events"] == ["*", *twice[:2]]


def test_what_is_wrong_with_several_fields_is_said_of_each(hub):
    bad = {"url": "ftp://x", "events": ["x"], "secret": "x", "headers": {"Host": "x"}}
    error = error_of(hub.api.call("POST", "/webhooks", bad), 422, "validation_failed")
    assert set(error["details"]) == set(bad)
    assert refused(hub.api, "secret", secret="")


def test_a_preset_changes_the_body_and_null_takes_it_off(hub, receiver, path):
    webhook = made(hub.api, receiver, path, preset="slack")
    where = f"/webhooks/{webhook['id']}"
    hub.api.post(f"{where}/test")
    assert hub.api.call("PATCH", where, {"preset": None}).data["preset"] is None
    delivery = hub.api.post(f"{where}/test")
    assert delivery["status"] == "delivered"
    assert [arrival.event.get("id") for arrival in receiver.at(path)] == [delivery["event_id"]]
    # The receiver's ledger takes our own body alone: what Slack is sent has no id of ours.
    assert "KeyError" in receiver.troubles.pop()


def test_a_new_secret_signs_what_comes_from_then_on(hub, receiver, path):
    webhook = made(hub.api, receiver, path)
    where = f"/webhooks/{webhook['id']}"
    assert hub.api.post(f"{where}/test")["status"] == "delivered"
    hub.api.call("PATCH", where, {"secret": KEY})
    receiver.expect(path, KEY)
    assert hub.api.post(f"{where}/test")["status"] == "delivered"
    assert hub.api.call("DELETE", where).data == {"deleted": True}
    error_of(hub.api.call("GET", where), 404, "webhook_not_found")


# ── delivered ────────────────────────────────────────────────────────────────────────────────────


def test_what_a_command_does_is_told_and_can_be_looked_up(hub, agent, receiver, path):
    webhook = made(hub.api, receiver, path, "command.started", "command.failed")
    command_id = hub.api.run(agent.machine_id, "exit 3")["id"]
    started, failed = (arrival.event for arrival in receiver.wait_for(path, 2))
    assert (started["type"], failed["type"]) == ("command.started", "command.failed")
    assert (started["seq"], failed["seq"]) == (1, 2)
    assert (failed["data"]["command_id"], failed["data"]["exit_code"]) == (command_id, 3)
    wait_for(lambda: not deliveries(hub.api, webhook, "status=pending"), "all are delivered")
    newest, oldest = deliveries(hub.api, webhook)
    assert (oldest["seq"], newest["seq"]) == (1, 2)
    assert {name: newest[name] for name in ("event_id", "event", "subject", "data")} == {
        "event_id": failed["id"],
        "event": failed["type"],
        "subject": command_id,
        "data": failed["data"],
    }
    assert (newest["status"], newest["attempt_count"], newest["next_attempt_at"]) == (
        "delivered",
        1,
        None,
    )
    (attempt,) = newest["attempts"]
    assert (attempt["number"], attempt["response_status"], attempt["error"]) == (1, 200, None)
    assert hub.api.get(f"/webhooks/{webhook['id']}/deliveries/{newest['id']}") == newest
    assert deliveries(hub.api, webhook, "event=command.started") == [oldest]
    later = datetime.now(UTC) + timedelta(hours=1)
    assert not deliveries(hub.api, webhook, f"since={later:%Y-%m-%dT%H:%M:%SZ}")
    page = hub.api.call("GET", f"/webhooks/{webhook['id']}/deliveries?limit=1")
    assert (page.data, page.json["meta"]["total"], page.json["meta"]["has_more"]) == (
        [newest],
        2,
        True,
    )
    shown = hub.api.get(f"/webhooks/{webhook['id']}")
    assert shown["last_success_at"] is not None


def test_a_delivery_is_one_of_its_webhook(hub, receiver, path):
    webhook, other = made(hub.api, receiver, path), hub.api.post("/webhooks", **WEBHOOK)
    delivery = hub.api.post(f"/webhooks/{webhook['id']}/test")
    for method, end in (("GET", ""), ("POST", "/redeliver")):
        where = f"/webhooks/{other['id']}/deliveries/{delivery['id']}{end}"
        error_of(hub.api.call(method, where), 404, "delivery_not_found")


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(
    ("reply", "status"), [(204, "delivered"), (503, "dead"), ("reset", "dead")]
)
def test_a_test_says_at_once_what_the_receiver_says(
    hub, receiver, replies, path, enabled, reply, status
):
    replies[path] = reply
    webhook = made(hub.api, receiver, path, enabled=enabled)
    delivery = hub.api.post(f"/webhooks/{webhook['id']}/test")
    assert (delivery["event"], delivery["seq"], delivery["status"]) == ("webhook.test", 0, status)
    (attempt,) = delivery["attempts"]
    assert attempt["response_status"] == (reply if isinstance(reply, int) else None)
    assert (attempt["error"] is None) == (status == "delivered")
    (arrival,) = receiver.at(path)
    assert (arrival.event["type"], arrival.event["seq"]) == ("webhook.test", 0)
    after = hub.api.get(f"/webhooks/{webhook['id']}")
    assert after == {name: webhook[name] for name in webhook if name != "secret"}


# ── again ────────────────────────────────────────────────────────────────────────────────────────


def attached(hub: Hub, agent, number: int) -> None:
    """So many events about one session."""
    for _ in range(number):
        hub.api.post(f"/sessions/{agent.wait_connected(hub)}/attach")


def test_what_was_told_is_told_again_one_by_one_or_by_time(hub, agent, receiver, path):
    webhook = made(hub.api, receiver, path, "session.client_attached")
    attached(hub, agent, 3)
    told = receiver.wait_for(path, 3)
    wait_for(lambda: not deliveries(hub.api, webhook, "status=pending"), "all are delivered")
    where, (third, second, first) = f"/webhooks/{webhook['id']}", deliveries(hub.api, webhook)
    again = hub.api.post(f"{where}/deliveries/{second['id']}/redeliver")
    assert (again["id"], again["event_id"], again["status"]) == (
        second["id"],
        second["event_id"],
        "pending",
    )
    assert receiver.wait_for(path, 4)[3].body == told[1].body
    wait_for(lambda: not deliveries(hub.api, webhook, "status=pending"), "it is delivered")
    body = {"since": second["created_at"], "until": third["created_at"], "status": "delivered"}
    ends = (
        (body, 1),
        ({**body, "until": None}, 2),
        ({**body, "since": first["created_at"], "until": None}, 3),
        ({"since": first["created_at"]}, 0),  # what is dead
    )
    total = 4
    for asked, number in ends:
        headers = {"Idempotency-Key": f"{path}-{number}", "Content-Type": "application/json"}
        for _ in range(2):
            answer = hub.api.call("POST", f"{where}/redeliver", asked, headers=headers)
            assert answer.data == {"redelivered": number}
        total += number
        receiver.wait_for(path, total)
        wait_for(lambda: not deliveries(hub.api, webhook, "status=pending"), "all are delivered")
    assert len(receiver.at(path)) == total
    assert {arrival.event["id"] for arrival in receiver.at(path)} == {
        each["event_id"] for each in (first, second, third)
    }


def test_what_fails_waits_and_what_waits_behind_it_has_no_time(hub, agent, receiver, replies, path):
    replies[path] = 500
    webhook = made(hub.api, receiver, path, "session.client_attached")
    attached(hub, agent, 2)
    where = f"/webhooks/{webhook['id']}"
    wait_for(lambda: deliveries(hub.api, webhook)[1]["attempts"], "the first one was tried")
    second, first = deliveries(hub.api, webhook, "status=pending")
    assert first["attempts"][0]["response_status"] == 500
    assert first["next_attempt_at"] is not None
    assert (second["next_attempt_at"], second["attempts"]) == (None, [])
    shown = hub.api.get(where)
    assert shown["pending"] == 2
    assert shown["failing_since"] is not None
    hub.api.call("PATCH", where, {"enabled": False})
    for end, body in ((f"/deliveries/{first['id']}/redeliver", None), ("/redeliver", {})):
        body = None if body is None else {"since": first["created_at"]}
        error = error_of(hub.api.call("POST", where + end, body), 409, "conflict")
        assert "enabled" in error["hint"]
    attached(hub, agent, 1)
    replies[path] = 200
    shown = hub.api.call("PATCH", where, {"enabled": True}).data
    assert (shown["enabled"], shown["failing_since"], shown["pending"]) == (True, None, 0)
    dead = deliveries(hub.api, webhook)
    assert [each["id"] for each in dead] == [second["id"], first["id"]]
    assert {(each["status"], each["reason"]) for each in dead} == {
        ("dead", "the webhook was disabled")
    }
    answer = hub.api.post(f"{where}/redeliver", since=first["created_at"])
    assert answer == {"redelivered": 2}
    wait_for(lambda: not deliveries(hub.api, webhook, "status=pending"), "all are delivered")
    numbers = [arrival.event["seq"] for arrival in receiver.at(path) if arrival.is_taken]
    assert numbers == [1, 2]


# ── for whom ─────────────────────────────────────────────────────────────────────────────────────


def test_a_webhook_of_a_key_with_tags_hears_of_its_machines_alone(
    hub, agent, place, receiver, path
):
    web = hub.new_token(tags=["prod", "web"])
    key = of_tags(hub.api, "prod", "web")
    mine = made(key, receiver, path, "*")
    kinds = ("machine.online", "session.client_attached")
    every = made(hub.api, receiver, f"{path}-all", *kinds)
    attached(hub, agent, 1)
    with running_agent(hub, place, "web", token=web) as tagged:
        told = receiver.wait_for(f"{path}-all", 2)
        assert {each.event["type"] for each in told} == set(kinds)
        heard = deliveries(key, mine)
        assert {each["data"]["machine_id"] for each in heard} == {tagged.machine_id}
        assert "machine.online" in {each["event"] for each in heard}
    assert [each["id"] for each in key.get("/webhooks")] == [mine["id"]]
    error_of(key.call("GET", f"/webhooks/{every['id']}"), 404, "webhook_not_found")


def test_whoever_manages_webhooks_is_in_the_audit_log_and_no_secret_is_anywhere(hub):
    secret = {"url": f"http://localhost:1/{TOKEN}?key={TOKEN}", "headers": {"X-Key": TOKEN}}
    webhook = hub.api.post("/webhooks", **WEBHOOK | secret)
    where = f"/webhooks/{webhook['id']}"
    delivery = hub.api.post(f"{where}/test")
    hub.api.post(f"{where}/deliveries/{delivery['id']}/redeliver")
    hub.api.post(f"{where}/redeliver", since="2026-01-01T00:00:00Z")
    hub.api.call("PATCH", where, {"headers": {"X-Other": TOKEN}, "enabled": False})
    hub.api.call("PATCH", where, {"enabled": False})  # changes nothing
    hub.api.delete(where)
    audit = hub.api.call("GET", f"/audit?target={webhook['id']}&sort=created_at")
    assert [(each["action"], each["details"]) for each in audit.data] == [
        (
            "webhook.created",
            {
                "host": "localhost",
                "events": ["webhook.disabled"],
                "enabled": True,
                "preset": None,
                "headers": ["X-Key"],
            },
        ),
        ("webhook.tested", {}),
        ("webhook.redelivered", {"delivery_id": delivery["id"]}),
        ("webhook.redelivered", {"since": "2026-01-01T00:00:00Z", "status": "dead"}),
        (
            "webhook.changed",
            {"changed": ["enabled", "headers"], "enabled": False, "headers": ["X-Other"]},
        ),
        ("webhook.deleted", {}),
    ]
    told = audit.body.decode() + hub.log.read_text() + str(delivery)
    assert TOKEN not in told
    assert webhook["secret"] not in told


def test_what_was_sent_is_counted(hub, agent, receiver, replies, path):
    before = Scrape(hub.api)
    replies[path] = 500
    webhook = made(hub.api, receiver, path, "session.client_attached")
    attached(hub, agent, 1)
    wait_for(lambda: deliveries(hub.api, webhook)[0]["attempts"], "it was tried")
    after = Scrape(hub.api)
    name = "cmdop_webhook_attempts_total"
    assert after(name, outcome="failed") > before(name, outcome="failed")
    assert after("cmdop_webhook_deliveries", status="pending") >= 1
    good = made(hub.api, receiver, f"{path}-good")
    hub.api.post(f"/webhooks/{good['id']}/test")
    assert Scrape(hub.api)(name, outcome="delivered") > after(name, outcome="delivered")
