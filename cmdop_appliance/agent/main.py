"""`cmdop agent`: this machine's side of the hub, for as long as it is wanted."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cmdop_appliance.agent.audit import tell_hub
from cmdop_appliance.agent.coding.spawn import CodingSessions
from cmdop_appliance.agent.commands import Commands
from cmdop_appliance.agent.enrolment import Enrolment, enrolment_of
from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.grants import audit_expiry
from cmdop_appliance.agent.journal import Journal
from cmdop_appliance.agent.keeper.environment import (
    original_environment,
    process_environment,
)
from cmdop_appliance.agent.outbox import Outbox
from cmdop_appliance.agent.pace import Pace
from cmdop_appliance.agent.policy import Policy, load_policy
from cmdop_appliance.agent.session import HubSession, Verdict
from cmdop_appliance.agent.state import State, locked_state
from cmdop_appliance.agent.telemetry import Sampler
from cmdop_appliance.agent.terminals import Terminals
from cmdop_appliance.agent.transfers import Transfers
from cmdop_appliance.errors import StartupError
from cmdop_appliance.identity import Identity
from cmdop_appliance.logs import fields_of

log = logging.getLogger("cmdop.agent")

EXIT_STOPPED: Final = 0
EXIT_REMOVED: Final = 3  # a service manager is not to start it again


def run(
    state_dir: Path,
    *,
    hub_url: str | None,
    token: str | None,
    name: str | None,
    stop_on_eof: bool,
    config: Path | None = None,
    keep_out: Sequence[Path] = (),
) -> int:
    """Be this machine's agent until SIGTERM or SIGINT, with `stop_on_eof` also the end of stdin.

    The first time it joins the hub at `hub_url` with `token`; from then on `state_dir` is enough,
    and `hub_url` tells where the same hub is now. `config` is the agent.toml to obey, if it is not
    the one in `state_dir`. Directories in `keep_out`, and `state_dir`, are not among the files that
    the hub may name. Returns the exit code: 0 when it was stopped,
    3 when the hub removed this machine. Commands run on in either case, terminals in the first.

    Raises:
        StartupError: it cannot start as told, or the token is refused.
    """
    _log_to_stderr()
    policy = load_policy(config, state_dir)
    with locked_state(state_dir) as state:
        enrolment = enrolment_of(state, hub_url, token, name)
        try:
            identity = state.make_identity()
            journal = Journal(state_dir / "journal.log")
        except OSError as exc:
            message = f"cannot write to the state directory {state_dir}: {exc.strerror}"
            raise StartupError(message) from exc
        try:
            verdict = trio.run(
                partial(
                    serve,
                    state,
                    identity,
                    enrolment,
                    journal,
                    stop_on_eof,
                    policy=policy,
                    keep_out=keep_out,
                    config=config,
                )
            )
            return _conclude(verdict, state, journal)
        finally:
            journal.close()


async def serve(
    state: State,
    identity: Identity,
    enrolment: Enrolment,
    journal: Journal,
    stop_on_eof: bool,
    pace: Pace = Pace(),  # noqa: B008 - it is frozen
    policy: Policy = Policy(),  # noqa: B008 - it is frozen
    keep_out: Sequence[Path] = (),
    config: Path | None = None,
) -> Verdict:
    """Run commands and terminals, and keep the link, until told to stop or all is over."""
    stop = trio.Event()
    outbox = Outbox()
    environment = original_environment(process_environment(), getattr(sys, "_MEIPASS", None))
    coding = CodingSessions(state.path, policy, environment, keep_out, config)
    terminals = Terminals(state.path, journal, outbox, policy, coding)
    commands = Commands(state.path, journal, outbox, policy, terminals=terminals)
    transfers = Transfers(Files(state.path, policy.files, keep_out, config), outbox)
    session = HubSession(state, identity, enrolment, commands, terminals, transfers, outbox, pace)
    sampler = Sampler(outbox, pace)
    async with trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, stop)
        await nursery.start(_change_ground_on_signal, sampler)
        if stop_on_eof:
            nursery.start_soon(_stop_on_eof, stop)
        nursery.start_soon(commands.run)
        nursery.start_soon(terminals.run)
        nursery.start_soon(transfers.run)
        nursery.start_soon(sampler.run)
        nursery.start_soon(audit_expiry, state.path)
        nursery.start_soon(tell_hub, state.path, outbox)
        verdict = await session.run(stop)
        if verdict is Verdict.REMOVED:
            await terminals.end_all()
        nursery.cancel_scope.cancel()
    return verdict


def _conclude(verdict: Verdict, state: State, journal: Journal) -> int:
    match verdict:
        case Verdict.STOPPED:
            return EXIT_STOPPED
        case Verdict.REMOVED:
            journal.forget_all()  # another hub has no business with the commands of this one
            state.leave()
            log.error("this machine was removed from its hub; a new token lets it join again")
            return EXIT_REMOVED
        case Verdict.REFUSED:
            raise StartupError(
                "the hub refused the token: it is unknown, used up or expired",
                hint="make a new one on the hub: cmdop machines add",
            )


async def _stop_on_signal(
    stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            stop.set()


async def _change_ground_on_signal(
    sampler: Sampler, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """SIGUSR1: into the background; SIGUSR2: back. A laptop's hooks for suspend and battery."""
    with trio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
        task_status.started()
        async for number in signals:
            await sampler.set_background(on=number == signal.SIGUSR1)


async def _stop_on_eof(stop: trio.Event) -> None:
    stdin = sys.stdin.fileno()
    # A thread, because stdin may be a file or /dev/null, which cannot be waited for.
    while await trio.to_thread.run_sync(os.read, stdin, 4096, abandon_on_cancel=True):
        pass
    stop.set()


class _Line(logging.Formatter):
    """One line per record: time, level, message, then the extra fields as JSON, nothing hostile."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%FT%TZ", time.gmtime(record.created))
        fields = "".join(
            f" {key}={json.dumps(value, default=str)}" for key, value in fields_of(record).items()
        )
        line = f"{at} {record.levelname.lower()} {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Line())
    logger = logging.getLogger("cmdop")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
