"""What the keeper holds of a command while it runs."""

import signal

from cmdop_appliance.agent.keeper.ending import Ending
from cmdop_appliance.agent.keeper.files import output_sizes
from cmdop_appliance.agent.keeper.pty import Pty
from cmdop_appliance.agent.keeper.records import Event, Record
from cmdop_appliance.agent.keeper.requests import Start


class Command:
    """A command whose leader runs, or whose descendants are being ended."""

    __slots__ = (
        "deadline",
        "ended",
        "ending",
        "idle_at",
        "idle_s",
        "pty",
        "record",
        "room_until",
        "started",
    )

    def __init__(self, record: Record, pty: Pty | None, start: Start, started: float) -> None:
        self.record = record
        self.pty = pty  # None: it runs in no terminal
        self.started = started  # on the clock of main.py, as all that follows
        self.deadline = started + _seconds(start.timeout_ms)
        self.idle_s = _seconds(start.idle_ms)
        self.idle_at = started + self.idle_s
        self.ending: Ending | None = None
        self.ended: Event = {}  # the event of its leader's end, held back while it has descendants
        # It is over, and its end held back until then: its output waits for room on the disk.
        self.room_until: float | None = None

    def leader_ended(self, exit_code: int, now: float) -> None:
        """Have the event of its leader's end; a negative `exit_code` is that of a signal."""
        assert self.record.slot is not None
        stdout_bytes, stderr_bytes = output_sizes(self.record.slot)
        self.ended = {
            "event": "exited",
            "id": self.record.id,
            "exit_code": exit_code if exit_code >= 0 else None,
            "signal": _signal_name(-exit_code) if exit_code < 0 else None,
            "end": "exited",
            "duration_ms": round((now - self.started) * 1000),
            "stdout_bytes": stdout_bytes,
            "stderr_bytes": stderr_bytes,
            "killed": None,
        }


def _seconds(milliseconds: int | None) -> float:
    return float("inf") if milliseconds is None else milliseconds / 1000


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # only the first and the last real-time signal have a name
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
