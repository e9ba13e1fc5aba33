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

from cmdop_appliance.agent import attempts
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
from cmdop_appliance.agent.linux import keep_heap
from cmdop_appliance.agent.outbox import Outbox
from cmdop_appliance.agent.pace import Pace
from cmdop_appliance.agent.policy import Policy, load_policy
from cmdop_appliance.agent.session import HubSession, Verdict
from cmdop_appliance.agent.state import State, locked_state
from cmdop_appliance.agent.telemetry import Sampler
from cmdop_appliance.agent.terminals import Terminals
from cmdop_appliance.agent.transfers import Transfers
from cmdop_appliance.agent.trial import NotGood, become, try_out
from cmdop_appliance.agent.upgrade import Plan, Upgrades
from cmdop_appliance.errors import StartupError
from cmdop_appliance.identity import Identity
from cmdop_appliance.logs import fields_of
from cmdop_appliance.notify import service_manager
from cmdop_appliance.service.folders import Version, version_of_this_program

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
    plain_http: bool = False,
    config: Path | None = None,
    keep_out: Sequence[Path] = (),
    on_trial: int | None = None,
) -> int:
    """Be this machine's agent until SIGTERM or SIGINT, with `stop_on_eof` also the end of stdin.

    The first time it joins the hub at `hub_url` with `token`; from then on `state_dir` is enough,
    and `hub_url` tells where the same hub is now; `plain_http` also lets it be where others may
    listen. `config` is the agent.toml to obey, if it is not
    the one in `state_dir`. Directories in `keep_out`, and `state_dir`, are not among the files that
    the hub may name. Returns the exit code: 0 when it was stopped,
    3 when the hub removed this machine. Commands run on in either case, terminals in the first.

    When the hub brings another release, it is tried in our place, and we become it if it is good.
    `on_trial` says that we are on trial: it is the descriptor on which we tell that we are.

    Raises:
        StartupError: it cannot start as told, or the token is refused.
    """
    _log_to_stderr()
    keep_heap()
    service_manager()  # before anything is started
    policy = load_policy(config, state_dir)
    arguments = ["agent", "--state-dir", str(state_dir)]
    arguments += [] if config is None else ["--config", str(config)]
    arguments += [word for path in keep_out for word in ("--keep-out", str(path))]
    own = version_of_this_program()  # now: the link that leads to it may soon lead elsewhere
    while True:
        with locked_state(state_dir) as state:
            enrolment = enrolment_of(state, hub_url, token, name, plain_http=plain_http)
            outcome = _run_once(
                state,
                enrolment,
                stop_on_eof,
                policy,
                keep_out,
                config,
                own=own,
                on_trial=on_trial,
            )
        if not isinstance(outcome, Plan):
            return outcome
        stop = trio.Event()
        if trio.run(_is_good, state_dir, outcome, arguments, stop_on_eof, stop):
            become(outcome.version.program, arguments + ["--stop-on-eof"] * stop_on_eof)
        if stop.is_set():
            return EXIT_STOPPED
        token = None  # it has joined


def _run_once(
    state: State,
    enrolment: Enrolment,
    stop_on_eof: bool,
    policy: Policy,
    keep_out: Sequence[Path],
    config: Path | None,
    *,
    own: Version | None,
    on_trial: int | None,
) -> int | Plan:
    """The exit code, or what is to be tried."""
    try:
        identity = state.make_identity()
        journal = Journal(state.path / "journal.log")
    except OSError as exc:
        message = f"cannot write to the state directory {state.path}: {exc.strerror}"
        raise StartupError(message) from exc
    try:
        outcome = trio.run(
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
                own=own,
                on_trial=on_trial,
            )
        )
        return outcome if isinstance(outcome, Plan) else _conclude(outcome, state, journal)
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
    own: Version | None = None,
    on_trial: int | None = None,
) -> Verdict | Plan:
    """Run commands and terminals, and keep the link, until told to stop or all is over.

    Or until another release is to be tried. `own`: the folder that ours runs from.
    """
    stop = trio.Event()
    outbox = Outbox()
    upgrades = Upgrades(state.path, enrolment.url, policy.upgrade, outbox, own, on_trial=on_trial)
    environment = original_environment(process_environment())
    coding = CodingSessions(state.path, policy, environment, keep_out, config)
    terminals = Terminals(state.path, journal, outbox, policy, coding)
    commands = Commands(state.path, journal, outbox, policy, terminals=terminals)
    transfers = Transfers(Files(state.path, policy.files, keep_out, config), outbox)
    session = HubSession(
        state, identity, enrolment, commands, terminals, transfers, upgrades, outbox, pace
    )
    sampler = Sampler(outbox, pace)
    verdict, plan = Verdict.STOPPED, None
    async with trio.open_nursery() as nursery:

        async def make_room() -> None:
            nonlocal plan
            plan = await upgrades.run()
            nursery.cancel_scope.cancel()  # without goodbye: whoever comes goes on with the session

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
        nursery.start_soon(make_room)
        nursery.start_soon(service_manager().keep_watchdog, lambda: True)
        service_manager().ready(f"for the hub at {enrolment.url}")
        verdict = await session.run(stop)
        if verdict is Verdict.REMOVED:
            await terminals.end_all()
        nursery.cancel_scope.cancel()
    return verdict if plan is None or stop.is_set() else plan


async def _is_good(
    state_dir: Path, plan: Plan, arguments: Sequence[str], stop_on_eof: bool, stop: trio.Event
) -> bool:
    """Try another release. False: it is not good, which is noted, or we were told to stop."""
    async with trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, stop)
        if stop_on_eof:
            nursery.start_soon(_stop_on_eof, stop)
        nursery.start_soon(service_manager().keep_watchdog, lambda: True)
        try:
            await try_out(state_dir, plan, arguments, stop)
        except NotGood as exc:
            log.warning("rolled back", extra={"code": exc.code, "reason": exc.message})
            attempts.keep(state_dir, plan.attempt.rolled_back(exc.code, exc.message))
            return False
        finally:
            nursery.cancel_scope.cancel()
    return True


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
            service_manager().stopping()
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
