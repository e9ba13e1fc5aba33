"""The bus: how the parts of the hub wake each other, in one process today, in several later.

It carries only what may be lost: every message is a hint about something that stands in the store
or, as what was typed, is said again. Who waits gets a message, or None, which means "look for
yourself": nothing was heard for 5 s, or something was dropped. That is the sweep by which a lost
wake-up is found.
"""

from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

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

    async def next(self, sweep_s: float | None = None) -> Any:
        """The next message, or None: look for yourself; also when `sweep_s` (SWEEP_S) have passed.

        It lets nobody else run while there are messages, of which there are only so many.

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

    def subscribe(self, *subjects: str) -> "_LocalSubscription":
        """Listen to `subjects` within the block."""
        return _LocalSubscription(self, subjects)

    def add(self, subscription: "_LocalSubscription", subjects: tuple[str, ...]) -> None:
        """From now on it hears what is published."""
        for subject in subjects:
            self._subscriptions.setdefault(subject, []).append(subscription)

    def remove(self, subscription: "_LocalSubscription", subjects: tuple[str, ...]) -> None:
        """It hears no more."""
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
                subscription.wake()


class _LocalSubscription:
    # One is made for each command that somebody waits for, and a connection of a machine has some
    # for as long as it stands: a channel of Trio's takes 2.4 KB, and twice the time.
    __slots__ = ("__weakref__", "_bus", "_dropped", "_messages", "_subjects", "_waiter")

    def __init__(self, bus: LocalBus, subjects: tuple[str, ...]) -> None:
        self._bus = bus
        self._subjects = subjects
        self._messages: list[object] = []
        self._dropped = False
        self._waiter: trio.lowlevel.Task | None = None

    def __enter__(self) -> Self:
        self._bus.add(self, self._subjects)
        return self

    def __exit__(self, *_: object) -> None:
        self._bus.remove(self, self._subjects)

    def put(self, message: object) -> None:
        if self._bus.is_stopped:
            return  # nobody will look
        if len(self._messages) >= _QUEUE:
            self._dropped = True
        else:
            self._messages.append(message)
            self.wake()

    def wake(self) -> None:
        if self._waiter is not None:
            trio.lowlevel.reschedule(self._waiter)
            self._waiter = None

    @property
    def waiting(self) -> int:
        return len(self._messages)

    async def next(self, sweep_s: float | None = None) -> Any:
        if self._dropped:
            self._dropped = False
            return None
        if not self._messages and not self._bus.is_stopped:
            with trio.move_on_after(SWEEP_S if sweep_s is None else max(0, sweep_s)):
                await self._park()
        if self._messages:
            return self._messages.pop(0)
        if self._bus.is_stopped:
            raise Unavailable("the hub is stopping", hint="try again in a moment")
        return None

    async def _park(self) -> None:
        assert self._waiter is None  # it is one task's

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiter = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiter = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
