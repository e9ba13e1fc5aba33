"""Webhooks by the synchronous client, and what a receiver checks."""

import json
from datetime import UTC, datetime
from typing import get_args, get_type_hints

import pytest

from cmdop_appliance.api.cmdop import webhooks
from cmdop_appliance.sdk import CmdopError, UnexpectedAnswer
from cmdop_appliance.sdk.webhook_types import WebhookChanges
from cmdop_appliance.sdk.webhooks import InvalidSignature, verify
from cmdop_appliance.webhooks.signing import signed_headers
from tests.sdk.kinds import Client
from tests.sdk.scripted_hub import answer, asked_of, scripted_hub, sent_by

pytestmark = pytest.mark.usefixtures("kind")

SINCE = datetime(2026, 2, 14, 10, 30, tzinfo=UTC)
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZg=="
EVENT = {"id": "evt_1", "type": "command.failed", "seq": 7, "data": {"name": "grün"}}
BODY = json.dumps(EVENT).encode()
SIGNATURE = signed_headers(SECRET, "evt_1", 0, BODY)["X-Cmdop-Signature"]


def _asked(call, data):
    return asked_of(lambda sdk: call(sdk.webhooks), data)


def _sent(call):
    return sent_by(lambda sdk: call(sdk.webhooks))


def test_a_webhook_is_made_and_changed_with_what_was_said_of_it_and_nothing_else():
    headers = {"Authorization": "Bearer t"}
    made = _sent(lambda w: w.create("http://r/", ("*",), preset="ntfy", secret=None, enabled=False))
    body = {"url": "http://r/", "events": ["*"], "preset": "ntfy", "enabled": False}
    assert made == ("POST", "/webhooks", body)
    changed = _sent(lambda w: w.update("h/1", headers=headers, events=["a.b"], enabled=True))
    body = {"headers": headers, "events": ["a.b"], "enabled": True}
    assert changed == ("PATCH", "/webhooks/h%2F1", body)


@pytest.mark.parametrize(
    "call",
    [
        lambda w, key: w.create("http://r/", ["*"], idempotency_key=key),
        lambda w, key: w.test("h1", idempotency_key=key),
        lambda w, key: w.redeliver("h1", "d1", idempotency_key=key),
        lambda w, key: w.redeliver_since("h1", SINCE, idempotency_key=key),
    ],
)
def test_a_post_has_the_callers_key_or_one_of_its_own(call):
    keys = [
        _asked(lambda w, key=key: call(w, key), {"redelivered": 0})[1].headers["idempotency-key"]
        for key in ("mine", None, None)
    ]
    assert keys[0] == "mine"
    assert len(set(keys)) == 3


def test_the_rest_is_asked_for_where_it_is():
    assert _sent(lambda w: w.get("h 1"))[:2] == ("GET", "/webhooks/h%201")
    assert _sent(lambda w: w.test("h1"))[:2] == ("POST", "/webhooks/h1/test")
    assert _sent(lambda w: w.delivery("h1", "d/1"))[:2] == ("GET", "/webhooks/h1/deliveries/d%2F1")
    path = "/webhooks/h1/deliveries/d1/redeliver"
    assert _sent(lambda w: w.redeliver("h1", "d1"))[:2] == ("POST", path)
    _, asked = _asked(lambda w: w.delete("h1"), {})
    assert (asked.method, asked.path) == ("DELETE", "/api/v1/webhooks/h1")
    _, asked = _asked(lambda w: w.deliveries("h1", status="dead", event="a.b", since=SINCE), [])
    assert asked.path == "/api/v1/webhooks/h1/deliveries"
    since = "2026-02-14T10%3A30%3A00%2B00%3A00"
    assert asked.query == f"status=dead&event=a.b&since={since}&limit=100&offset=0"
    _, asked = _asked(lambda w: w.list(), [])
    assert asked.path == "/api/v1/webhooks"


def test_a_time_is_redelivered_and_its_deliveries_counted():
    count, asked = _asked(lambda w: w.redeliver_since("h1", SINCE, until=SINCE), {"redelivered": 3})
    assert (count, asked.path) == (3, "/api/v1/webhooks/h1/redeliver")
    at = "2026-02-14T10:30:00+00:00"
    assert json.loads(asked.body) == {"since": at, "until": at}
    with pytest.raises(UnexpectedAnswer):
        _asked(lambda w: w.redeliver_since("h1", SINCE), {"redelivered": None})


@pytest.mark.parametrize("name", ["X-Cmdop-Signature", "x-cmdop-signature"])
def test_a_request_of_the_hub_is_its_event(name):
    assert verify(SECRET, {"Host": "x", name: SIGNATURE}, BODY) == EVENT


@pytest.mark.parametrize(
    ("secret", "signature", "body"),
    [
        (SECRET, None, BODY),
        (SECRET, "", BODY),
        (SECRET, "sha256=", BODY),
        (SECRET, SIGNATURE[:-1] + "ü", BODY),
        (SECRET, SIGNATURE.removeprefix("sha256="), BODY),
        (SECRET, SIGNATURE, BODY + b" "),
        (SECRET[:-1], SIGNATURE, BODY),
    ],
)
def test_what_the_secret_did_not_sign_is_refused(secret, signature, body):
    headers = {} if signature is None else {"X-Cmdop-Signature": signature}
    with pytest.raises(InvalidSignature):
        verify(secret, headers, body)
    assert issubclass(InvalidSignature, CmdopError)


def test_an_option_that_there_is_not_is_named():
    for call in (
        lambda w: w.create("http://r/", ["*"], timeout=5),
        lambda w: w.update("w1", timeout=5),
    ):
        with (
            scripted_hub(lambda _: answer({})) as hub,
            Client(hub.url, "k") as sdk,
            pytest.raises(TypeError, match=r"no option timeout; known are .*description"),
        ):
            call(sdk.webhooks)
        assert hub.asked == []


def test_a_change_has_the_fields_of_the_hub_and_none_only_for_what_can_be_taken_off():
    hints = get_type_hints(WebhookChanges)
    assert hints.keys() == {*webhooks.WebhookChanges.__struct_fields__}
    assert {name for name, hint in hints.items() if type(None) in get_args(hint)} == {"preset"}
