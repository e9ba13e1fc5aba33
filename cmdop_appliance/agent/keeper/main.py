"""The keeper process: one loop that starts, watches and ends commands, whoever listens or not.

    agent → keeper   {"do":"start", …}   {"do":"cancel","id"}   {"do":"forget","ids"}
    keeper → agent   hello, one `record` per known command, ready; from then on, as they happen:
                     started, refused, exited

Lines of JSON over `keeper.sock`, one agent at a time, a new one replaces the old. Every event is
in the log before it is told. A start of a known id is answered with its record and starts nothing.
"""
# ruff: noqa: PTH100, PTH102, PTH108, PTH116, PTH118 - without pathlib, see the package

import fcntl
import gc
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from contextlib import suppress

from cmdop_appliance.agent.keeper import linux
from cmdop_appliance.agent.keeper.ending import KILL_GRACE_S, Ending
from cmdop_appliance.agent.keeper.environment import original_environment, process_environment
from cmdop_appliance.agent.keeper.files import (
    OUTPUT,
    OutputPool,
    make_private_folder,
    open_private,
    output_sizes,
    remove_output,
)
from cmdop_appliance.agent.keeper.link import Link, LinkLost
from cmdop_appliance.agent.keeper.records import Event, Log, Record, apply, encode, read_log
from cmdop_appliance.agent.keeper.requests import Cancel, Forget, Start, parse
from cmdop_appliance.agent.keeper.spawn import Refused, Spawner

WIRE_VERSION = 1
IDLE_EXIT_S = 60.0  # without an agent and a live command; the next agent starts a new keeper
ALREADY_KEPT = 75  # exit code, EX_TEMPFAIL of sysexits.h: another keeper has this directory

_HOUSEKEEPING_S = 15.0  # longest sleep; epoll does not count the time a machine is suspended
_SYNC_RECORDS = 256  # told in one go to an agent that connects; there may be 100,000
_WAKEUP_BYTES = 4096  # one byte per signal


class Command:
    """A command whose leader runs, or whose descendants are being ended."""

    __slots__ = ("deadline", "ended", "ending", "record", "started")

    def __init__(self, record: Record, started: float, timeout_ms: int | None) -> None:
        self.record = record
        self.started = started  # on the clock of _now, as all that follows
        self.deadline = float("inf") if timeout_ms is None else started + timeout_ms / 1000
        self.ending: Ending | None = None
        self.ended: Event = {}  # the event of its leader's end, held back while it has descendants


class Keeper:
    """Owns the commands of one state directory, whose `keeper` folder is the current directory."""

    def __init__(
        self,
        state_dir: str,
        lock: int,
        *,
        kill_grace: float,
        idle_exit: float,
    ) -> None:
        self._keeper_id = os.urandom(8).hex()
        self._boot_id = linux.boot_id()
        self._lock = lock
        self._lock_path = os.path.join(state_dir, "keeper", "keeper.lock")
        self._kill_grace = kill_grace
        self._idle_exit = idle_exit

        self._records = read_log(state_dir)
        self._log = Log()
        self._pool = OutputPool(r.slot for r in self._records.values() if r.slot is not None)
        bundle = getattr(sys, "_MEIPASS", None)
        self._spawner = Spawner(original_environment(process_environment(), bundle), self._pool)
        self._commands: dict[str, Command] = {}
        self._leaders: dict[int, Command] = {}  # by pid, until they are waited for

        self._idle_since = _now()
        self._wake_at = self._idle_since
        self._has_chores = True
        self._done = False
        self._child_ended = False
        self._asked_to_stop = False

        self._link: Link | None = None
        self._watched = 0
        self._listener = _listen()
        self._wakeup = self._catch_signals()
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(self._wakeup, select.EPOLLIN)

    def run(self) -> None:
        """Serve until nobody needs a keeper here."""
        while not self._done:
            patience = 0.0 if self._has_chores else max(0.0, self._wake_at - _now())
            ready = self._epoll.poll(patience)
            for fd, happened in ready:
                if fd == self._wakeup:
                    os.read(fd, _WAKEUP_BYTES)
                elif fd == self._listener.fileno():
                    self._accept()
                elif self._link is not None:
                    self._serve(self._link, happened)
            if self._child_ended:
                self._reap()
            if self._asked_to_stop:
                self._stop()
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
        if self._link is not None:
            self._drop_link("another agent has connected")
        self._link = link = Link(connection)
        self._watched = select.EPOLLIN
        self._epoll.register(link, self._watched)
        hello = {
            "event": "hello",
            "version": WIRE_VERSION,
            "keeper_id": self._keeper_id,
            "boot_id": self._boot_id,
            "pid": os.getpid(),
        }
        try:
            link.send(encode(hello))
            link.unsynced = deque(self._records)
            self._sync(link)
        except LinkLost as lost:
            self._drop_link(str(lost))

    def _serve(self, link: Link, happened: int) -> None:
        try:
            if happened & select.EPOLLOUT:
                link.flush()
                self._sync(link)
            if happened & ~select.EPOLLOUT:
                link.receive()
        except LinkLost as lost:
            self._drop_link(str(lost))
        while link.lines and self._link is link:
            self._handle(link.lines.popleft())
            if self._child_ended:
                self._reap()

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
        except ValueError as error:
            self._drop_link(f"not a request: {error}")
        except Exception:  # noqa: BLE001 - a bug met by one line must not end the commands
            sys.excepthook(*sys.exc_info())
            self._drop_link("a bug of the keeper, see above")

    def _start(self, start: Start) -> None:
        command_id = start.command_id
        if (known := self._records.get(command_id)) is not None:
            self._tell_of(command_id, encode(known.as_event()))
            return
        started, started_ms = _now(), time.time_ns() // 1_000_000
        try:
            pid, slot = self._spawner.spawn(start)
        except Refused as refused:
            self._publish(
                {
                    "event": "refused",
                    "id": command_id,
                    "code": refused.code,
                    "message": refused.message,
                }
            )
            return
        self._publish(
            {
                "event": "started",
                "id": command_id,
                "pid": pid,
                "start_ticks": linux.start_ticks(pid),
                "slot": slot,
                "started_ms": started_ms,
                "boot_id": self._boot_id,
                "keeper_id": self._keeper_id,
            }
        )
        command = Command(self._records[command_id], started, start.timeout_ms)
        self._commands[command_id] = self._leaders[pid] = command
        self._wake_at = min(self._wake_at, command.deadline)
        self._has_chores = True  # the pool has one slot less

    def _forget(self, command_ids: list[str]) -> None:
        gone = [i for i in command_ids if i in self._records and i not in self._commands]
        if not gone:
            return
        for command_id in gone:
            if (slot := self._records[command_id].slot) is not None:
                remove_output(slot)
        event = {"event": "forgotten", "ids": gone}
        apply(self._records, event)
        self._append(encode(event))

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
        assert command.record.slot is not None
        stdout_bytes, stderr_bytes = output_sizes(command.record.slot)
        command.ended = {
            "event": "exited",
            "id": command.record.id,
            "exit_code": exit_code if exit_code >= 0 else None,
            "signal": _signal_name(-exit_code) if exit_code < 0 else None,
            "end": "exited",
            "duration_ms": round((now - command.started) * 1000),
            "stdout_bytes": stdout_bytes,
            "stderr_bytes": stderr_bytes,
            "killed": None,
        }
        if command.ending is None:
            self._finish(command)
        else:
            command.ending.leader_ended(now)
            self._wake_at = now

    def _end(self, command: Command, end: str) -> None:
        self._reap()  # what has ended by itself keeps its true end
        if command.record.state != "running" or command.ending is not None:
            return
        record, now = command.record, _now()
        leader = linux.Process(record.pid, os.getpid(), record.pid, record.pid, record.start_ticks)
        command.ending = Ending(record.id, leader, end, now=now, grace=self._kill_grace)
        self._wake_at = now

    def _finish(self, command: Command) -> None:
        if command.ending is not None:
            command.ended["exit_code"] = None
            command.ended["end"] = command.ending.end
            command.ended["killed"] = command.ending.killed
        del self._commands[command.record.id]
        self._publish(command.ended)
        self._start_idling()

    # Telling

    def _publish(self, event: Event) -> None:
        line = encode(event)
        apply(self._records, event)
        self._append(line)
        self._tell_of(event["id"], line)

    def _append(self, line: str) -> None:
        try:
            self._log.append(line)
        except OSError as error:  # we still know it, only our successor will not
            _say(f"cannot write keeper.log: {error}")

    def _tell_of(self, command_id: str, line: str) -> None:
        if self._link is not None and self._link.unsynced is not None:
            self._link.unsynced.append(command_id)  # its record will say it
        else:
            self._tell(line)

    def _tell(self, line: str) -> None:
        if self._link is None:
            return
        try:
            self._link.send(line)
        except LinkLost as lost:
            self._drop_link(str(lost))
        else:
            self._watch(self._link)

    def _sync(self, link: Link) -> None:
        for _ in range(_SYNC_RECORDS):
            if not link.unsynced or link.backlog_bytes:
                break
            if (record := self._records.get(link.unsynced.popleft())) is not None:
                link.send(encode(record.as_event()))
        if link.unsynced is not None and not link.unsynced:
            link.unsynced = None
            link.send(encode({"event": "ready"}))
        self._watch(link)

    def _watch(self, link: Link) -> None:
        wanted = select.EPOLLIN
        if link.backlog_bytes or link.unsynced is not None:
            wanted |= select.EPOLLOUT
        if wanted != self._watched:
            self._watched = wanted
            self._epoll.modify(link, wanted)

    def _drop_link(self, reason: str) -> None:
        if self._link is None:
            return
        if reason:
            _say(f"the agent's connection is closed: {reason}")
        self._link.close()
        self._link = None
        self._start_idling()

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
            if command.ending is None and now >= command.deadline:
                self._end(command, "timeout")
            if (ending := command.ending) is None:
                self._wake_at = min(self._wake_at, command.deadline)
                continue
            if now >= ending.next_look:
                table = table or linux.processes()
                if ending.look(table, now):
                    self._finish(command)
                    continue
            self._wake_at = min(self._wake_at, ending.next_look)
        if self._link is None and not self._commands:
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

    def _catch_signals(self) -> int:
        """Have signals noted, and written as bytes to the descriptor returned."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def on_child(_number: int, _frame: object) -> None:
            self._child_ended = True

        def on_stop(_number: int, _frame: object) -> None:
            self._asked_to_stop = True

        signal.signal(signal.SIGCHLD, on_child)
        signal.signal(signal.SIGTERM, on_stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return reader

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
    state_dir: str, *, kill_grace: float = KILL_GRACE_S, idle_exit: float = IDLE_EXIT_S
) -> int:
    """Keep the commands of this state directory until nobody needs it. Returns the exit code."""
    state_dir = os.path.abspath(state_dir)
    with suppress(FileExistsError):
        os.mkdir(state_dir, 0o700)
    make_private_folder(os.path.join(state_dir, "keeper"))
    os.chdir(os.path.join(state_dir, "keeper"))
    make_private_folder(OUTPUT)
    lock = open_private("keeper.lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say(f"process {os.read(lock, 20).decode()} is the keeper of {state_dir} already")
        return ALREADY_KEPT
    os.truncate(lock, 0)
    os.write(lock, b"%d" % os.getpid())
    linux.close_on_exec()
    linux.become_subreaper()
    keeper = Keeper(state_dir, lock, kill_grace=kill_grace, idle_exit=idle_exit)
    gc.freeze()  # what was imported lives as long as the process: no need to look at it again
    keeper.run()
    return 0


def _listen() -> socket.socket:
    # By a relative name: an address holds 108 bytes (unix(7)), a state directory may be deeper.
    with suppress(FileNotFoundError):
        os.unlink("keeper.sock")  # left by a keeper that was killed: we hold the lock
    listener = socket.socket(socket.AF_UNIX)
    umask = os.umask(0o177)
    listener.bind("keeper.sock")
    os.umask(umask)  # commands get the one we were started with
    listener.listen()
    listener.setblocking(False)
    return listener


def _now() -> float:
    """Seconds on a clock that nobody sets and that counts suspended time too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # only the first and the last real-time signal have a name
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%FT%TZ', time.gmtime())} keeper: {text}\n")
