"""The hub restarted, then kill -9 of the agent, in mid-vim: the same screen, and each key once."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from string import ascii_lowercase

from tests.support.appliance import wait_for
from tests.support.typist import Typist, typist
from tests.torture.asks import PATIENCE_S
from tests.torture.parts import Case, NotTriedError, Part, Stage
from tests.torture.site import Site, running_site

_COLS, _ROWS = 80, 24
_LINES = (3, 12)
_WORD = (1, 8)
_PAUSE_S = (0.0, 0.05)  # between two words that somebody types
_DEAD_S = (0.0, 0.3)
_ESCAPE = "\x1b"


def _words(dice: Random) -> Iterator[str]:
    """What somebody types into an editor: words, each with the blank or the line end behind it."""
    for _ in range(dice.randint(*_LINES)):
        for _ in range(dice.randint(1, 6)):
            yield "".join(dice.choices(ascii_lowercase, k=dice.randint(*_WORD))) + " "
        yield "\r"


def _type(person: Typist, dice: Random, typed: list[str]) -> None:
    for word in _words(dice):
        person.type(word)
        typed.append(word)
        time.sleep(dice.uniform(*_PAUSE_S))


def _fall(site: Site, dice: Random) -> None:
    """The hub goes, by kill -9 or as it should, and is back; then the agent by kill -9."""
    if dice.random() < 0.5:
        site.hub.kill()
    else:
        site.hub.stop()
    time.sleep(dice.uniform(*_DEAD_S))
    site.start_hub()
    if dice.random() < 0.5:
        site.wait_up()
    site.agent.kill()
    time.sleep(dice.uniform(*_DEAD_S))
    site.start_agent()


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    vim = shutil.which("vim")
    if vim is None:
        raise NotTriedError("there is no vim here")
    with running_site(stage.place, quick=False) as site:
        machine_id = site.agent.machine_id

        def case(number: int, dice: Random) -> None:
            file = site.place / f"{number}.txt"
            opened = site.api.post(
                f"/machines/{machine_id}/terminals",
                argv=[vim, "-u", "NONE", "-N", "-n", str(file)],
                cols=_COLS,
                rows=_ROWS,
            )
            terminal_id = opened["id"]
            typed: list[str] = []
            with typist(site.api, terminal_id, cols=_COLS, rows=_ROWS) as person:
                person.wait_screen("~")
                person.type("i")
                _type(person, dice, typed)
                _fall(site, dice)
                _type(person, dice, typed)
                site.wait_up()
                person.type(_ESCAPE + ":w\r")
                expected = "".join(typed).replace("\r", "\n") + "\n"
                wait_for(file.exists, "vim writes its file", PATIENCE_S)
                wait_for(
                    lambda: file.read_text() == expected or not file.read_text(), "a whole file"
                )
                assert file.read_text() == expected, f"{file.read_text()!r} for {expected!r}"
                here = person.wait_screen("written")
                with typist(site.api, terminal_id, mode="observer") as other:
                    seen = other.wait_screen("written")
                assert seen == here, f"another viewer sees\n{seen}\ninstead of\n{here}"
                person.type(":q\r")
                end = person.wait_end()
                assert (end["end"], end["exit_code"]) == ("exited", 0), end

        yield case


TERMINALS_KILLS = Part("terminals-kills", 50, 30.0, _stage)
