"""The keeper process: one loop that starts, watches and ends commands, whoever listens or not.

    agent → keeper   {"do":"start", …}   {"do":"cancel","id"}   {"do":"forget","ids"}
                     terminals: input, resize, watch, touch
    keeper → agent   hello, one `record` per known command, ready; from then on, as they happen:
                     started, refused, exited; of terminals also written, taken

Of terminals nothing is told before {"do":"terminals"}, which is answered by their records and
`ready`: an agent that was rolled back to the first release knows none, and works beside them.

Lines of JSON over `keeper.sock`, one agent at a time, a new one replaces the old. What starts and
ends is in the log before it is told. A start of a known id is answered with its record and starts
nothing.
"""
# ruff: noqa: PTH100, PTH102, PTH108, PTH116, PTH118 - without pathlib, see the package

import gc
import os
import select
import sys
import time
from contextlib import suppress

from cmdop_appliance.agent.keeper import linux
from cmdop_appliance.agent.keeper.command import Command
from cmdop_appliance.agent.keeper.ending import KILL_GRACE_S, Ending
from cmdop_appliance.agent.keeper.environment import original_environment, process_environment
from cmdop_appliance.agent.keeper.files import (
    OUTPUT,
    OutputPool,
    make_private_folder,
    remove_output,
)
from cmdop_appliance.agent.keeper.link import Agent
from cmdop_appliance.agent.keeper.process import AlreadyKept, catch_signals, listen, take_lock
from cmdop_appliance.agent.keeper.pty import Pty
from cmdop_appliance.agent.keeper.records import Event, Log, apply, encode, read_log
from cmdop_appliance.agent.keeper.requests import (
    Cancel,
    Forget,
    Input,
    Resize,
    Start,
    TerminalRequest,
    Terminals,
    Touch,
    parse,
)
from cmdop_appliance.agent.keeper.screens import Screens
from cmdop_appliance.agent.keeper.spawn import Refused, Spawner

WIRE_VERSION = 1
FEATURES = ("pty",)  # what came after the first release, which names none
IDLE_EXIT_S = 60.0  # without an agent and a live command; the next agent starts a new keeper
ALREADY_KEPT = 75  # exit code, EX_TEMPFAIL of sysexits.h: another keeper has this directory

_HOUSEKEEPING_S = 15.0  # longest sleep; epoll does not count the time a machine is suspended
# The end of a command in a terminal waits so long for room on the disk for its last output.
ROOM_PATIENCE_S = 60.0
_ROOM_RETRY_S = 0.5
_WAKEUP_BYTES = 4096  # one byte per signal
_MOST_READY = 16  # served before we look again who else is: terminals can keep us busy


class Keeper:
    """Owns the commands of one state directory, whose `keeper` folder is the current directory."""

    def __init__(
        self,
        state_dir: str,
        lock: int,
        *,
        kill_grace: float,
        idle_exit: float,
        room_patience: float,
    ) -> None:
        self._keeper_id = os.urandom(8).hex()
        self._boot_id = linux.boot_id()
        self._lock = lock
        self._lock_path = os.path.join(state_dir, "keeper", "keeper.lock")
        self._kill_grace = kill_grace
        self._idle_exit = idle_exit
        self._room_patience = room_patience

        self._records = read_log(state_dir)
        self._log = Log()
        self._pool = OutputPool(r.slot for r in self._records.values() if r.slot is not None)
        self._spawner = Spawner(original_environment(process_environment()), self._pool)
        self._commands: dict[str, Command] = {}
        self._leaders: dict[int, Command] = {}  # by pid, until they are waited for

        self._idle_since = _now()
        self._wake_at = self._idle_since
        self._has_chores = True
        self._done = False
        self._child_ended = False
        self._asked_to_stop = False

        self._listener = listen()
        self._wakeup = catch_signals(self._note_child, self._note_stop)
        self._epoll = select.epoll()
        self._agent = Agent(self._epoll, self._records, self._agent_gone)
        self._screens = Screens(self._epoll, self._agent.tell_now)
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(self._wakeup, select.EPOLLIN)

    def run(self) -> None:
        """Serve until nobody needs a keeper here."""
        while not self._done:
            wake_at = min(self._wake_at, self._screens.wake_at)
            patience = 0.0 if self._has_chores else max(0.0, wake_at - _now())
            ready = self._epoll.poll(patience, _MOST_READY)
            for fd, happened in ready:
                if fd == self._wakeup:
                    os.read(fd, _WAKEUP_BYTES)
                elif fd == self._listener.fileno():
                    self._accept()
                elif (pty := self._screens.find(fd)) is not None:
                    self._screens.serve(pty, happened, _now())
                else:
                    self._serve(happened)
            if self._child_ended:
                self._reap()
            if self._asked_to_stop:
                self._stop()
            if _now() >= self._screens.wake_at:
                self._screens.resume(_now())
            if _now() >= self._wake_at:
                self._on_time()
            if self._has_chores and not ready:
                self._do_chore()
        if self._directory_is_ours():
            os.unlink("keeper.sock")

    # What the agent sends

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has hung up already
            return
        if linux.peer_uid(connection) not in (0, os.geteuid()):
            connection.close()
            return
        self._agent.connect(
            connection,
            {
                "event": "hello",
                "version": WIRE_VERSION,
                "keeper_id": self._keeper_id,
                "boot_id": self._boot_id,
                "pid": os.getpid(),
                "features": FEATURES,
            },
        )

    def _serve(self, happened: int) -> None:
        for line in self._agent.lines(happened):
            self._handle(line)
            if self._child_ended:
                self._reap()

    def _agent_gone(self, reason: str) -> None:
        if reason:
            _say(f"the agent's connection is closed: {reason}")
        self._screens.unwatch()
        self._start_idling()

    def _handle(self, line: bytes) -> None:
        try:
            match parse(line):
                case Start() as start:
                    self._start(start)
                case Cancel(command_id=command_id):
                    if (command := self._commands.get(command_id)) is not None:
                        self._end(command, "cancelled")
                case Forget(command_ids=command_ids):
                    self._forget(command_ids)
                case Terminals():
                    self._agent.tell_terminals()
                case terminal:
                    self._handle_terminal(terminal)
        except ValueError as error:
            self._agent.drop(f"not a request: {error}")
        except Exception:  # noqa: BLE001 - a bug met by one line must not end the commands
            sys.excepthook(*sys.exc_info())
            self._agent.drop("a bug of the keeper, see above")

    def _start(self, start: Start) -> None:
        command_id = start.command_id
        if (known := self._records.get(command_id)) is not None:
            self._agent.tell_of(command_id, encode(known.as_event()))
            return
        started, started_ms = _now(), time.time_ns() // 1_000_000
        try:
            pid, slot, pty = self._spawner.spawn(start)
        except Refused as refused:
            self._publish(
                {
                    "event": "refused",
                    "id": command_id,
                    "code": refused.code,
                    "message": refused.message,
                    "is_terminal": start.is_terminal,
                }
            )
            return
        event = {
            "event": "started",
            "id": command_id,
            "pid": pid,
            "start_ticks": linux.start_ticks(pid),
            "slot": slot,
            "started_ms": started_ms,
            "boot_id": self._boot_id,
            "keeper_id": self._keeper_id,
        }
        if start.pty is not None and start.is_terminal:
            cols, rows = start.pty
            event |= {"cols": cols, "rows": rows, "is_terminal": True}
        self._publish(event)
        command = Command(self._records[command_id], pty, start, started)
        self._commands[command_id] = self._leaders[pid] = command
        self._wake_at = min(self._wake_at, command.deadline, command.idle_at)
        if pty is not None:
            self._screens.add(pty)
        self._has_chores = True  # the pool has one slot less

    def _forget(self, command_ids: list[str]) -> None:
        gone = [i for i in command_ids if i in self._records and i not in self._commands]
        if not gone:
            return
        for command_id in gone:
            record = self._records[command_id]
            if record.slot is not None:
                remove_output(record.slot, has_screen=record.is_terminal)
        event = {"event": "forgotten", "ids": gone}
        apply(self._records, event)
        self._append(encode(event))

    def _handle_terminal(self, request: TerminalRequest) -> None:
        command = self._commands.get(request.terminal_id)
        if command is None or command.pty is None or not command.record.is_terminal:
            return  # it has ended, which is told or was
        if isinstance(request, Input | Touch):
            command.idle_at = _now() + command.idle_s
        elif isinstance(request, Resize):
            command.record.cols, command.record.rows = request.cols, request.rows
        self._screens.handle(command.pty, request)

    # What happens to commands

    def _reap(self) -> None:
        self._child_ended = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # Others are orphans: descendants of commands, for us to wait for as their subreaper.
            if (command := self._leaders.pop(pid, None)) is not None:
                self._leader_ended(command, os.waitstatus_to_exitcode(status))

    def _leader_ended(self, command: Command, exit_code: int) -> None:
        now = _now()
        command.leader_ended(exit_code, now)
        if command.ending is None:
            self._finish(command)
        else:
            command.ending.leader_ended(now)
            self._wake_at = now

    def _end(self, command: Command, end: str) -> None:
        self._reap()  # what has ended by itself keeps its true end
        if command.record.state != "running" or command.ending is not None:
            return
        if command.room_until is not None:
            return
        record, now = command.record, _now()
        leader = linux.Process(record.pid, os.getpid(), record.pid, record.pid, record.start_ticks)
        command.ending = Ending(
            record.id,
            leader,
            end,
            hangs_up=record.is_terminal,
            now=now,
            grace=self._kill_grace,
        )
        self._wake_at = now

    def _finish(self, command: Command) -> None:
        if command.pty is not None and not self._close(command, command.pty):
            return
        if command.ending is not None:
            command.ended["exit_code"] = None
            command.ended["end"] = command.ending.end
            command.ended["killed"] = command.ending.killed
        del self._commands[command.record.id]
        self._publish(command.ended)
        self._start_idling()

    def _close(self, command: Command, pty: Pty) -> bool:
        """Close its terminal. False: not before its last output has found room, or time is up."""
        now = _now()
        if not self._screens.drain(pty):
            if command.room_until is None:
                command.room_until = now + self._room_patience
            if now < command.room_until:
                self._wake_at = min(self._wake_at, now + _ROOM_RETRY_S)
                return False
            _say(f"the disk has no room for the last output of {command.record.id}")
        self._screens.close(pty)
        command.ended["stdout_bytes"] = pty.output.end
        return True

    # Telling

    def _publish(self, event: Event) -> None:
        line = encode(event)
        apply(self._records, event)
        self._append(line)
        self._agent.tell_of(event["id"], line)

    def _append(self, line: str) -> None:
        try:
            self._log.append(line)
        except OSError as error:  # we still know it, only our successor will not
            _say(f"cannot write keeper.log: {error}")

    # Time, signals, chores

    def _start_idling(self) -> None:
        self._idle_since = _now()
        self._wake_at = min(self._wake_at, self._idle_since + self._idle_exit)

    def _on_time(self) -> None:
        now = _now()
        self._wake_at = now + _HOUSEKEEPING_S
        self._has_chores = True
        table: dict[int, linux.Process] = {}
        for command in list(self._commands.values()):
            if command.room_until is not None:
                self._finish(command)
                continue
            if command.ending is None and now >= command.deadline:
                self._end(command, "timeout")
            if command.ending is None and now >= command.idle_at:
                self._end(command, "idle")
            if (ending := command.ending) is None:
                self._wake_at = min(self._wake_at, command.deadline, command.idle_at)
                continue
            if now >= ending.next_look:
                table = table or linux.processes()
                if ending.look(table, now):
                    self._finish(command)
                    continue
            self._wake_at = min(self._wake_at, ending.next_look)
        if not self._agent.is_connected and not self._commands:
            idle_until = self._idle_since + self._idle_exit
            self._wake_at = min(self._wake_at, idle_until)
            self._done = now >= idle_until
        if not self._directory_is_ours():
            _say("the state directory has gone")
            self._done = True

    def _directory_is_ours(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._lock_path), os.fstat(self._lock))
        except OSError:
            return False

    def _note_child(self) -> None:
        self._child_ended = True

    def _note_stop(self) -> None:
        self._asked_to_stop = True

    def _stop(self) -> None:
        self._asked_to_stop = False
        if self._commands:
            _say(f"SIGTERM ignored: {len(self._commands)} commands run, and outlive all but me")
        else:
            self._done = True

    def _do_chore(self) -> None:
        try:
            if not self._pool.is_full():
                self._pool.add()
            elif self._log.is_worth_compacting():
                self._log.compact(self._records.values())
            else:
                self._has_chores = False
        except OSError as error:
            _say(f"cannot prepare files: {error}")
            self._has_chores = False


def main(
    state_dir: str,
    *,
    kill_grace: float = KILL_GRACE_S,
    idle_exit: float = IDLE_EXIT_S,
    room_patience: float = ROOM_PATIENCE_S,
) -> int:
    """Keep the commands of this state directory until nobody needs it. Returns the exit code."""
    state_dir = os.path.abspath(state_dir)
    with suppress(FileExistsError):
        os.mkdir(state_dir, 0o700)
    make_private_folder(os.path.join(state_dir, "keeper"))
    os.chdir(os.path.join(state_dir, "keeper"))
    make_private_folder(OUTPUT)
    try:
        lock = take_lock()
    except AlreadyKept as kept:
        _say(f"process {kept} is the keeper of {state_dir} already")
        return ALREADY_KEPT
    linux.close_on_exec()
    linux.become_subreaper()
    keeper = Keeper(
        state_dir,
        lock,
        kill_grace=kill_grace,
        idle_exit=idle_exit,
        room_patience=room_patience,
    )
    gc.freeze()  # what was imported lives as long as the process: no need to look at it again
    keeper.run()
    return 0


def _now() -> float:
    """Seconds on a clock that nobody sets and that counts suspended time too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _say(text: str) -> None:
    line = f"{time.strftime('%FT%TZ', time.gmtime())} keeper: {text}\n"
    with suppress(OSError):  # on a full disk nobody hears it, and the commands go on
        os.write(2, line.encode(errors="backslashreplace"))
