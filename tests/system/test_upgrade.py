"""The hub becomes a later release of itself; what is no good leaves everything as it was."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from threading import Event, Thread

import pytest

from cmdop_appliance.service.folders import Home
from tests.support.appliance import BASE_ENVIRONMENT, PROGRAM, Hub, ending, running_agent, wait_for
from tests.support.installed import (
    MAKER,
    MIGRATES,
    NEW,
    OLD,
    PUBLIC,
    hub_does,
    installed,
    program,
)
from tests.support.releases import OWN, make_bundle

KILLS, KILLS_PARENT = (f"os.kill(os.{who}(), signal.SIGKILL)" for who in ("getpid", "getppid"))
PATIENCE_S = 120  # unpacking, a trial and two starts


class Installed(Hub):
    """A hub that runs from an installed folder, and trusts MAKER."""

    def __init__(self, place: Path, first: str = "") -> None:
        super().__init__(place)
        self.home = Home(place / "cmdop")
        installed(self.home.path, program(place / "old", OLD, first=first))
        self.program = [str(self.home.path / "current/cmdop")]
        self.variables = {"CMDOP_UPGRADE_KEYS": PUBLIC}

    def upgrade(self, bundle: bytes, query: str = "") -> str:
        """The id of an upgrade that was accepted."""
        kind = {"Content-Type": "application/octet-stream"}
        answer = self.api.call("PUT", f"/upgrades/bundle{query}", bundle, headers=kind)
        assert answer.data["status"] == "hub"
        return str(answer.data["id"])

    @property
    def version(self) -> str:
        return str(self.ready["version"])

    def wait_upgraded(self, upgrade_id: str) -> tuple[str, str | None]:
        """Status and reason, once the hub has had its turn."""

        def over() -> tuple[str, str | None] | None:
            with suppress(OSError):
                upgrade = self.api.get(f"/upgrades/{upgrade_id}")
                if upgrade["status"] != "hub" and self._is_ready():
                    return upgrade["status"], upgrade["reason"]
            return None

        return wait_for(over, "the hub has had its turn", PATIENCE_S)


@pytest.fixture
def hub(tmp_path) -> Iterator[Installed]:
    hub = Installed(tmp_path)
    with ending(hub):
        hub.start()
        yield hub


def bundle_of(place: Path, first: str) -> bytes:
    """The new release; `first` is Python that it runs first."""
    content = program(place / "new", NEW, first=first).read_bytes()
    return make_bundle(place / "bundle", MAKER, {OWN: content}, version=NEW)


def tags_of(hub: Hub) -> list[str]:
    """The names of the keys that were made: what the hub has acknowledged."""
    return sorted(key["name"] for key in hub.api.get("/api-keys"))


class Caller(Thread):
    """Asks the hub all the time, with a connection for each request."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.answers: list[int] = []
        self.refused = 0
        self._address = address
        self._over = Event()
        self.start()

    def run(self) -> None:
        while not self._over.is_set():
            connection = HTTPConnection(*self._address, timeout=30)
            try:
                connection.request("GET", "/healthz")
                self.answers.append(connection.getresponse().status)
            except ConnectionRefusedError:
                self.refused += 1
            except OSError:  # it was let in as the hub stopped
                pass
            finally:
                connection.close()

    def stop(self) -> None:
        self._over.set()
        self.join(30)


def test_a_hub_becomes_the_release_that_it_is_given_if_that_is_good(hub, tmp_path):
    extra, why = FAULTS["it cannot start"]
    test_a_release_that_is_no_good_leaves_all_as_it_was(hub, tmp_path, extra, why)
    pid, url = hub.pid, hub.ready["url"]
    hub.new_key("machines:read")
    names = tags_of(hub)
    assert hub.version == OLD
    (tmp_path / "cmdop.bundle").write_bytes(bundle_of(tmp_path, MIGRATES))
    caller = Caller(hub.address)
    done = subprocess.run(
        [*PROGRAM, "--data-dir", hub.data_dir, "upgrade", tmp_path / "cmdop.bundle"],
        env={**BASE_ENVIRONMENT, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    caller.stop()
    assert (done.returncode, done.stderr.splitlines()[1:]) == (0, [f"the hub runs {NEW}"])
    wait_for(hub._is_ready, "it says so")
    assert set(caller.answers) == {200}
    assert caller.refused == 0
    assert (hub.version, hub.ready["pid"], hub.ready["url"]) == (NEW, pid, url)
    assert hub.home.current().number == NEW
    assert tags_of(hub) == names
    listed = hub.api.call("GET", "/dl", prefix="").json["files"]
    assert [each["name"] for each in listed] == [OWN]
    assert not list((hub.data_dir / "upgrades").iterdir())
    assert not (hub.data_dir / "upgrade.json").exists()


FAULTS = {
    "it ends at once": ('if "CMDOP_TRIAL" in os.environ: sys.exit(7)', "ended without a word"),
    "it cannot start": (
        'if "CMDOP_TRIAL" in os.environ: os.environ["CMDOP_GRACE"] = os.environ["CMDOP_TLS"] = "x"',
        "CMDOP_TLS",
    ),
    "its migration fails": (MIGRATES.replace("TEXT PRIMARY KEY", "TEXT KEY ("), "ended without"),
}


@pytest.mark.long
@pytest.mark.parametrize(("extra", "why"), FAULTS.values(), ids=FAULTS)
def test_a_release_that_is_no_good_leaves_all_as_it_was(hub, tmp_path, extra, why):
    pid = hub.pid
    names = tags_of(hub)
    status, reason = hub.wait_upgraded(hub.upgrade(bundle_of(tmp_path, extra)))
    assert status == "failed"
    assert why in reason
    assert (hub.version, hub.ready["pid"]) == (OLD, pid)
    assert hub.home.current().number == OLD
    assert tags_of(hub) == names


def test_a_hub_that_is_killed_during_the_trial_is_what_it_was(hub, tmp_path):
    """The trial has migrated the store, which the old release could not read."""
    kills = hub_does(KILLS_PARENT, "upgrading:ask_ready", "after", tmp_path / "died", is_trial=True)
    names = tags_of(hub)
    upgrade_id = hub.upgrade(bundle_of(tmp_path, MIGRATES + kills))
    assert hub.wait_exit(PATIENCE_S) == -9
    hub.start()
    assert hub.wait_upgraded(upgrade_id) == (
        "failed",
        "the hub was stopped while it tried the new release",
    )
    assert hub.version == OLD
    assert tags_of(hub) == names


@pytest.mark.long
def test_a_hub_that_is_told_to_stop_during_the_trial_stops(hub, tmp_path):
    does = "(os.kill(os.getppid(), signal.SIGTERM), signal.pause())"
    ends = hub_does(does, "upgrading:ask_ready", "after", tmp_path / "died", is_trial=True)
    upgrade_id = hub.upgrade(bundle_of(tmp_path, MIGRATES + ends))
    assert hub.wait_exit(PATIENCE_S) == 0
    assert not hub.leftovers()
    hub.start()
    assert hub.wait_upgraded(upgrade_id) == ("failed", "the hub was told to stop")


# ── kill -9 at every step, of whoever is at it ───────────────────────────────────────────────────

AS_OLD = [
    *("service.folders:Home.add", "upgrading:_note", "upgrading:_watch"),
    *("service.folders:Home.switch", "upgrading:become"),
]
AS_NEW = [
    *("upgrading:put_back", "store.migrate:to_latest", "upgrading:Upgrader.settle"),
    *("hub.releases:_move", "hub.releases:Releases.succeeded", "service.folders:Home.prune"),
]
ON_TRIAL = ["upgrading:stand_trial", "store.migrate:to_latest", "upgrading:ask_ready"]


@contextmanager
def ended(hub: Installed) -> Iterator[None]:
    """Nothing of it is left at the end."""
    try:
        yield
    finally:
        hub._end(stop=False)


@pytest.mark.long
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("who", "where"),
    [
        *(("old", where) for where in AS_OLD),
        *(("new", where) for where in AS_NEW),
        *(("trial", where) for where in ON_TRIAL),
        *(("parent", where) for where in ON_TRIAL),
    ],
)
def test_whoever_is_killed_whenever_the_hub_comes_back_with_all_that_it_promised(
    tmp_path, who, where, when
):
    marker = tmp_path / "died"
    if where == "upgrading:become":
        when = "before"  # it never returns
    does = KILLS_PARENT if who == "parent" else KILLS
    kill = hub_does(does, where, when, marker, is_trial=who in ("trial", "parent"))
    hub = Installed(tmp_path, kill if who == "old" else "")
    with ended(hub):
        hub.start()
        hub.new_key("machines:read")
        names = tags_of(hub)
        upgrade_id = hub.upgrade(bundle_of(tmp_path, MIGRATES + ("" if who == "old" else kill)))
        if who != "trial":
            assert hub.wait_exit(PATIENCE_S) == -9
            hub.start()
        status, _ = hub.wait_upgraded(upgrade_id)
        assert marker.exists()
        assert hub.version == (NEW if status == "completed" else OLD)
        assert hub.home.current().number == hub.version
        assert tags_of(hub) == names
        if status == "failed":  # the next try finds nothing in its way
            again = bundle_of(tmp_path, MIGRATES)
            assert hub.wait_upgraded(hub.upgrade(again)) == ("completed", None)
        assert (hub.version, tags_of(hub)) == (NEW, names)


@pytest.mark.long
def test_commands_run_on_while_the_hub_is_upgraded(hub, tmp_path):
    with running_agent(hub, tmp_path, "one") as agent:
        keeper = agent.keeper.pid
        command_id = hub.api.start(agent.machine_id, "echo one; read x; echo two", stdin="")
        upgrade_id = hub.upgrade(bundle_of(tmp_path, MIGRATES), "?hub_only=true")
        assert hub.wait_upgraded(upgrade_id) == ("completed", None)
        assert hub.api.wait_end(command_id)["stdout"] == "one\ntwo\n"
        assert agent.keeper.pid == keeper
