"""A command on many machines: its ends as they come, and what each of them comes to."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from cmdop_appliance.cli.folding import Outcome
from cmdop_appliance.cli.follow import OURS, TIMED_OUT
from cmdop_appliance.cli.progress import StatusLine
from cmdop_appliance.sdk import Client, Conflict
from cmdop_appliance.sdk.types import Batch, Command, Refused

# Between two looks at a batch: at first as short as its commands may be, then as for a person.
_FIRST_PAUSE_S: Final = 0.05
_LAST_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one machine: a command that has ended, with its output, or a refusal."""

    machine: str
    record: dict[str, Any]  # the hub's own

    @property
    def end(self) -> str:
        """In a word or two: `completed`, `failed`, `skipped`, `not connected`…"""
        if self.is_offline:
            return "not connected"
        return str(self.record["status"]) if self._is_command else "refused"

    @property
    def is_offline(self) -> bool:
        """The machine was not there, and nothing waits for it."""
        return not self._is_command and self._error["code"] == "session_not_active"

    @property
    def exit_code(self) -> int:
        """What `cmdop exec` would have exited with."""
        code, status = self.record.get("exit_code"), self.record.get("status")
        if code is not None and status in ("completed", "failed"):
            return int(code)
        return TIMED_OUT if status == "timeout" else OURS

    @property
    def outcome(self) -> Outcome:
        """What a person is shown of it."""
        if not self._is_command:
            return Outcome(self.machine, self._said(), "")
        text = self.written("stdout")
        if errors := self.written("stderr"):
            text += "\n" if text and not text.endswith("\n") else ""
            text += f"[stderr]\n{errors}"
        sums = f"{self.record.get('stdout_sha256')} {self.record.get('stderr_sha256')}"
        return Outcome(self.machine, self._said(), text, sums)

    def written(self, stream: str) -> str:
        """What it wrote there, or its beginning and end if that is more than the hub gives."""
        text = str(self.record.get(stream) or "")
        if self.record.get(f"{stream}_truncated"):
            text += f"\n[{self.record[f'{stream}_bytes']} bytes: the middle is not shown]"
        return text

    @property
    def _is_command(self) -> bool:
        return "status" in self.record

    @property
    def _error(self) -> dict[str, str]:
        return self.record.get("error") or {"code": "", "message": ""}

    def _said(self) -> str:
        """How it ended; "": as it should."""
        if self.is_offline:
            return self.end
        if not self._is_command:
            return self._error["message"]
        status, code = self.record["status"], self.record["exit_code"]
        if code is not None:
            return f"exit {code}" if code else ""
        reason = self._error["message"]
        return f"{status}: {reason}" if reason else str(status)


def batch_id_of(batch: Batch) -> str | None:
    """Its id; None: nothing of it was recorded."""
    ids = [str(answer.get("batch_id")) for answer in batch.values() if "status" in answer]
    return ids[0] if ids else None


def refusals(batch: Batch) -> dict[str, Refused]:
    """Why nothing was recorded, by the ids of the machines that it is so for."""
    return {machine_id: answer for machine_id, answer in batch.items() if "status" not in answer}


def ends(client: Client, batch_id: str, line: StatusLine) -> Iterator[Command]:
    """Each command of a batch with its output, as it ends; `line` tells how far it is."""
    seen: set[str] = set()
    pause_s = _FIRST_PAUSE_S
    while True:
        commands = list(client.commands.list(batch_id=batch_id))
        for command in commands:
            if command["finished_at"] is not None and command["id"] not in seen:
                seen.add(command["id"])
                yield client.commands.get(command["id"])
        if len(seen) == len(commands):
            return
        if line.seconds_due() is not None:
            line.show("", _progress(commands))
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LAST_PAUSE_S)


def cancel_all(client: Client, batch_id: str) -> None:
    """End what waits in a batch, and then what runs: nothing is to begin in its place."""
    commands = list(client.commands.list(batch_id=batch_id))
    for command in sorted(commands, key=lambda each: each["started_at"] is not None):
        if command["finished_at"] is None:
            with suppress(Conflict):  # it has ended by itself, or as others were cancelled
                client.commands.cancel(command["id"])


def _progress(commands: Sequence[Command]) -> str:
    ended = [command for command in commands if command["finished_at"] is not None]
    failed = sum(command["status"] != "completed" for command in ended)
    running = sum(command["status"] == "running" for command in commands)
    silent = sum(c["stale_since"] is not None and c["finished_at"] is None for c in commands)
    parts = [f"{len(ended)} of {len(commands)} ended"]
    numbers = {"failed": failed, "running": running, "away": silent}
    return ", ".join(parts + [f"{number} {what}" for what, number in numbers.items() if number])
