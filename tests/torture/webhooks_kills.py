"""kill -9 of the hub while its receivers refuse, break off and hang: each event is told, or given
up for good, in order, by the ledger of the receivers.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from cmdop_appliance import RELEASED_MS
from cmdop_appliance.webhooks.signing import new_webhook_secret
from tests.support.appliance import Event, wait_for
from tests.support.quick_hub import FileClock
from tests.support.webhook_receiver import ALLOWED, Arrival, Receiver, Reply, running_receiver
from tests.torture.asks import PATIENCE_S, PatientApi
from tests.torture.clients import clients_at_work
from tests.torture.parts import Case, Part, Stage
from tests.torture.site import Site, running_site

_FACTOR = 60.0  # 5 min are 5 s
_FACTOR_AT_LAST = 3600.0  # the whole table of retries is a minute and a half
_CLIENTS = 3
_LASTS_S = (0.0, 0.3)
_UP_S = (0.0, 1.5)  # of the hub, between its first answer and its next death
_DAY_MS = 86_400_000
# How often the flaky one answers so: half of all fails, and few of them as slow as can be.
_REPLIES: dict[Reply, float] = {
    200: 0.47,
    204: 0.03,
    500: 0.2,
    503: 0.1,
    302: 0.05,
    "reset": 0.08,
    "close": 0.06,
    "hang": 0.01,
}
_NEVER_TRIES = 10  # the first attempt, and the table of retries
_DRAINED_S = 600.0  # a bound for what is left when nothing happens any more


@dataclass(frozen=True, slots=True)
class Hook:
    """A webhook, by the path of its receiver, and the events that it hears."""

    path: str
    id: str
    types: list[str]

    def hears(self, event: Event) -> bool:
        return event.name in self.types or "*" in self.types


_TYPES = {
    "/good": ["command.started", "command.completed", "command.failed"],
    "/flaky": ["*"],
    "/never": ["command.completed"],
    "/tarpit": ["*"],
}


def run(api: PatientApi, machine_id: str, command: str, dice: Random) -> Any:
    """The record of a command at its end."""
    # At this pace of the clock, it would soon be too late for one that is not queued.
    body = {"machine_id": machine_id, "command": command, "queue": True, "queue_timeout": _DAY_MS}
    headers = {"Idempotency-Key": f"{dice.getrandbits(64):016x}"}
    begun = api.call("POST", "/commands/async", body, headers=headers).data
    return api.end_of(begun["id"])


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    stage.place.mkdir(parents=True)
    clock = FileClock(stage.place / "clock")
    clock.set(max(RELEASED_MS, time.time_ns() // 1_000_000), _FACTOR)

    def reply(path: str, event_id: str, tries: int) -> Reply:
        match path:
            case "/good":
                return 200
            case "/never":
                return 500
            case "/tarpit":
                return "hang"
        dice = Random(f"{stage.seed}/{event_id}/{tries}")
        return dice.choices(list(_REPLIES), weights=list(_REPLIES.values()))[0]

    with (
        running_receiver(reply) as receiver,
        running_site(stage.place, config=ALLOWED, clock=clock) as site,
    ):
        hooks = [_make_hook(site.api, receiver, path) for path in _TYPES]
        schedule = _make_schedule(site)
        machine_id = site.agent.machine_id

        def work(dice: Random) -> None:
            lasts_s, exit_code = dice.uniform(*_LASTS_S), dice.choice((0, 0, 1))
            run(site.api, machine_id, f"sleep {lasts_s}; exit {exit_code}", dice)

        with clients_at_work(site, stage.seed, _CLIENTS, _UP_S, work) as case:
            yield case
        site.api.call("PATCH", schedule, {"enabled": False})
        stage.say(f"webhooks-kills: {_judge(site, hooks, receiver, clock)}")


def _make_hook(api: PatientApi, receiver: Receiver, path: str) -> Hook:
    secret = new_webhook_secret()
    receiver.expect(path, secret)  # before there is anything to tell
    made = api.post("/webhooks", url=receiver.url + path, events=_TYPES[path], secret=secret)
    return Hook(path, made["id"], _TYPES[path])


def _make_schedule(site: Site) -> str:
    """The path of a schedule whose ends are told, too."""
    made = site.api.post(
        "/schedules",
        name="each minute",
        machine_id=site.agent.machine_id,
        command="exit $(($(date +%s) % 2))",
        cron="* * * * *",
        notify={"on_success": True, "on_failure": True},
    )
    return f"/schedules/{made['id']}"


# ── the judgement ────────────────────────────────────────────────────────────────────────────────


def _judge(site: Site, hooks: list[Hook], receiver: Receiver, clock: FileClock) -> str:
    """Fail unless all events were told as is promised; what came of them, for people."""
    api = site.api
    last = run(api, site.agent.machine_id, "true", Random("last"))
    good, _, _, tarpit = hooks
    _wait_nothing_pending(api, [good], PATIENCE_S)  # however much waits beside it
    wait_for(lambda: receiver.hanging, "something hangs")
    held = api.all(f"/webhooks/{tarpit.id}/deliveries", status="pending")
    assert held, "the tarpit has nothing to hang in"
    api.call("PATCH", f"/webhooks/{tarpit.id}", {"enabled": False})
    clock.set(clock.now_ms(), _FACTOR_AT_LAST)
    _wait_nothing_pending(api, hooks, _DRAINED_S)
    events = _events_until(api, last["id"])
    told = []
    for hook in hooks:
        ours = [event for event in events if hook.hears(event)]
        deliveries = api.all(f"/webhooks/{hook.id}/deliveries")
        deliveries.sort(key=lambda delivery: delivery["seq"])
        _judge_deliveries(hook, deliveries, ours)
        arrivals = receiver.at(hook.path)
        _judge_bodies(arrivals, deliveries)
        _judge_order(hook, arrivals, deliveries)
        told.append(_judge_ends(hook, arrivals, deliveries))
    return f"{len(events)} events; {'; '.join(told)}"


def _wait_nothing_pending(api: PatientApi, hooks: list[Hook], patience_s: float) -> None:
    def is_done() -> bool:
        return not any(api.get(f"/webhooks/{hook.id}")["pending"] for hook in hooks)

    wait_for(is_done, f"{[hook.path for hook in hooks]} have nothing pending", patience_s)


def _events_until(api: PatientApi, command_id: str) -> list[Event]:
    """Every event of the workspace, up to the end of this command."""
    stream, events = api.follow("/events", "0"), []
    for event in stream:
        events.append(event)
        if event.name == "command.completed" and event.data["data"]["command_id"] == command_id:
            break
    stream.close()
    return events


def _judge_deliveries(hook: Hook, deliveries: list[Any], events: list[Event]) -> None:
    """One for each event since the webhook was made, and no number is left out."""
    seqs = [delivery["seq"] for delivery in deliveries]
    assert seqs == list(range(1, len(seqs) + 1)), f"{hook.path}: seq {seqs}"
    entered = [delivery["event_id"] for delivery in deliveries]
    assert len(entered) == len(set(entered)), f"{hook.path}: an event twice"
    ids = [event.data["id"] for event in events]
    ids = ids[ids.index(entered[0]) :]  # before that, the webhook was not there
    assert entered[: len(ids)] == ids, f"{hook.path}: {set(ids) ^ set(entered)}"


def _judge_bodies(arrivals: list[Arrival], deliveries: list[Any]) -> None:
    """Each tells of its event, the same bytes each time."""
    by_id = {delivery["event_id"]: delivery for delivery in deliveries}
    bodies: dict[str, bytes] = {}
    for arrival in arrivals:
        event = arrival.event
        delivery = by_id[event["id"]]
        assert bodies.setdefault(event["id"], arrival.body) == arrival.body, event
        told = (event["type"], event["seq"], event["data"])
        assert told == (delivery["event"], delivery["seq"], delivery["data"]), (event, delivery)


def _judge_order(hook: Hook, arrivals: list[Arrival], deliveries: list[Any]) -> None:
    """Of a subject, none came before the one in front of it was taken, or given up."""
    by_id = {delivery["event_id"]: delivery for delivery in deliveries}
    lines: dict[str, list[str]] = {}  # by subject, what is to come
    for delivery in deliveries:
        lines.setdefault(delivery["subject"], []).append(delivery["event_id"])
    taken: set[str] = set()
    for arrival in arrivals:
        event_id = arrival.event["id"]
        line = lines[by_id[event_id]["subject"]]
        while line[0] != event_id:
            ahead = by_id[line[0]]
            is_over = line[0] in taken or ahead["status"] == "dead"
            assert is_over, f"{hook.path}: {event_id} came before {ahead}"
            line.pop(0)
        if arrival.is_taken:
            taken.add(event_id)


def _judge_ends(hook: Hook, arrivals: list[Arrival], deliveries: list[Any]) -> str:
    """Delivered is what was taken, dead what was tried to the end; how often, for people."""
    tried = Counter(arrival.event["id"] for arrival in arrivals)
    taken = Counter(arrival.event["id"] for arrival in arrivals if arrival.is_taken)
    for delivery in deliveries:
        where = f"{hook.path}: {delivery}"
        event_id, attempts = delivery["event_id"], delivery["attempt_count"]
        assert attempts <= tried[event_id], where
        if delivery["status"] == "delivered":
            assert taken[event_id], where
            assert delivery["attempts"][0]["error"] is None, where
        elif hook.path == "/tarpit":
            assert (delivery["status"], taken[event_id]) == ("dead", 0), where
        else:
            assert delivery["status"] == "dead", where
            # One at a time while it fails: some find it disabled after its 5 days.
            assert attempts == _NEVER_TRIES or "disabled" in delivery["reason"], where
    dead = sum(delivery["status"] == "dead" for delivery in deliveries)
    assert dead == 0 or hook.path != "/good", f"{hook.path}: {dead} are dead"
    twice = sum(taken.values()) - len(taken)
    return f"{hook.path}: {len(deliveries)} in {tried.total()} attempts, {dead} dead, {twice} twice"


WEBHOOKS_KILLS = Part("webhooks-kills", 50, 30.0, _stage, jobs_most=2)
