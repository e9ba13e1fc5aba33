"""Clients that work on, whatever becomes of their hub."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from tests.support.appliance import wait_for
from tests.torture.asks import PATIENCE_S
from tests.torture.parts import Case
from tests.torture.site import Site


@contextmanager
def clients_at_work(
    site: Site, seed: str, count: int, up_s: tuple[float, float], work: Callable[[Random], None]
) -> Iterator[Case]:
    """Within, so many do their `work` over and over. A case is a kill of the hub, and its return.

    `up_s`: how long the hub lives after its first answer. What failed for a client, the next case
    raises, or the end.
    """
    with clients(seed, count, work) as raise_trouble:

        def case(_number: int, dice: Random) -> None:
            wait_for(lambda: site.api.call("GET", "/auth/me").status == 200, "the hub", PATIENCE_S)
            time.sleep(dice.uniform(*up_s))
            site.hub.kill()
            site.start_hub()
            raise_trouble()

        yield case


@contextmanager
def clients(seed: str, count: int, work: Callable[[Random], None]) -> Iterator[Callable[[], None]]:
    """Within, so many do their `work` over and over.

    What is given raises what failed for one of them, and so does the end.
    """
    over = threading.Event()
    troubles: list[Exception] = []

    def client(number: int) -> None:
        dice = Random(f"{seed}/{number}")
        try:
            while not over.is_set():
                work(dice)
        except Exception as exc:  # noqa: BLE001 - raised below
            troubles.append(exc)

    def raise_trouble() -> None:
        if troubles:
            raise troubles[0]

    threads = [
        threading.Thread(target=client, args=(number,), name=f"client {seed}/{number}")
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        yield raise_trouble
    finally:
        over.set()
        for thread in threads:
            thread.join()
    raise_trouble()
