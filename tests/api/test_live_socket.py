"""The live websocket: who gets it, and what it tells them; a real hub behind real sockets."""

import json
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed

from cmdop_appliance import __version__
from cmdop_appliance.api import conversation, live_socket
from cmdop_appliance.api.cmdop import machines as views
from cmdop_appliance.hub import bus, connection
from cmdop_appliance.hub.reports import load_subject
from cmdop_appliance.protocol.messages import Sampled
from cmdop_appliance.store import events, machines, sessions
from tests.api.local_api import LocalApi
from tests.api.terminal_room import Viewer
from tests.api.terminal_site import BOUND, Key, Site, site
from tests.support.live_hub import ScriptedAgent
from tests.support.records import NOW, REACH, TELEMETRY, WORKSPACE, connected, samples

PATH = "/api/v1/live"
PROTOCOL = "cmdop.live.v1"
START = {"type": "start"}


@pytest.fixture
async def there(tmp_path):
    with trio.fail_after(BOUND):
        async with site(tmp_path) as made:
            yield made


async def page(there: Site, key: Key | None = None, after: int | None = None) -> Viewer:
    """A client that has connected, and begun."""
    header = (key or await there.key()).header
    viewer = Viewer(await there.connect(PATH, header, offers=(PROTOCOL,)))
    await viewer.say({**START, "after": after})
    return viewer


async def machine_with_load(there: Site, at_ms: int = NOW, **fields: Any) -> tuple[str, int]:
    """A machine that is connected and has told of its load; (id, epoch)."""
    made, _, epoch = await connected(there.hub.store, **fields)
    await sample(there, made.id, epoch, at_ms)
    return made.id, epoch


async def sample(there: Site, machine_id: str, epoch: int, at_ms: int) -> None:
    """What the hub does with a sample."""
    store = there.hub.store
    assert await store.run(sessions.sampled, machine_id, epoch, TELEMETRY, at_ms, at_ms)
    there.hub.bus.publish(load_subject(WORKSPACE), machine_id)


async def told(viewer: Viewer, count: int) -> list[dict[str, Any]]:
    """The next events."""
    return [(await viewer.hear("event"))["event"] for _ in range(count)]


async def last_seq(there: Site) -> int:
    return await there.hub.store.run(events.last_seq, WORKSPACE)


# ── who gets one ─────────────────────────────────────────────────────────────────────────────────


async def cookie_of(there: Site, key: Key) -> tuple[str, str]:
    _, cookie = await there.hub.sign_ins.begin(key.caller, "127.0.0.1", "a browser", None)
    return "Cookie", f"cmdop={cookie}"


async def test_a_program_with_a_key_and_a_page_of_ours_get_one(there):
    key = await there.key("files:read")
    cookie, own = await cookie_of(there, key), ("Origin", there.origin)
    for path, *shown in ((PATH, key.header), ("/v1/live", key.header), (PATH, cookie, own)):
        answer = await there.ask(path, *shown, offers=("x.v0", PROTOCOL))
        assert answer.status == 101
        assert answer.headers["sec-websocket-protocol"] == PROTOCOL


async def test_nobody_else_gets_one_and_is_told_why(there):
    key, own = await there.key(), ("Origin", there.origin)
    cookie, foreign = await cookie_of(there, key), ("Origin", "http://evil.example")
    gone = await there.key("machines:read")
    revoked = await cookie_of(there, gone)
    await there.revoke(gone)
    for shown, how, status, code in (
        ([], {}, 401, "unauthorized"),
        ([own], {}, 401, "unauthorized"),
        ([gone.header], {}, 401, "unauthorized"),
        ([revoked, own], {}, 401, "unauthorized"),
        ([("Cookie", "cmdop=x"), own], {}, 401, "unauthorized"),
        ([cookie], {}, 403, "cross_origin"),
        ([cookie, foreign], {}, 403, "cross_origin"),
        ([key.header, foreign], {}, 403, "cross_origin"),
        ([key.header], {"offers": None}, 400, "invalid_request"),
        ([key.header], {"offers": ("cmdop.terminal.v1",)}, 400, "invalid_request"),
        ([key.header], {"without": "Upgrade"}, 426, "upgrade_required"),
    ):
        answer = await there.ask(PATH, *shown, **{"offers": (PROTOCOL,), **how})
        assert (answer.status, answer.code) == (status, code), (shown, how)
    answer = await there.ask(f"{PATH}?token=canary-17", key.header, offers=(PROTOCOL,))
    assert (answer.status, b"canary-17" in answer.body) == (400, False)


# ── events ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_page_hears_what_happens_from_its_start_on(there):
    await connected(there.hub.store)
    before = await last_seq(there)
    viewer = await page(there)
    hello = await viewer.hear("hello")
    assert (hello["seq"], hello["version"]) == (before, __version__)
    assert hello["now"].endswith("Z")
    made, session_id, _ = await connected(there.hub.store)
    found = await told(viewer, 3)
    assert [(event["type"], event["seq"]) for event in found] == [
        ("session.created", before + 1),
        ("session.connected", before + 2),
        ("machine.online", before + 3),
    ]
    assert set(found[0]) == {"id", "type", "timestamp", "seq", "data"}
    assert found[0]["data"]["session_id"] == session_id
    assert found[2]["data"]["machine_id"] == made.id


async def test_a_page_that_comes_back_hears_what_it_has_missed(there):
    for _ in range(2):
        await connected(there.hub.store)
    viewer = await page(there, after=2)
    assert (await viewer.hear("hello"))["seq"] == 2
    assert [event["seq"] for event in await told(viewer, 4)] == [3, 4, 5, 6]
    assert [message["type"] for message in viewer.said] == ["hello", *["event"] * 4]


async def test_a_number_that_was_never_told_is_now(there):
    await connected(there.hub.store)
    viewer = await page(there, after=2**53)
    assert (await viewer.hear("hello"))["seq"] == await last_seq(there)


async def test_who_is_too_far_behind_is_told_to_read_anew(there, monkeypatch):
    monkeypatch.setattr(live_socket, "CATCH_UP", 5)
    for _ in range(2):
        await connected(there.hub.store)
    viewer = await page(there, after=0)
    assert await viewer.hear("gap") == {"type": "gap", "from": 1, "to": 6}
    await connected(there.hub.store)
    assert [event["seq"] for event in await told(viewer, 1)] == [7]


async def test_numbers_that_are_not_kept_any_more_are_a_gap(there):
    await connected(there.hub.store)
    await there.hub.store.run(lambda tx: tx.execute("DELETE FROM event WHERE seq <= 2"))
    viewer = await page(there, after=0)
    assert await viewer.hear("gap") == {"type": "gap", "from": 1, "to": 2}
    assert [event["seq"] for event in await told(viewer, 1)] == [3]


async def test_what_is_done_to_a_machine_is_told(there):
    api = await LocalApi.of(there.hub)
    made, _, _ = await connected(there.hub.store, tags=[])
    viewer = await page(there)
    await viewer.hear("hello")
    await api.patch(f"/machines/{made.id}", name="nas", tags=["a"])
    await api.patch(f"/machines/{made.id}", name="nas")  # as it is: nothing happens
    await api.call("DELETE", f"/machines/{made.id}")
    found = await told(viewer, 4)
    about = {"machine_id": made.id, "hostname": made.facts.hostname, "name": "nas"}
    assert [(event["type"], event["data"]) for event in (found[0], found[-1])] == [
        ("machine.changed", {**about, "tags": ["a"]}),
        ("machine.removed", about),
    ]


async def test_a_key_hears_only_what_it_may_read(there):
    reader = await there.key("sessions:read", tags=["web"])
    viewer = await page(there, reader)
    await viewer.hear("hello")
    await machine_with_load(there)  # out of reach
    web, _ = await machine_with_load(there, tags=["web", "prod"])
    found = await told(viewer, 2)
    assert [event["type"] for event in found] == ["session.created", "session.connected"]
    assert {event["data"]["machine_id"] for event in found} == {web}
    assert load_subject(WORKSPACE) not in there.hub.bus._subscriptions  # nobody asks for loads


# ── load ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def at_once(monkeypatch):
    """Loads are told without a pace."""
    monkeypatch.setattr(live_socket, "_LOAD_PACE_S", 0.01)
    monkeypatch.setattr(live_socket, "_GATHER_S", 0.01)


class Calls:
    """What a function of the store was called with, from now on."""

    def __init__(self, there: Site, monkeypatch: pytest.MonkeyPatch, looked_at: object) -> None:
        self.made: list[tuple[Any, ...]] = []
        self._made_one = trio.Event()
        run_it = there.hub.store.run

        async def run(fn, *args, **kwargs):
            if fn is looked_at:
                self.made.append(args)
                self._made_one.set()
                self._made_one = trio.Event()
            return await run_it(fn, *args, **kwargs)

        monkeypatch.setattr(there.hub.store, "run", run)

    async def until(self, count: int) -> None:
        """Return when it was called so many times."""
        while len(self.made) < count:
            await self._made_one.wait()


async def loads(viewer: Viewer, count: int) -> dict[str, str]:
    """The next loads: machine → of when."""
    found: dict[str, str] = {}
    while len(found) < count:
        message = await viewer.hear("load")
        found |= {load["id"]: load["at"] for load in message["machines"]}
    return found


async def test_a_page_hears_the_load_that_is_known_and_then_what_is_new(there, at_once):
    first, epoch = await machine_with_load(there)
    second, _ = await machine_with_load(there)
    await connected(there.hub.store)  # has told of none
    viewer = await page(there)
    assert set(await loads(viewer, 2)) == {first, second}
    await sample(there, first, epoch, NOW + 10_000)
    message = await viewer.hear("load")
    assert message == {
        "type": "load",
        "machines": [
            {
                "id": first,
                "at": views.when(NOW + 10_000),
                "cpu_percent": 1.5,
                "memory_percent": 50.0,
                "disk_percent": 10.0,
                "network_rx_bytes": 1,
                "network_tx_bytes": 2,
                "uptime_seconds": 3,
            }
        ],
    }


async def test_loads_of_machines_out_of_reach_are_not_told(there, at_once):
    other, epoch = await machine_with_load(there, tags=[])
    web, web_epoch = await machine_with_load(there, tags=["web"])
    viewer = await page(there, await there.key("machines:read", tags=["web"]))
    assert set(await loads(viewer, 1)) == {web}
    await sample(there, other, epoch, NOW + 1)
    await sample(there, web, web_epoch, NOW + 1)
    assert set(await loads(viewer, 1)) == {web}
    await there.hub.store.run(machines.edit, REACH, other, name=None, tags=["web"])
    await sample(there, other, epoch, NOW + 2)
    assert set(await loads(viewer, 1)) == {other}


async def test_many_loads_come_in_parts_and_each_once(there, at_once, monkeypatch):
    monkeypatch.setattr(live_socket, "_MACHINES", 2)
    known = {(await machine_with_load(there))[0] for _ in range(5)}
    viewer = await page(there)
    assert set(await loads(viewer, 5)) == known
    parts = [message["machines"] for message in viewer.said if message["type"] == "load"]
    assert sorted(map(len, parts)) == [1, 2, 2]


async def test_a_sample_that_nobody_was_woken_for_is_found(there, at_once, monkeypatch):
    looked = Calls(there, monkeypatch, sessions.sampled_machines)
    monkeypatch.setattr(bus, "SWEEP_S", 0.02)
    made, epoch = await machine_with_load(there)
    viewer = await page(there)
    await loads(viewer, 1)
    await looked.until(5)
    store = there.hub.store
    await store.run(sessions.sampled, made, epoch, TELEMETRY, NOW + 1, NOW + 1)
    assert await loads(viewer, 1) == {made: views.when(NOW + 1)}
    assert len([message for message in viewer.said if message["type"] == "load"]) == 2


async def test_what_comes_within_a_second_is_one_read_and_one_message(there, at_once, monkeypatch):
    reads = Calls(there, monkeypatch, sessions.live_on)
    monkeypatch.setattr(bus, "SWEEP_S", 10 * BOUND)
    busy = [await machine_with_load(there) for _ in range(3)]
    await machine_with_load(there)
    viewer = await page(there)
    await loads(viewer, 4)
    for machine_id, epoch in busy:
        store = there.hub.store
        await store.run(sessions.sampled, machine_id, epoch, TELEMETRY, NOW + 1, NOW + 1)
    for machine_id, _ in busy * 50:
        there.hub.bus.publish(load_subject(WORKSPACE), machine_id)
    await loads(viewer, 3)
    assert [len(machine_ids) for _, machine_ids in reads.made] == [4, 3]
    assert [message["type"] for message in viewer.said] == ["hello", "load", "load"]


async def test_a_sample_of_an_agent_reaches_the_page(there, at_once, monkeypatch):
    monkeypatch.setattr(bus, "SWEEP_S", 10 * BOUND)
    viewer = await page(there)
    await viewer.hear("hello")
    agent = ScriptedAgent(there.live)
    link = await agent.join()
    await link.say(samples(1))
    await link.expect(Sampled)
    assert set(await loads(viewer, 1)) == {(await agent.machine()).id}


# ── how it ends ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "first",
    [b"{}", "", "{", "[]", "{}", '{"type":"root"}', '{"type":"start","after":-1}'],
)
async def test_who_begins_otherwise_is_told_what_was_wrong(there, first):
    viewer = Viewer(await there.connect(PATH, (await there.key()).header, offers=(PROTOCOL,)))
    await viewer.socket.send_message(first)
    assert (await viewer.closed())[0] == 4400
    assert viewer.said[-1]["code"] == "protocol_error"


@pytest.mark.parametrize(
    ("message", "code"), [(json.dumps(START), 4400), (b"x", 4400), ("x" * 2000, 1009)]
)
async def test_who_says_more_than_its_start_is_cut_off(there, message, code):
    viewer = await page(there)
    await viewer.hear("hello")
    await viewer.socket.send_message(message)
    assert (await viewer.closed())[0] == code


@pytest.mark.parametrize("by_cookie", [True, False])
async def test_a_key_that_is_revoked_hears_no_more(there, monkeypatch, by_cookie):
    monkeypatch.setattr(bus, "SWEEP_S", 10 * BOUND)
    await there.key()  # the last admin key of a workspace stays
    key = await there.key("machines:read")
    shown = [await cookie_of(there, key), ("Origin", there.origin)] if by_cookie else [key.header]
    viewer = Viewer(await there.connect(PATH, *shown, offers=(PROTOCOL,)))
    await viewer.say(START)
    await viewer.hear("hello")
    await there.revoke(key)
    assert (await viewer.closed())[0] == 4401


async def test_a_hub_that_stops_says_that_it_will_be_back(there):
    viewer = await page(there)
    await viewer.hear("hello")
    there.hub.bus.stop()
    assert (await viewer.closed())[0] == 1001


async def test_a_page_that_goes_takes_nothing_along(there):
    viewer, other = await page(there), await page(there)
    for each in (viewer, other):
        await each.hear("hello")
    await viewer.socket.aclose()
    with pytest.raises(ConnectionClosed):
        await viewer.socket.get_message()
    await connected(there.hub.store)
    assert len(await told(other, 3)) == 3


async def test_a_page_to_which_nothing_is_said_hears_that_the_hub_is_there(there, monkeypatch):
    monkeypatch.setattr(conversation, "HEARTBEAT_S", 0.02)
    pings, was_pinged = 0, trio.Event()
    ping = connection.Connection.ping

    async def counted(self):
        nonlocal pings
        await ping(self)
        pings += 1
        if pings == 3:
            was_pinged.set()

    monkeypatch.setattr(connection.Connection, "ping", counted)
    viewer = Viewer(await there.connect(PATH, (await there.key()).header, offers=(PROTOCOL,)))
    await was_pinged.wait()  # until it begins there is nothing to hear
    await viewer.say(START)
    for _ in range(2):
        assert await viewer.hear("beat") == {"type": "beat"}
    assert [message["type"] for message in viewer.said] == ["hello", "beat", "beat"]


async def test_a_client_that_answers_no_ping_is_cut_off(there, monkeypatch):
    monkeypatch.setattr(conversation, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(conversation, "SILENT_S", 0.04)
    stream = await stalled(there)
    with trio.fail_after(BOUND):
        while await stream.receive_some():  # whatever is said: never a pong
            pass


async def test_a_client_that_takes_nothing_is_cut_off_and_nothing_waits_for_it(there, monkeypatch):
    monkeypatch.setattr(connection, "SEND_S", 0.1)
    monkeypatch.setattr(conversation, "SILENT_S", 10 * BOUND)
    stream, cut = await stalled(there), trio.Event()
    close = trio.SocketStream.aclose

    async def aclose(self):
        if self.socket.fileno() != -1 and self.socket.getpeername() == stream.socket.getsockname():
            cut.set()
        await close(self)

    monkeypatch.setattr(trio.SocketStream, "aclose", aclose)
    large = {"subject": "m", "data": {"hostname": "x" * 16 * 2**20}, "now_ms": NOW}
    await there.hub.store.run(events.append, WORKSPACE, "machine.online", **large)
    await cut.wait()


async def stalled(there: Site) -> trio.SocketStream:
    """A client that begins, and then reads nothing and answers no ping."""
    sock = trio.socket.socket()
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await sock.connect(("127.0.0.1", there.port))
    stream = trio.SocketStream(sock)
    there.streams.append(stream)
    request = there.request(PATH, (await there.key()).header, offers=(PROTOCOL,))
    await stream.send_all(request)
    while not (await stream.receive_some()).endswith(b"\r\n\r\n"):
        pass
    text = json.dumps({**START, "after": 0}).encode()
    await stream.send_all(bytes([0x81, 0x80 | len(text)]) + b"\0\0\0\0" + text)
    return stream
