"""The program as it is, but it dies, or its link does, at a step that a test names.

    python -m tests.support.stepped agent --state-dir DIR      STEPS=FILE RETRY_MOST_S=0.1

A step is a write that somebody may depend on: a commit, an appended or synced file, a request to
the keeper, a frame on the link. The file STEPS holds the faults to come, as JSON, and is shared by
hub and agent: whoever is the victim of the first counts its steps from the moment that this fault
is the first, and when it is due takes it from the file and falls. So the second fault of a pair
strikes while everybody recovers from the first.

RETRY_MOST_S makes an agent come back sooner than a fleet should; else a torture is mostly waiting.
"""

import functools
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Victim = Literal["hub", "agent", "hub's link", "agent's link"]

_SEND = "send"  # the one step that a link has


@dataclass(frozen=True, slots=True)
class Fault:
    """The victim falls before or after its step of this number, from 1; `of`: that name alone."""

    victim: Victim
    step: int
    when: Literal["before", "after"]
    of: str = ""

    def __str__(self) -> str:
        return f"{self.victim} {self.when} step {self.step} {self.of}".strip()


class Steps:
    """The file that tells a pair of processes when to fall, and what steps they went."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = path.with_suffix(".log")

    def plan(self, *faults: Fault) -> None:
        """These shall happen, each after the one before it."""
        self._write([asdict(fault) for fault in faults])

    def plan_nothing(self) -> None:
        """Nothing falls, and nothing is counted."""
        self.path.unlink(missing_ok=True)

    def planned(self) -> list[Fault]:
        """What has not happened yet."""
        try:
            return [Fault(**fields) for fields in json.loads(self.path.read_bytes())]
        except FileNotFoundError:
            return []

    def happened(self) -> None:
        """The first is no longer to come."""
        self._write([asdict(fault) for fault in self.planned()[1:]])

    def note(self, who: str, step: str) -> None:
        """For `names`, while anything is planned."""
        with self._log.open("a") as file:
            file.write(f"{who}\t{step}\n")

    def names(self, who: str) -> list[str]:
        """The steps that `who` went since `forget_names`."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line.partition("\t")[2] for line in lines if line.startswith(f"{who}\t")]

    def forget_names(self) -> None:
        self._log.unlink(missing_ok=True)

    def _write(self, faults: list[dict[str, Any]]) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(faults))
        new.rename(self.path)


class Stepper:
    """Counts the steps of this process."""

    def __init__(self, steps: Steps, who: Literal["hub", "agent"]) -> None:
        self._steps = steps
        self._who = who
        self._lock = threading.Lock()  # the hub commits in a thread
        self._first: list[Fault] = []  # as it was at the last step
        self._count = 0

    @contextmanager
    def step(self, name: str, link: socket.socket | None = None) -> Iterator[None]:
        """A write happens within; `link` is the connection, if that is what it writes to."""
        fault = self._due(name, link)
        if fault is not None and fault.when == "before":
            self._fall(fault, link)
        yield
        if fault is not None and fault.when == "after":
            self._fall(fault, link)

    def _due(self, name: str, link: socket.socket | None) -> Fault | None:
        with self._lock:
            planned = self._steps.planned()
            if not planned:
                return None
            self._steps.note(self._who, name)
            if planned != self._first:
                self._first, self._count = planned, 0
            fault = planned[0]
            if fault.victim not in (self._who, f"{self._who}'s link"):
                return None
            if (fault.victim != self._who and link is None) or fault.of not in ("", name):
                return None
            self._count += 1
            return fault if self._count == fault.step else None

    def _fall(self, fault: Fault, link: socket.socket | None) -> None:
        with self._lock:
            self._steps.happened()
            if fault.victim == self._who:
                os.kill(os.getpid(), signal.SIGKILL)
            assert link is not None
            link.shutdown(socket.SHUT_RDWR)


def _around(owner: Any, attribute: str, step: Callable[..., Any]) -> None:
    """Have each call of a method, async or not, happen within `step(self, *its arguments)`."""
    call = getattr(owner, attribute)

    @functools.wraps(call)
    def stepped(*args: Any, **kwargs: Any) -> Any:
        with step(*args):
            return call(*args, **kwargs)

    async def stepped_async(*args: Any, **kwargs: Any) -> Any:
        with step(*args):
            return await call(*args, **kwargs)

    setattr(owner, attribute, stepped_async if _is_async(call) else stepped)


def _is_async(call: Callable[..., Any] | Callable[..., Awaitable[Any]]) -> bool:
    return bool(call.__code__.co_flags & 0x80)  # inspect.CO_COROUTINE, without loading inspect


def _step_hub(stepper: Stepper) -> None:
    from cmdop_appliance.hub import live_stream, output
    from cmdop_appliance.hub.connection import Connection
    from cmdop_appliance.store.engine import Store

    _around(Store, "_commit", lambda *_: stepper.step("commit"))
    _around(live_stream, "_write", lambda *_: stepper.step("write output"))
    _around(output, "_sync", lambda *_: stepper.step("sync output"))
    _around(Connection, "send", lambda self, *_: stepper.step(_SEND, _socket_of(self._websocket)))


def _step_agent(stepper: Stepper) -> None:
    from cmdop_appliance.agent.journal import Journal
    from cmdop_appliance.agent.keeper_client import Keeper
    from cmdop_appliance.agent.link import Link

    _around(Journal, "_append", lambda *_: stepper.step("append to journal"))
    _around(Journal, "sync", lambda *_: stepper.step("sync journal"))
    _around(Keeper, "_send", lambda _, request: stepper.step(f"ask keeper to {request['do']}"))
    _around(Link, "send", lambda self, *_: stepper.step(_SEND, _socket_of(self._ws)))


def _socket_of(websocket: Any) -> Any:
    stream = websocket._stream
    while not hasattr(stream, "socket"):
        stream = stream._stream
    return stream.socket


def _come_back_within(most_s: float) -> None:
    from cmdop_appliance.agent import main
    from cmdop_appliance.agent.pace import Pace

    pace = Pace(retry_least_s=most_s / 4, retry_most_s=most_s)
    main.serve = functools.partial(main.serve, pace=pace)


def main() -> None:
    """Run the program."""
    from cmdop_appliance.__main__ import main as run

    who: Literal["hub", "agent"] = "hub" if "serve" in sys.argv else "agent"
    if (path := os.environ.pop("STEPS", None)) is not None:
        stepper = Stepper(Steps(Path(path)), who)
        _step_hub(stepper) if who == "hub" else _step_agent(stepper)
    if (most := os.environ.pop("RETRY_MOST_S", None)) is not None:
        _come_back_within(float(most))
    run()


if __name__ == "__main__":
    main()
