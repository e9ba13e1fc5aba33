"""kill -9 of a hub, and of its agent, at any moment: each command once, with its true end."""

import hashlib
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from cmdop_appliance.sdk import Client
from cmdop_appliance.selftest.ledger import BrokenPromiseError
from cmdop_appliance.selftest.site import PATIENCE_S, Site

_SIDE_BY_SIDE: Final = 6
_OUTPUT_BYTES: Final = 50_000
_LASTS_S: Final = (0.0, 0.4)
_AFTER_S: Final = (0.0, 0.8)  # from the first command to the kill
_LOOK_S: Final = 0.05
# One kill in so many is also one of the agent.
_AGENT_TOO: Final = 3


@dataclass(frozen=True, slots=True)
class _Ask:
    """A command, and what it will have done."""

    tag: str  # its Idempotency-Key
    text: str
    size: int  # bytes that it writes
    exit_code: int
    marks: Path  # each start leaves a line there


class Kills:
    """Kills one site; what it was asked for is kept beside it."""

    def __init__(self, site: Site, client: Client) -> None:
        self._site = site
        self._client = client
        self._machine_id = next(iter(client.machines.list(status="online")))["id"]
        self.commands = 0

    def kill(self, dice: Random) -> None:
        """Ask for some commands, kill in their midst, and look at what became of each.

        Raises:
            BrokenPromiseError: one is lost, or ran twice, or has another end than it had.
        """
        with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            asks = [_new_ask(dice, self._site.folder) for _ in range(_SIDE_BY_SIDE)]
            done = [pool.submit(self._run_one, ask) for ask in asks]
            time.sleep(dice.uniform(*_AFTER_S))
            self._site.kill_hub()
            if dice.randrange(_AGENT_TOO) == 0:
                self._site.kill_agent()
                self._site.start_agent()
            self._site.start_hub()
            for each in done:
                each.result()
        self.commands += _SIDE_BY_SIDE

    def _run_one(self, ask: _Ask) -> None:
        with self._client.copy() as client:
            command_id = client.commands.start(self._machine_id, ask.text, idempotency_key=ask.tag)[
                "id"
            ]
            give_up = time.monotonic() + PATIENCE_S
            while not (record := client.commands.get(command_id))["finished_at"]:
                if time.monotonic() > give_up:
                    raise BrokenPromiseError(f"{command_id} does not end")
                time.sleep(_LOOK_S)
        told = (record["exit_code"], record["stdout_bytes"], record["stdout_sha256"])
        expected = (ask.exit_code, ask.size, hashlib.sha256(b"x" * ask.size).hexdigest())
        starts = ask.marks.read_bytes().count(b"\n") if ask.marks.exists() else 0
        if told != expected or starts != 1:
            raise BrokenPromiseError(
                f"{command_id} ({record['status']}): exit code, bytes and sha256 are {told} and"
                f" were {expected}; it was started {starts} times"
            )
        ask.marks.unlink()


def _new_ask(dice: Random, folder: Path) -> _Ask:
    tag = f"{dice.getrandbits(64):016x}"
    marks = folder / f"{tag}.marks"
    size, exit_code = dice.randint(0, _OUTPUT_BYTES), dice.choice((0, 0, 3))
    text = (
        f"echo started >>{shlex.quote(str(marks))}; sleep {dice.uniform(*_LASTS_S):.2f};"
        f" head -c {size} /dev/zero | tr '\\0' x; exit {exit_code}"
    )
    return _Ask(tag, text, size, exit_code, marks)
