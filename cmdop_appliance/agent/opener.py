"""Opening a terminal: allowed, made ready and given to the keeper; or nothing is left of it."""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from cmdop_appliance.agent.audit import append_denial
from cmdop_appliance.agent.coding.refusal import Refusal
from cmdop_appliance.agent.coding.spawn import CodingSessions, Prepared
from cmdop_appliance.agent.command import Ending, Phase
from cmdop_appliance.agent.keeper_client import Keeper, KeeperLost
from cmdop_appliance.agent.policy import Denied, Policy, judge_terminal
from cmdop_appliance.agent.terminal import Terminal
from cmdop_appliance.errors import LocalProtocolError, TerminalsNotSupported
from cmdop_appliance.protocol.terminals import Coding, Shell, TerminalOpen

log = logging.getLogger("cmdop.agent.opener")

# What agent.toml forbids, as against what fails.
_DENIALS = frozenset({"policy_denied", "user_denied"})


class Opener:
    """Opens each terminal in a task of its own; lives as long as the agent."""

    def __init__(
        self,
        state_dir: Path,
        policy: Policy,
        coding: CodingSessions,
        wait_keeper: Callable[[], Awaitable[Keeper]],
    ) -> None:
        self._state_dir = state_dir
        self._policy = policy
        self._coding = coding
        self._wait_keeper = wait_keeper

    async def open(self, terminal: Terminal, message: TerminalOpen) -> None:
        """Return when it runs, has ended, or never will: then `terminal.refusal` says why."""
        prepared = None
        try:
            if isinstance(message.what, Coding):
                prepared = await self._coding.prepare(terminal.id, message.what)
                terminal.worktree = prepared.worktree
                shell = Shell(argv=prepared.argv, cwd=prepared.cwd, env=prepared.env)
            else:
                shell = await self._allowed(message.what)
            terminal.directory = shell.cwd
            await self._start(terminal, shell, message.operator)
            await terminal.wait_started()
        except (Denied, Refusal) as exc:
            if exc.code in _DENIALS:
                append_denial(self._state_dir, terminal.id, exc.code, exc.message)
            terminal.refuse(exc.code, exc.message)
        except Exception:  # the one owner of an opening
            log.exception("opening failed", extra={"terminal_id": terminal.id})
            terminal.refuse("agent_failed", "the agent failed; its log on the machine has more")
        if prepared is not None:
            await self._conclude(terminal, prepared)

    async def _allowed(self, shell: Shell) -> Shell:
        verdict = await trio.to_thread.run_sync(
            judge_terminal, self._policy, self._state_dir, shell, abandon_on_cancel=True
        )
        if isinstance(verdict, Denied):
            raise verdict
        return verdict

    async def _start(self, terminal: Terminal, shell: Shell, operator: str | None) -> None:
        keeper = await self._wait_keeper()
        if terminal.is_ending:
            terminal.finish(Ending(end="cancelled"))
            return
        terminal.phase = Phase.STARTING
        idle_ms = None if terminal.is_coding else self._policy.terminals.idle_ms or None
        try:
            await keeper.start(
                id=terminal.id,
                argv=shell.argv,
                env=shell.env,
                cwd=shell.cwd,
                user=shell.user,
                operator=operator,
                pty=terminal.size,
                is_terminal=True,
                idle_ms=idle_ms,
            )
        except LocalProtocolError as exc:
            terminal.refuse("too_large", exc.message)
        except TerminalsNotSupported as exc:
            terminal.refuse(exc.code, exc.message)
        except KeeperLost:  # the records of the next one tell what became of it
            return

    async def _conclude(self, terminal: Terminal, prepared: Prepared) -> None:
        """What was made for it stays, if it ran."""
        if terminal.slot is None:
            await self._coding.undo(prepared)
            return
        try:
            self._coding.started(terminal.id)
        except OSError as exc:  # the next agent finds that the keeper knows it
            log.warning("note not removed", extra={"terminal_id": terminal.id, "why": exc.strerror})
