"""The product as it runs: hub and agents as processes of their own, spoken to over HTTP.

Everything here is synchronous, so that a fixture of a module can own a hub. A factory stops what
it started, and fails when the end is not the one that was promised.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil

from cmdop_appliance.sdk.sse import EventParser
from tests.support.agents import commands_of, keepers_of

T = TypeVar("T")

PROGRAM = (sys.executable, "-m", "cmdop_appliance")
PATIENCE_S = 30  # for anything a test waits for: a bound, never a pace
STOP_S = 5  # contract.md §11: SIGTERM, whatever a peer does
BASE_ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": "/"}
_POLL_S = 0.01
_PREFIX = "/api/v1"


def cmdop(
    *args: object, place: Path | None = None, timeout_s: float | None = 60, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`cmdop` as a user types it, whose home `place` is; an exit code is no error."""
    home = {} if place is None else {"HOME": str(place)}
    return subprocess.run(
        [*PROGRAM, *map(str, args)],
        cwd=place,
        env={**BASE_ENVIRONMENT, **home, **variables},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def wait_for(condition: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """The first true value of `condition`."""
    give_up = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < give_up, f"not within {patience_s} s: {what}"
        time.sleep(_POLL_S)
    return value


# ── the client ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        """The `data` of an answer that must be a success."""
        assert self.status in (200, 201), self
        return self.json["data"]

    @property
    def error(self) -> Any:
        """The `error` of an answer that must be a failure."""
        assert self.status >= 400, self
        return self.json["error"]


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event; `data` is the bytes of a stream, or the JSON of another event."""

    name: str
    id: str
    data: Any


class Api:
    """A hub's API as one key sees it; a connection for each request."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        prefix: str = _PREFIX,
        whole: bool = True,
    ) -> Answer:
        """One request; `path` is below `prefix` unless it begins with a full one itself.

        Not `whole`: of a body that may have no end, only the first piece.
        """
        with self._open(method, path, body, headers or {}, prefix) as answer:
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read() if whole else answer.read1())

    def get(self, path: str) -> Any:
        return self.call("GET", path).data

    def post(self, path: str, **fields: object) -> Any:
        return self.call("POST", path, fields).data

    def delete(self, path: str) -> Any:
        return self.call("DELETE", path).data

    def run(self, machine_id: str, command: str, **fields: object) -> Any:
        """A command's record after POST /commands."""
        return self.post("/commands", machine_id=machine_id, command=command, **fields)

    def start(self, machine_id: str, command: str, **fields: object) -> str:
        """The id of a command after POST /commands/async."""
        begun = self.post("/commands/async", machine_id=machine_id, command=command, **fields)
        return str(begun["id"])

    def wait_end(self, command_id: str) -> Any:
        """The record of a command once it has ended."""

        def ended() -> Any:
            record = self.get(f"/commands/{command_id}")
            return record if record["finished_at"] else None

        return wait_for(ended, f"{command_id} ends")

    def wait_output(self, command_id: str, text: str) -> None:
        """Return when a command's stdout so far contains `text`."""
        path = f"/commands/{command_id}"
        wait_for(lambda: text in self.get(path)["stdout"], f"{command_id} prints {text!r}")

    def output(self, command_id: str, stream: str = "stdout") -> bytes:
        """All bytes of a stream."""
        answer = self.call("GET", f"/commands/{command_id}/output?stream={stream}")
        assert answer.status == 200, answer
        return answer.body

    def events(self, command_id: str, last_event_id: str | None = None) -> Iterator[Event]:
        """The events of a command's stream, as `follow` gives them."""
        return self.follow(f"/commands/{command_id}/stream", last_event_id)

    def follow(self, path: str, last_event_id: str | None = None) -> Iterator[Event]:
        """The events of a stream, comments left out; ends when the hub ends it.

        Close the generator to leave early.
        """
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        parser = EventParser()
        with self._open("GET", path, None, headers) as answer:
            assert answer.status == 200, (answer.status, answer.read())
            give_up = time.monotonic() + PATIENCE_S
            while piece := answer.read1():
                assert time.monotonic() < give_up, f"{path}: nothing but comments"
                for event in parser.feed(piece):
                    if event.name:
                        give_up = time.monotonic() + PATIENCE_S
                        data = json.loads(event.data)
                        if event.name in ("stdout", "stderr"):
                            data = base64.b64decode(data["data"], validate=True)
                        yield Event(event.name, event.id, data)

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        body: object,
        headers: Mapping[str, str],
        prefix: str = _PREFIX,
    ) -> Iterator[Any]:
        sent = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        if isinstance(body, dict | list):
            body = json.dumps(body)
            sent["Content-Type"] = "application/json"
        where = path if path.startswith(("/api/", "/v1/", "//")) else prefix + path
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE_S)
        try:
            connection.request(method, where, body=body, headers={**sent, **headers})
            with connection.getresponse() as answer:
                yield answer
        finally:
            connection.close()


# ── the processes ────────────────────────────────────────────────────────────────────────────────


class _Process:
    """One of our programs, started and ended as an operator does it."""

    def __init__(self, place: Path, directory: Path) -> None:
        self.log = directory.with_name(f"{directory.name}.log")
        self.out = directory.with_name(f"{directory.name}.out")
        self.program: Sequence[str] = PROGRAM  # what is started
        self.variables: dict[str, str] = {}  # its environment, beside what is always there
        self._place = place
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_exit(self, patience_s: float = PATIENCE_S) -> int:
        """The exit code, once it has ended by itself."""
        assert self._process is not None
        return self._process.wait(patience_s)

    def terminate(self) -> None:
        """SIGTERM, and nothing more."""
        assert self._process is not None
        self._process.terminate()

    def stop(self) -> None:
        """SIGTERM: it must be gone in time with exit code 0, and its children but for keepers."""
        self.terminate()
        assert self.wait_exit(STOP_S) == 0, self.log.read_text()
        assert not self.leftovers()

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def suspend(self) -> None:
        """SIGSTOP: it lives, its connections are open, and it does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it goes on where it was."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def leftovers(self) -> list[list[str]]:
        """Command lines that name our directory, except those of keepers."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                argv = process.cmdline()
                if any(f"{word}/".startswith(f"{self._directory}/") for word in argv):
                    found.append(argv)
        return [argv for argv in found if "keeper" not in argv]

    def _start(self, *args: object, umask: int = -1, **variables: str) -> None:
        assert not self.is_running
        with self.log.open("ab") as log, self.out.open("ab") as out:
            self._process = subprocess.Popen(
                [*self.program, *map(str, args)],
                cwd=self._place,
                env={**BASE_ENVIRONMENT, "HOME": str(self._place), **self.variables, **variables},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                umask=umask,
            )

    def _end(self, *, stop: bool) -> None:
        try:
            if stop and self.is_running:
                self.stop()
        finally:
            if self.is_running:
                self.kill()
            for state in (self._directory, *self._directory.glob("*-agent")):
                for pid in keepers_of(state) + commands_of(state):
                    kill_tree(pid)


class Hub(_Process):
    """`cmdop serve` on a data directory of its own, and its API by the admin key."""

    def __init__(self, place: Path, listen: str = "127.0.0.1:0") -> None:
        self.data_dir = place / "data"
        super().__init__(place, self.data_dir)
        self._listen = listen

    def start(self, *args: object, config: str = "", umask: int = -1, **variables: str) -> None:
        """Start it and wait until it is ready; the second start takes the port of the first."""
        self.begin(*args, config=config, umask=umask, **variables)
        wait_for(self._is_ready, "the hub is ready")
        self._listen = urlsplit(self.ready["url"]).netloc

    def begin(self, *args: object, config: str = "", umask: int = -1, **variables: str) -> None:
        """Start it, and do not wait for what comes of it."""
        flags: list[object] = ["--data-dir", self.data_dir, "--listen", self._listen]
        if config:
            file = self._place / "test.toml"
            file.write_text(config)
            flags += ["--config", file]
        self._start("serve", *flags, *args, umask=umask, **variables)

    def _is_ready(self) -> bool:
        assert self.is_running, self.log.read_text()
        return (self.data_dir / "hub.json").exists() and self.ready["pid"] == self.pid

    @property
    def credentials(self) -> dict[str, str]:
        """The variables by which `cmdop` finds it, and may do anything."""
        return {"CMDOP_URL": self.api.url, "CMDOP_API_KEY": self.api.key}

    @property
    def ready(self) -> Any:
        """What hub.json says."""
        return json.loads((self.data_dir / "hub.json").read_text())

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self._listen.partition(":")
        return host, int(port)

    @property
    def api(self) -> Api:
        key = (self.data_dir / "admin.key").read_text().strip()
        return Api(f"http://{self._listen}", key)

    def new_token(self, **fields: object) -> str:
        """An enrolment token."""
        return str(self.api.post("/enrollment-tokens", **fields)["token"])

    def new_key(self, *scopes: str) -> Api:
        """The API by another key."""
        made = self.api.post("/api-keys", name="-".join(scopes).replace(":", "."), scopes=scopes)
        return Api(self.api.url, made["key"])


class Agent(_Process):
    """`cmdop agent` on a state directory of its own."""

    def __init__(self, place: Path, name: str) -> None:
        self.name = name
        self.state_dir = place / name
        super().__init__(place, self.state_dir)

    @property
    def machine_id(self) -> str:
        return str(json.loads((self.state_dir / "hub.json").read_text())["machine_id"])

    @property
    def keeper(self) -> psutil.Process:
        (pid,) = keepers_of(self.state_dir)
        return psutil.Process(pid)

    def begin(self, *args: object, **variables: str) -> None:
        """Start it, and do not wait for what comes of it."""
        self._start("agent", "--state-dir", self.state_dir, *args, **variables)

    def join(
        self,
        hub: Hub,
        token: str | None = None,
        url: str | None = None,
        api: Api | None = None,
    ) -> None:
        """Start it as a machine of `hub`, and wait until commands can be sent to it.

        `url`: where it shall find the hub, if not where that listens. `api`: whose machine it is.
        """
        self.begin(
            CMDOP_SERVER_URL=url or hub.api.url,
            CMDOP_JOIN_KEY=token or hub.new_token(),
            CMDOP_MACHINE_NAME=self.name,
        )
        self.wait_connected(hub, api)

    def rejoin(self, hub: Hub) -> None:
        """Start it again with what its directory holds."""
        before = self.connections
        self.begin()
        wait_for(lambda: self.connections > before, "the agent is back")
        self.wait_connected(hub)

    def wait_connected(self, hub: Hub, api: Api | None = None) -> str:
        """The id of its session, once it is CONNECTED, as `api` sees it."""
        api = api or hub.api

        def connected() -> str:
            assert self.is_running, self.log.read_text()
            if not (self.state_dir / "hub.json").exists():
                return ""
            answer = api.call("GET", f"/machines/{self.machine_id}/session")
            if answer.status != 200 or answer.data["status"] != "CONNECTED":
                return ""
            return str(answer.data["session_id"])

        return wait_for(connected, f"{self.name} is connected")

    @property
    def connections(self) -> int:
        """How often it was connected so far."""
        return self.log.read_text().count(" info connected ")


@contextmanager
def running_hub(place: Path, *args: object, config: str = "", **variables: str) -> Iterator[Hub]:
    """A hub that is ready; at the end it stops as it should."""
    with stopped_hub(place) as hub:
        hub.start(*args, config=config, **variables)
        yield hub


@contextmanager
def stopped_hub(place: Path) -> Iterator[Hub]:
    """A hub for the test to start; at the end it stops as it should."""
    hub = Hub(place)
    with ending(hub):
        yield hub


@contextmanager
def running_agent(
    hub: Hub, place: Path, name: str, *, token: str | None = None, api: Api | None = None
) -> Iterator[Agent]:
    """An agent that has joined `hub`; at the end it stops as it should, and its commands die."""
    with stopped_agent(place, name) as agent:
        agent.join(hub, token, api=api)
        yield agent


@contextmanager
def stopped_agent(place: Path, name: str) -> Iterator[Agent]:
    """An agent for the test to start; its end is as with `running_agent`."""
    agent = Agent(place, name)
    with ending(agent):
        yield agent


@contextmanager
def ending(process: _Process) -> Iterator[None]:
    """Stop it as it should be at the end; after a failure only see to it that nothing is left."""
    try:
        yield
    except BaseException:
        process._end(stop=False)  # the test's failure is the one to tell
        raise
    process._end(stop=True)


def add_coding_agent(place: Path, name: str, script: str) -> None:
    """A program, as lines of sh, which the agents of a place find: that is their home."""
    path = place / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def kill_tree(pid: int) -> None:
    """kill -9 for a process and its descendants."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        wait_for(lambda: not is_alive(process), f"{pid} is dead")


def is_alive(process: psutil.Process) -> bool:
    """False: it is gone, or waits to be reaped."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
