"""A home, a state directory, programs and a git repository, all in one place of their own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from cmdop_appliance.agent.coding.refusal import Refusal
from cmdop_appliance.agent.coding.spawn import CodingSessions
from cmdop_appliance.agent.policy import FilesPolicy, Policy
from cmdop_appliance.ids import new_id
from cmdop_appliance.protocol.terminals import Coding


class Ground:
    """Where sessions are prepared, and a look at what is left of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.home, self.bin, self.state_dir = path / "home", path / "bin", path / "agent"
        for folder in (self.home, self.bin, self.state_dir):
            folder.mkdir()
        self.environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "GIT_CONFIG_GLOBAL": str(self.home / "gitconfig"),
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        self.program("claude")

    def program(self, name: str, script: str = "#!/bin/sh\n", folder: Path | None = None) -> Path:
        """An executable; without `folder` on the PATH."""
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
        return path

    def sessions(self, policy: Policy | None = None) -> CodingSessions:
        """As an agent makes them that was just started, which has not settled yet."""
        return CodingSessions(self.state_dir, policy or self.policy(), self.environment)

    def policy(self, **files: object) -> Policy:
        """The whole file system, or what is named."""
        return Policy(files=FilesPolicy(**files))

    async def prepare(self, directory: object, policy: Policy | None = None, **what: object):
        """One session of a fresh agent, started."""
        sessions = self.sessions(policy)
        await sessions.settle(())
        prepared = await sessions.prepare(new_id("session"), coding(directory, **what))
        sessions.started(prepared.id)
        return prepared

    async def refusal(self, directory: object, policy: Policy | None = None, **what: object) -> str:
        """Why it is not prepared: code and message. Nothing is left of it, nor of its note."""
        before = self.everything()
        with pytest.raises(Refusal) as caught:
            await self.prepare(directory, policy, **what)
        assert self.everything() == before
        assert self.notes() == []
        return f"{caught.value.code}: {caught.value.message}"

    def notes(self) -> list[str]:
        return sorted(path.name for path in self.state_dir.glob("coding/*"))

    def everything(self) -> set[str]:
        """What there is beside what git and the agent keep."""
        kept = {".git", "agent"}
        return {
            str(path)
            for path in self.path.rglob("*")
            if not kept.intersection(path.relative_to(self.path).parts)
        }


class Repository:
    """A git repository with one commit."""

    def __init__(self, ground: Ground, path: Path, template: Path | None = None) -> None:
        self.ground, self.path = ground, path
        if template is not None:
            shutil.copytree(template, path)
            return
        self.git("init", "-q", "-b", "main", str(path), at=ground.path)
        (path / "package").mkdir()
        (path / "package" / "file").write_text("content\n")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "first")

    def git(self, *words: str, at: Path | None = None) -> str:
        return subprocess.run(
            ["git", "-c", "user.name=n", "-c", "user.email=e@x", *words],
            cwd=at or self.path,
            env=self.ground.environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def look(self) -> str:
        """Its worktrees and branches, with their commits."""
        return self.git("worktree", "list", "--porcelain") + self.git("branch", "-v", "-a")

    def hook(self, script: str) -> None:
        """Run by git at the end of a checkout."""
        hook = self.path / ".git" / "hooks" / "post-checkout"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\n{script}\n")
        hook.chmod(0o755)

    def smudge(self, command: str) -> None:
        """Run by git for a file that it checks out, while the worktree is not whole yet."""
        (self.path / ".git" / "info" / "attributes").write_text("file filter=slow\n")
        self.git("config", "filter.slow.smudge", command)


class Signal:
    """Something that a program says by writing a line to a pipe with a name."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._stream = trio.lowlevel.FdStream(os.open(path, os.O_RDWR | os.O_NONBLOCK))

    async def wait(self) -> str:
        with trio.fail_after(20):
            return (await self._stream.receive_some()).decode().strip()

    def close(self) -> None:
        self._stream.close()


@contextmanager
def signal_at(path: Path) -> Iterator[Signal]:
    signal = Signal(path)
    try:
        yield signal
    finally:
        signal.close()


def coding(directory: object, **what: object) -> Coding:
    return Coding(**{"directory": str(directory), "flavour": "claude", **what})


# An agent in a process of its own that prepares one session: id, state directory, directory.
AGENT = """
import sys, trio
from pathlib import Path
from cmdop_appliance.agent.coding.refusal import Refusal
from cmdop_appliance.agent.coding.spawn import CodingSessions
from cmdop_appliance.agent.policy import Policy
from cmdop_appliance.protocol.terminals import Coding

async def main(session_id, state_dir, directory):
    sessions = CodingSessions(Path(state_dir), Policy(), dict(__import__("os").environ))
    await sessions.settle(())
    what = Coding(directory=directory, flavour="claude", worktree="auth")
    try:
        await sessions.prepare(session_id, what)
    except Refusal as refusal:
        print(refusal.code, refusal.message)
    else:
        print("prepared")

trio.run(main, *sys.argv[1:])
"""
