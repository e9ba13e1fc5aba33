"""A machine that is told to start coding sessions, by a script."""

from collections.abc import Callable

import trio

from cmdop_appliance.hub.terminals import Opening
from cmdop_appliance.protocol.terminals import (
    Shell,
    TerminalFailed,
    TerminalOpen,
    TerminalOpened,
    Worktree,
)
from tests.api.local_api import LocalApi
from tests.support.appliance import Answer
from tests.support.live_hub import CALLER, Link, LiveHub

# What the machine says when it is asked to open one.
Reply = Callable[[TerminalOpen], TerminalOpened | TerminalFailed]

STARTED_MS = 1_700_000_000_000


def opened(asked: TerminalOpen) -> TerminalOpened:
    return TerminalOpened(id=asked.id, started_ms=STARTED_MS, directory=asked.what.directory)


def in_worktree(asked: TerminalOpen) -> TerminalOpened:
    worktree = Worktree(repository="/src", path="/src-worktrees/x", branch="cmdop-x", name="x")
    return TerminalOpened(
        id=asked.id, started_ms=STARTED_MS, directory=worktree.path, worktree=worktree
    )


def failed(code: str, message: str) -> Reply:
    return lambda asked: TerminalFailed(asked.id, code, message)


async def spawn(
    api: LocalApi, link: Link, machine_id: str, reply: Reply = opened, **body: object
) -> tuple[TerminalOpen, Answer]:
    """What the machine was asked for, and what came of it for who asked."""
    answers: list[Answer] = []

    async def ask() -> None:
        path = f"/api/machines/{machine_id}/spawn"
        answers.append(await api.call("POST", path, {"directory": "/src", **body}))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        asked = await link.expect(TerminalOpen)
        await link.say(reply(asked))
    return asked, answers[0]


async def running(api: LocalApi, link: Link, machine_id: str, **body: object) -> str:
    """The id of a new session that runs."""
    _, answer = await spawn(api, link, machine_id, **body)
    return str(answer.json["sessionId"])


async def plain_terminal(live: LiveHub, link: Link, machine_id: str) -> str:
    """The id of a terminal in which somebody types, not a coding agent."""
    async with trio.open_nursery() as nursery:
        opening = Opening(kind="terminal", what=Shell())
        nursery.start_soon(live.hub.terminals.open, CALLER, machine_id, opening)
        asked = await link.expect(TerminalOpen)
        await link.say(TerminalOpened(id=asked.id, started_ms=STARTED_MS))
    return asked.id
