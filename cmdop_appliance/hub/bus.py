"""The bus: how the parts of the hub wake each other, in one process today, in several later.

It carries only what may be lost: every message is a hint about something that stands in the store
or, as what was typed, is said again. Who waits gets a message, or None, which means "look for
yourself": nothing was heard for 5 s, or something was dropped. That is the sweep by which a lost
wake-up is found.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio

from cmdop_appliance.errors import Unavailable

# A subscriber that misses a wake-up looks into the store after this (house.md).
SWEEP_S: Final = 5.0
# Messages that wait for one subscriber; more are dropped and it is told to look for itself.
_QUEUE: Final = 256


@dataclass(frozen=True, slots=True)
class Notified:
    """What the store published: a transaction that notifies `subject` is committed."""

    subject: str


class Subscription(Protocol):
    """Messages of its subjects, in the order they came."""

    async def next(self) -> Any:
        """The next message, or None: look for yourself.

        Raises:
            Unavailable: the hub is stopping.
        """
        ...

    @property
    def waiting(self) -> int:
        """How many messages are here already."""
        ...


class Bus(Protocol):
    """Publish, subscribe, and ask."""

    def publish(self, subject: str, message: object) -> None:
        """Tell everyone who listens now; never waits."""
        ...

    def subscribe(self, *subjects: str) -> Any:
        """A context manager that gives a `Subscription` to everything published within it."""
        ...

    async def request(self, subject: str, question: object, timeout_s: float) -> Any:
        """The first answer to `question`, or None: nobody listens, or nobody answered in time."""
        ...


class Request:
    """A question as its receiver sees it."""

    def __init__(self, question: object) -> None:
        self.question = question
        self._answered = trio.Event()
        self._answer: object = None

    def answer(self, value: object) -> None:
        """Give the answer; only the first one counts."""
        if not self._answered.is_set():
            self._answer = value
            self._answered.set()

    async def wait_answer(self) -> object:
        """The answer, once there is one."""
        await self._answered.wait()
        return self._answer


class LocalBus:
    """The engine for one process."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, list[_LocalSubscription]] = {}
        self._stopped = False

    def publish(self, subject: str, message: object) -> None:
        """Tell everyone who listens now; never waits."""
        for subscription in self._subscriptions.get(subject, ()):
            subscription.put(message)

    @contextmanager
    def subscribe(self, *subjects: str) -> Iterator["_LocalSubscription"]:
        """Listen to `subjects` within the block."""
        subscription = _LocalSubscription(stopped=self._stopped)
        for subject in subjects:
            self._subscriptions.setdefault(subject, []).append(subscription)
        try:
            yield subscription
        finally:
            for subject in subjects:
                listeners = self._subscriptions[subject]
                listeners.remove(subscription)
                if not listeners:
                    del self._subscriptions[subject]

    async def request(self, subject: str, question: object, timeout_s: float) -> Any:
        """The first answer to `question`, or None."""
        if subject not in self._subscriptions:
            return None
        request = Request(question)
        self.publish(subject, request)
        with trio.move_on_after(timeout_s):
            return await request.wait_answer()
        return None

    @property
    def is_stopped(self) -> bool:
        """True: nothing more will be heard."""
        return self._stopped

    def stop(self) -> None:
        """Wake every subscriber, now and later, with `Unavailable`: the hub is stopping."""
        self._stopped = True
        for listeners in self._subscriptions.values():
            for subscription in listeners:
                subscription.stop()


class _LocalSubscription:
    def __init__(self, *, stopped: bool) -> None:
        self._send, self._receive = trio.open_memory_channel[object](_QUEUE)
        self._dropped = False
        if stopped:
            self._send.close()

    def put(self, message: object) -> None:
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            self._dropped = True
        except trio.ClosedResourceError:
            pass  # stopped: nobody will look

    def stop(self) -> None:
        self._send.close()

    @property
    def waiting(self) -> int:
        return self._receive.statistics().current_buffer_used

    async def next(self) -> Any:
        if self._dropped:
            self._dropped = False
            return None
        with trio.move_on_after(SWEEP_S):
            try:
                return await self._receive.receive()
            except trio.EndOfChannel:
                raise Unavailable("the hub is stopping", hint="try again in a moment") from None
        return None
