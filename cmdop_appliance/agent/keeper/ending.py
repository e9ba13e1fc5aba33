"""Ending a command and every process it brought into the world.

    SIGTERM to its process group ── grace ── SIGKILL to every descendant, until none is left
           └ its leader has ended: SIGTERM to the descendants that had none yet

A terminal hangs up: every group of its session gets SIGHUP and SIGTERM at once, because an
interactive shell ignores the one, and what runs in it stands in groups of its own.

A descendant is: in its group or session, a child of a descendant (now or at an earlier look), or
started with its CMDOP_COMMAND_ID, which catches what changed session and lost its parent.
"""

import os
import signal
from contextlib import suppress

from cmdop_appliance.agent.keeper import linux
from cmdop_appliance.agent.keeper.linux import Process
from cmdop_appliance.agent.keeper.spawn import ID_VARIABLE

KILL_GRACE_S = 10.0  # semantics: a command has this long between SIGTERM and SIGKILL
KILL_PATIENCE_S = 5.0  # a process in uninterruptible sleep outlasts SIGKILL: we report without it
_FIRST_PAUSE_S = 0.005  # between two looks; doubled each time
_MAX_PAUSE_S = 0.5


class Ending:
    """The end of one command, from SIGTERM on. Call `look` at `next_look`, until it says True."""

    __slots__ = (
        "_family",
        "_kill_at",
        "_leader",
        "_leader_ended",
        "_mark",
        "_pause",
        "_termed",
        "end",
        "killed",
        "next_look",
    )

    def __init__(
        self,
        command_id: str,
        leader: Process,
        end: str,
        *,
        hangs_up: bool,
        now: float,
        grace: float,
    ) -> None:
        """Send SIGTERM to the group of `leader`, which has not been waited for yet."""
        self.end = end  # "timeout", "cancelled" or "idle"
        self.killed = "SIGTERM"  # the strongest signal it took so far
        self.next_look = now
        self._leader = leader
        self._leader_ended = False
        self._mark = b"%s=%s" % (ID_VARIABLE, command_id.encode())
        self._family = {leader.pid: leader.start_ticks}
        self._kill_at = now + grace
        self._pause = _FIRST_PAUSE_S
        family = self._living(linux.processes()).values()
        groups = {leader.pid}
        numbers = [signal.SIGTERM, signal.SIGCONT]  # a stopped process acts on no SIGTERM
        if hangs_up:
            groups |= {process.group for process in family if process.session == leader.pid}
            numbers.insert(0, signal.SIGHUP)
        self._termed = {process.pid for process in family if process.group in groups}
        for group in groups:
            for number in numbers:
                with suppress(ProcessLookupError, PermissionError):  # gone, or another user's
                    os.killpg(group, number)

    def leader_ended(self, now: float) -> None:
        """The leader has been waited for: only the rest of its descendants is left."""
        self._leader_ended = True
        self._pause = _FIRST_PAUSE_S
        self.next_look = now

    def look(self, table: dict[int, Process], now: float) -> bool:
        """Signal what is left of the command. True: nothing is, or nothing more can be done."""
        living = self._living(table).values()
        if now >= self._kill_at:
            if living and self.killed != "SIGKILL":
                self.killed = "SIGKILL"
                self._pause = _FIRST_PAUSE_S
            for process in living:
                linux.send_signal(process, signal.SIGKILL)
        elif self._leader_ended:
            for process in living:
                if process.pid not in self._termed:
                    self._termed.add(process.pid)
                    linux.send_signal(process, signal.SIGTERM)
        if self._leader_ended and (not living or now >= self._kill_at + KILL_PATIENCE_S):
            return True
        self.next_look = now + self._pause
        if now < self._kill_at:
            self.next_look = min(self.next_look, self._kill_at)
        self._pause = min(2 * self._pause, _MAX_PAUSE_S)
        return False

    def _living(self, table: dict[int, Process]) -> dict[int, Process]:
        leader = self._leader
        # Once the number of the leader is another process's, no group or session bears it.
        now_there = table.get(leader.pid)
        ours = now_there is None or now_there.start_ticks == leader.start_ticks
        candidates = [p for p in table.values() if p.start_ticks >= leader.start_ticks]
        living = {
            p.pid: p
            for p in candidates
            if self._family.get(p.pid) == p.start_ticks
            or (ours and leader.pid in (p.group, p.session))
            or linux.carries(p.pid, self._mark)
        }
        count = -1
        while count != len(living):
            count = len(living)
            living.update({p.pid: p for p in candidates if p.parent in living})
        self._family = {p.pid: p.start_ticks for p in living.values()}
        return living
