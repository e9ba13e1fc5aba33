"""/healthz, /readyz and /health: for whoever watches the hub, without a key."""

import json
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from cmdop_appliance.api import exchange, health
from cmdop_appliance.api.registry import ROOT, ROUTES
from cmdop_appliance.clock import SystemClock
from cmdop_appliance.config import Config
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.store.engine import open_store
from tests.support.appliance import PATIENCE_S, Api


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/healthz", {"status": "ok"}),
        ("/health", {"status": "ok"}),
        ("/readyz", {"status": "ready", "reasons": []}),
    ],
)
def test_a_hub_that_is_well_says_so_to_anyone(hub, path, answer):
    told = Api(hub.api.url, "").call("GET", path, prefix="")
    assert (told.status, told.json) == (200, answer)


@pytest.fixture
async def idle(tmp_path: Path):
    """A hub that listens to nobody."""
    async with open_store(tmp_path) as store:
        yield await Hub.open(Config(), SystemClock(), store, tmp_path)


async def ask(hub: Hub, path: str):
    """Status and body of a probe's answer."""

    async def nothing() -> bytes:
        return b""

    (route,) = [route for route in ROUTES if (route.plane, route.path) == (ROOT, path)]
    request = exchange.Request("GET", path, "", {}, "", nothing)
    answer = await exchange.respond(hub, route, {}, request)
    assert isinstance(answer.body, bytes)
    return answer.status, json.loads(answer.body)


async def test_a_hub_that_stops_is_alive_and_not_ready(idle):
    assert await ask(idle, "/readyz") == (200, {"status": "ready", "reasons": []})
    idle.bus.stop()
    reasons = ["the hub is stopping"]
    assert await ask(idle, "/readyz") == (503, {"status": "not ready", "reasons": reasons})
    assert await ask(idle, "/healthz") == (200, {"status": "ok"})


async def test_a_hub_whose_disk_failed_is_not_ready(idle, caplog):
    idle.store.fail(OSError("EIO"))
    status, told = await ask(idle, "/readyz")
    assert (status, told["reasons"]) == (503, ["the hub's disk failed"])
    assert "EIO" not in str(told)


async def test_a_hub_whose_store_is_stuck_is_not_ready(idle, monkeypatch):
    monkeypatch.setattr(idle.store, "_last_handed", -1e9)  # nothing was written for years
    go_on = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(idle.store.run, lambda _tx: go_on.wait(PATIENCE_S))
        await trio.testing.wait_all_tasks_blocked()
        assert (await ask(idle, "/readyz"))[0] == 200
        monkeypatch.setattr(health, "STORE_S", 0.0)
        status, told = await ask(idle, "/readyz")
        assert status == 503
        (reason,) = told["reasons"]
        assert reason.startswith("the store has not answered")
        go_on.set()
    assert (await ask(idle, "/readyz"))[0] == 200
