"""With little room on the hub's disk, nothing new is begun over the API, and the rest goes on."""

import json

import pytest

from cmdop_appliance.api import app as app  # fills the table
from cmdop_appliance.api import exchange, room
from cmdop_appliance.api.registry import CMDOP, ROOT, ROUTES
from cmdop_appliance.auth import new_key, secret_hash
from cmdop_appliance.config import Config
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.store import api_keys
from cmdop_appliance.store.engine import open_store
from tests.support import records
from tests.support.clocks import LoopClock

POSTS = [route for route in ROUTES if route.method == "POST"]


@pytest.fixture
async def hub(tmp_path):
    async with open_store(tmp_path, inline=True) as store:
        yield await Hub.open(Config(), LoopClock(), store, tmp_path)


@pytest.fixture
async def key(hub):
    secret = new_key()
    await hub.store.run(api_keys.insert, records.api_key(), secret_hash(secret))
    return secret


async def ask(hub, key, method, path, body=None, plane=CMDOP, **headers):
    (route,) = [r for r in ROUTES if (r.plane, r.method, r.path) == (plane, method, path)]

    async def read() -> bytes:
        return json.dumps(body).encode()

    told = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    request = exchange.Request(method, path, "", told, "", read_body=read)
    answer = await exchange.respond(hub, route, {"id": "mach_none"}, request)
    return answer.status, json.loads(answer.body)


def test_every_post_that_goes_on_is_one():
    assert {route.name for route in POSTS} >= room.GO_ON


async def test_what_begins_something_is_refused_with_numbers_and_the_rest_goes_on(hub, key):
    hub.disk.is_short, hub.disk.free_bytes = True, 5 * 1024 * 1024
    status, told = await ask(hub, key, "POST", "/commands", {"machine_id": "m", "command": "x"})
    assert (status, told["error"]["code"]) == (507, "storage_full")
    assert told["error"]["details"] == {"free_bytes": 5242880, "need_bytes": 67108864}
    assert "free some space" in told["error"]["hint"]
    assert (await ask(hub, key, "GET", "/commands"))[0] == 200
    assert (await ask(hub, key, "DELETE", "/commands/:id"))[0] == 404
    assert (await ask(hub, key, "POST", "/sign-in-links"))[0] == 201
    status, told = await ask(hub, key, "GET", "/readyz", plane=ROOT)
    assert status == 503
    assert "nothing new is begun below 64 MiB" in told["reasons"][0]
    hub.disk.is_short = False
    assert (await ask(hub, key, "GET", "/readyz", plane=ROOT))[0] == 200


async def test_a_request_that_was_carried_out_before_gets_its_answer_on_a_full_disk(hub, key):
    ask_it = (hub, key, "POST", "/enrollment-tokens", {})
    first = await ask(*ask_it, **{"idempotency-key": "one"})
    assert first[0] == 201
    hub.disk.is_short = True
    again = await ask(*ask_it, **{"idempotency-key": "one"})
    assert (again[0], again[1]["data"]) == (201, first[1]["data"])
    other = await ask(*ask_it, **{"idempotency-key": "two"})
    assert other[0] == 507
