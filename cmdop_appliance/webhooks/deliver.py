"""The deliverer: finds what is due, sends it, and records what came of it.

How it works. The store has what is to be sent; memory has only what is under way. Each attempt is
a task with a place of its own, at most `_PLACES_EACH` for a webhook and `_PLACES` in all. When all
are taken, one that becomes free goes to the webhook that has the fewest: a receiver that hangs
fills the places of its own webhook and nobody else's. While a webhook fails it has one place, and
if it gave no answer, a pause. An attempt that is cut off by the end of the hub leaves no record,
and is made again.
"""

import logging
import random
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

import trio

from cmdop_appliance.clock import LEAP_S, Clock, rfc3339
from cmdop_appliance.errors import StorageFull, Unavailable
from cmdop_appliance.hub.bus import SWEEP_S, Bus, Notified
from cmdop_appliance.store import leftovers, outbox
from cmdop_appliance.store.engine import Store
from cmdop_appliance.store.outbox import Head
from cmdop_appliance.webhooks import outcomes
from cmdop_appliance.webhooks.outcomes import ToSend
from cmdop_appliance.webhooks.presets import render
from cmdop_appliance.webhooks.sending import Answer, Sender
from cmdop_appliance.webhooks.signing import signed_headers

# Attempts under way at a time, of one webhook and of all: up to 32 receivers may hang before
# anybody waits, and then it is for a place and not for a receiver.
_PLACES_EACH: Final = 8
_PLACES: Final = 256
# Between two looks: what comes in a crowd is found by one. Looks that take long are made seldom,
# so that they take a fifth of the time at the most.
_PACE_S: Final = 0.02
_IDLE_SHARE: Final = 4
# The store is tried again after this when it is full, and so is what met a fault of ours.
_RETRY_S: Final = 5.0

_log = logging.getLogger("cmdop.webhooks")


class _Lane(NamedTuple):
    """What has places of its own: the deliveries of a webhook, and apart from them its tests."""

    webhook_id: str
    is_test: bool


class _Place(NamedTuple):
    """What an attempt takes: of one subject there is only one under way."""

    lane: _Lane
    subject: str


class Deliverer:
    """Sends webhooks, for as long as the hub runs."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        clock: Clock,
        sender: Sender,
        attempts: Counter[str],
        *,
        share: Callable[[], float] = random.random,
    ) -> None:
        """`attempts` counts what comes of them: `delivered` and `failed`."""
        self._store = store
        self._bus = bus
        self._clock = clock
        self._sender = sender
        self._attempts = attempts
        self._share = share
        self._taken: set[_Place] = set()
        self._ahead_s: float | None = None  # the wall clock, of the monotonic one

    async def run(self) -> None:
        """Send what comes due, until cancelled; nothing new once the hub is stopping."""
        async with trio.open_nursery() as nursery:
            with self._bus.subscribe(outbox.SUBJECT) as news:
                while True:
                    begun_s = trio.current_time()
                    wait_s = await self._look(nursery)
                    took_s = trio.current_time() - begun_s
                    try:
                        with trio.move_on_after(wait_s):
                            await news.next()
                        await trio.sleep(max(_PACE_S, _IDLE_SHARE * took_s))
                        while news.waiting:  # one look finds what many wake-ups tell of
                            await news.next()
                    except Unavailable:
                        return

    async def _look(self, nursery: trio.Nursery) -> float:
        """Begin what is due, as far as there are places; after how many seconds to look again."""
        now_ms = self._clock.now_ms()
        try:
            await self._note_leap(now_ms)
            # Of those that are found, as many as there are places may be under way.
            due = await self._store.run(outbox.due, now_ms, 2 * _PLACES_EACH)
            if due.leftover is not None:
                await self._store.run(leftovers.clear_away, due.leftover, now_ms)
        except (StorageFull, Unavailable) as exc:
            _log.error("webhooks wait for the store", extra={"why": exc.message})
            return _RETRY_S
        for head in self._begin(due.heads):
            nursery.start_soon(self._attempt, head)
        if due.leftover is not None:
            return 0
        return SWEEP_S if due.next_ms is None else (due.next_ms - now_ms) / 1000

    def _begin(self, heads: list[Head]) -> list[Head]:
        """Give places to these heads, as far as there are any: those whose turn it is."""
        numbers = Counter(place.lane for place in self._taken)
        waiting: defaultdict[_Lane, list[Head]] = defaultdict(list)
        for head in reversed(heads):  # so that the last one is due longest
            place = _place_of(head)
            if place not in self._taken:
                waiting[place.lane].append(head)
        most = {lane: 1 if waiting[lane][-1].is_failing else _PLACES_EACH for lane in waiting}
        turns = [
            (numbers[lane], waiting[lane][-1].next_attempt_ms, lane)
            for lane in waiting
            if numbers[lane] < most[lane]
        ]
        heapify(turns)
        begun = []
        while turns and len(self._taken) < _PLACES:
            number, _, lane = heappop(turns)
            head = waiting[lane].pop()
            self._taken.add(_place_of(head))
            begun.append(head)
            if waiting[lane] and number + 1 < most[lane]:
                heappush(turns, (number + 1, waiting[lane][-1].next_attempt_ms, lane))
        return begun

    async def _attempt(self, head: Head) -> None:
        """Make one attempt, and keep its place until that is recorded."""
        try:
            await self._send_and_record(head.id)
        except (StorageFull, Unavailable):
            pass  # it was not sent, and will be found again
        except Exception as exc:  # noqa: BLE001 - its owner: one delivery's fault ends nothing else
            _log_fault(head.id, exc)
            await trio.sleep(_RETRY_S)  # without a record, it would be found again at once
        finally:
            self._taken.remove(_place_of(head))
            self._bus.publish(outbox.SUBJECT, Notified(outbox.SUBJECT))

    async def _send_and_record(self, delivery_id: str) -> None:
        found = await self._store.run(outcomes.to_send, delivery_id)
        if found is None:
            return
        at_ms = self._clock.now_ms()
        try:
            answer = await self._send(found, at_ms)
        except Exception as exc:  # noqa: BLE001 - as above, and this attempt has failed
            _log_fault(delivery_id, exc)
            answer = Answer(error="the hub met a fault of its own; its log has it", duration_ms=0)
        self._attempts["delivered" if answer.error is None else "failed"] += 1
        share = self._share()
        while True:
            now_ms = self._clock.now_ms()
            try:
                await self._store.run(outcomes.record, delivery_id, answer, at_ms, now_ms, share)
            except (StorageFull, Unavailable) as exc:
                # Forgotten, it would be sent again, and again.
                extra = {"delivery_id": delivery_id, "why": exc.message}
                _log.error("what came of a delivery cannot be recorded yet", extra=extra)
                await trio.sleep(_RETRY_S)
            else:
                return

    async def _send(self, found: ToSend, at_ms: int) -> Answer:
        delivery, webhook, machine_name = found
        event = {
            "id": delivery.event_id,
            "type": delivery.type,
            "timestamp": rfc3339(delivery.created_ms),
            "seq": delivery.seq,
            "data": delivery.data,
            "machine_name": machine_name,  # for presets alone
        }
        outgoing = render(webhook.preset, webhook.url, event)
        signed = signed_headers(webhook.secret, delivery.event_id, at_ms // 1000, outgoing.body)
        headers = {**webhook.headers, **outgoing.headers, **signed}
        return await self._sender.post(outgoing.url, headers, outgoing.body)

    async def _note_leap(self, now_ms: int) -> None:
        """If the wall clock was set back, have sent now what it would put off."""
        ahead_s = now_ms / 1000 - trio.current_time()
        if self._ahead_s is None:
            await self._store.run(outbox.mend, now_ms)
        elif self._ahead_s - ahead_s > LEAP_S:
            await self._store.run(leftovers.leave_every)
        self._ahead_s = ahead_s


def _place_of(head: Head) -> _Place:
    return _Place(_Lane(head.webhook_id, head.is_test), head.subject)


def _log_fault(delivery_id: str, exc: Exception) -> None:
    """Without the exception's text: it may quote a URL, and that may have a token in it."""
    frames = "".join(traceback.format_tb(exc.__traceback__))
    _log.error(
        "a delivery met a fault",
        extra={"delivery_id": delivery_id, "error": type(exc).__name__, "frames": frames},
    )
