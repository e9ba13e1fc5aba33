"""kill -9 of the hub under load: what it acknowledged is there once, by a ledger kept outside."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.torture.asks import Ask, PatientApi, judge, new_ask
from tests.torture.clients import clients_at_work
from tests.torture.parts import Case, Part, Stage
from tests.torture.site import running_site

_CLIENTS = 6
_UNDER_WAY = (1, 4)  # commands of one client
_LASTS_S = (0.0, 0.2)
_OUTPUT_BYTES = 20_000
_UP_S = (0.0, 1.0)  # of the hub, between its first answer and its next death


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    with running_site(stage.place) as site:
        ledger: dict[str, Ask] = {}  # what the hub has acknowledged, by the id that it gave
        machine_id, folder = site.agent.machine_id, site.place / "asks"

        def ask_some(dice: Random) -> None:
            api, new = site.api, {}
            for _ in range(dice.randint(*_UNDER_WAY)):
                lasts_s = dice.uniform(*_LASTS_S)
                ask = new_ask(folder, dice, lasts_s=lasts_s, most_bytes=_OUTPUT_BYTES)
                command_id = api.ask(machine_id, ask)
                assert command_id not in ledger, f"{command_id} answers two keys"
                ledger[command_id] = new[command_id] = ask
            for command_id, ask in new.items():
                judge(api, api.end_of(command_id), ask)

        with clients_at_work(site, stage.seed, _CLIENTS, _UP_S, ask_some) as case:
            yield case
        _judge_nothing_else(site.api, {ask.command: ask for ask in ledger.values()})
        stage.say(f"hub-kills-ledger: {len(ledger)} commands acknowledged, all judged")


def _judge_nothing_else(api: PatientApi, asked: dict[str, Ask]) -> None:
    """Fail if the hub holds a command that nobody asked for, or one twice."""
    held = [record["command"] for record in api.all("/commands", sort="created_at")]
    assert len(held) == len(set(held)), "a command is there twice"
    unknown = set(held) - set(asked)
    assert not unknown, f"{len(unknown)} commands that nobody asked for, such as {unknown.pop()}"
    for ask in asked.values():
        assert ask.starts == 1, f"{ask.tag} was started {ask.starts} times"


HUB_KILLS_LEDGER = Part("hub-kills-ledger", 500, 8.0, _stage)
