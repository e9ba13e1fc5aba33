"""Hub, agent and link fall at each protocol step, before and after the write, one and two deep.

The steps are those of tests/support/stepped.py. The first cases fall once, each of `SINGLES` in
turn; when these are through, each falls again with a second fault drawn from the seed, which
strikes while everybody recovers from the first.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Any

from tests.support.stepped import Fault, Victim
from tests.torture.asks import Ask, PatientApi, judge, new_ask, new_endless_ask
from tests.torture.parts import Case, Part, Stage
from tests.torture.site import Site, running_site

_LASTS_S = 0.05
# One that stays in the store and one that becomes a file (hub/live_stream.py: 8 KiB).
_OUTPUT_BYTES = (2_000, 60_000)
# A fault that finds no such step gets more commands to find it in, so often.
_ROUNDS = 8
# One case in some 300 arms its second fault just as the victim of that starts anew, and then nobody
# counts for it: it is planned once more.
_TRIES = 2
# No step of a case has this number: the steps are counted, and nobody falls.
_NEVER = Fault("hub", 10**9, "before")
# The steps of a case, a few more than one without faults has here: how a stream is cut into frames
# depends on the machine.
_STEPS: dict[Victim, int] = {"hub": 26, "agent": 28, "hub's link": 8, "agent's link": 14}


def _singles() -> list[Fault]:
    singles = [
        Fault(victim, step, when)
        for victim, count in _STEPS.items()
        for step in range(1, count + 1)
        for when in ("before", "after")
    ]
    Random("the same order for all").shuffle(singles)  # so that a short run has some of each
    return singles


SINGLES = _singles()


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    with running_site(stage.place, stepped=True) as site, site.revived():
        counted = _count_steps(site, Random(stage.seed))
        stage.say(f"sweep: without faults {counted}; {len(SINGLES)} cases fall once, others twice")
        lost = 0

        def case(number: int, dice: Random) -> None:
            nonlocal lost
            faults = [SINGLES[number % len(SINGLES)]]
            if number >= len(SINGLES):
                faults.append(dice.choice(SINGLES))
            try:
                for attempt in range(_TRIES * _ROUNDS):
                    if attempt % _ROUNDS == 0:
                        site.steps.plan(*faults)
                    lost += _ask_and_judge(site, dice, faults)
                    if not site.steps.planned():
                        break
                assert not site.steps.planned(), "a fault found no such step"
            except Exception as exc:
                exc.add_note(f"faults: {', '.join(map(str, faults))}")
                raise
            site.steps.plan_nothing()
            site.wait_up()

        yield case
        stage.say(f"sweep: {lost} commands were lost (start_unknown), none of them had started")


def _count_steps(site: Site, dice: Random) -> dict[Victim, int]:
    site.steps.forget_names()
    site.steps.plan(_NEVER)
    _ask_and_judge(site, dice, [_NEVER])
    site.steps.plan_nothing()
    hub, agent = site.steps.names("hub"), site.steps.names("agent")
    return {
        "hub": len(hub),
        "agent": len(agent),
        "hub's link": hub.count("send"),
        "agent's link": agent.count("send"),
    }


def _ask_and_judge(site: Site, dice: Random, faults: list[Fault]) -> int:
    """How many commands were lost, as they may be when an agent falls."""
    folder = site.place / "asks"
    asks = [new_ask(folder, dice, lasts_s=_LASTS_S, most_bytes=most) for most in _OUTPUT_BYTES]
    asks.append(new_endless_ask(folder, dice))
    site.asked += asks
    # An agent that dies between its journal and its keeper cannot know whether a command started.
    may_be_unknown = any(fault.victim == "agent" for fault in faults)
    lost = 0
    with ThreadPoolExecutor(len(asks)) as clients:
        for record, ask in clients.map(lambda ask: _carry_out(site, ask), asks):
            if may_be_unknown and record["status"] == "lost":
                _judge_unknown(record, ask)
                lost += 1
            else:
                judge(site.api, record, ask)
    return lost


def _carry_out(site: Site, ask: Ask) -> tuple[Any, Ask]:
    api = site.api
    command_id = api.ask(site.agent.machine_id, ask)
    if ask.exit_code is None:
        _cancel(api, command_id)
    return api.end_of(command_id), ask


def _cancel(api: PatientApi, command_id: str) -> None:
    answer = api.call("DELETE", f"/commands/{command_id}")
    if answer.status == 409:  # it was lost meanwhile
        assert answer.error["code"] == "command_not_running", answer
    else:
        assert answer.data == {"cancelled": True}, answer


def _judge_unknown(record: Any, ask: Ask) -> None:
    assert record["error"]["code"] == "start_unknown", record["error"]
    assert record["exit_code"] is None, record
    # The keeper lives, and would know of a start.
    assert ask.starts == 0, f"{record['id']} was started {ask.starts} times"


SWEEP = Part("sweep", 1000, 6.0, _stage)
