"""The client in its three kinds: synchronous, and asynchronous on Trio and on asyncio.

What a test says to the synchronous one is carried to an event loop in a thread of its own, where
every call, step of an iteration, and block of the asynchronous one has a task to itself.
"""

import inspect
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from cmdop_appliance import sdk

KINDS = ("sync", "trio", "asyncio")


class Kind:
    """What `Client` stands for now, and the loops that run."""

    def __init__(self) -> None:
        self.name = "sync"
        self._loops = ExitStack()
        self._portals: dict[str, BlockingPortal] = {}

    def portal(self) -> BlockingPortal:
        """The way into the loop of this kind."""
        if self.name not in self._portals:
            self._portals[self.name] = self._loops.enter_context(start_blocking_portal(self.name))
        return self._portals[self.name]

    def close(self) -> None:
        self._loops.close()


KIND = Kind()


def Client(*args: Any, **options: Any) -> Any:  # noqa: N802 - it stands for the class
    """A client of the kind that the test runs with."""
    if KIND.name == "sync":
        return sdk.Client(*args, **options)
    return Carried(sdk.AsyncClient(*args, **options), KIND.portal())


class Carried:
    """Something that lives in a loop, seen from outside."""

    def __init__(self, thing: Any, portal: BlockingPortal) -> None:
        self._thing = thing
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        return self._wrapped(getattr(self._thing, "aclose" if name == "close" else name))

    def __call__(self, *args: Any, **options: Any) -> Any:
        async def call() -> Any:
            given = self._thing(*args, **options)
            return await given if inspect.isawaitable(given) else given

        return self._wrapped(self._portal.call(call))

    def _wrapped(self, given: Any) -> Any:
        lives = (
            callable(given)
            or inspect.isasyncgen(given)
            or isinstance(given, AbstractAsyncContextManager)
            or type(given).__module__.startswith("cmdop_appliance.sdk.aio.")
        )
        return Carried(given, self._portal) if lives else given

    def __enter__(self) -> Any:
        return self._wrapped(self._portal.call(self._thing.__aenter__))

    def __exit__(self, *why: Any) -> Any:
        return self._portal.call(self._thing.__aexit__, *why)

    def __iter__(self) -> "Carried":
        return self

    def __next__(self) -> Any:
        try:
            return self._wrapped(self._portal.call(self._thing.__anext__))
        except StopAsyncIteration:
            raise StopIteration from None
