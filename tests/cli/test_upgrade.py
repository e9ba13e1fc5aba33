"""`cmdop upgrade`: what it says of a bundle, and of what became of it."""

import base64

import pytest

from cmdop_appliance import RELEASED_MS, __version__
from cmdop_appliance.cli import failures
from cmdop_appliance.cli.main import main
from cmdop_appliance.identity import Identity
from tests.cli.files_cli import cmdop
from tests.sdk.scripted_hub import answer, scripted_hub
from tests.support.appliance import running_hub
from tests.support.releases import OWN, make_bundle

MAKER = Identity.generate()
PROGRAMS = {OWN: b"a program"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub that is not installed, and trusts MAKER."""
    keys = base64.b64encode(MAKER.public_key).decode()
    with running_hub(tmp_path_factory.mktemp("hub"), CMDOP_UPGRADE_KEYS=keys) as hub:
        yield hub


@pytest.fixture
def upgrade(hub, command_line, tmp_path):
    """Runs `cmdop upgrade` with a bundle of some release."""

    def run(*args, maker=MAKER, **release):
        file = tmp_path / "cmdop.bundle"
        file.write_bytes(make_bundle(tmp_path / "made", maker, PROGRAMS, **release))
        return command_line(hub.api.url, hub.api.key, "upgrade", str(file), *args)

    return run


RUNNING = {"version": __version__, "released_ms": RELEASED_MS}


def test_a_bundle_can_be_looked_at(upgrade, hub):
    before = hub.api.get("/upgrades")
    code, out, _ = upgrade("--check", **RUNNING)
    assert code == 0
    assert out == f"cmdop.bundle is good: release {__version__}; the hub runs it already\n"
    assert hub.api.get("/upgrades") == before


def test_whoever_is_not_trusted_is_not_believed(upgrade):
    code, _, err = upgrade("--check", maker=Identity.generate())
    assert code == failures.OTHER
    assert err.splitlines() == [
        "error: no key that is trusted here has signed this bundle",
        "hint: name its maker's public key in [upgrade] keys, if you trust it",
    ]


def test_a_hub_that_cannot_replace_itself_says_what_to_do(upgrade):
    code, _, err = upgrade()
    assert code == failures.OTHER
    assert "error: this hub cannot replace itself" in err
    assert "hint: cmdop install hub" in err


def test_an_upgrade_of_machines_is_followed_to_its_end_and_listed(upgrade, command_line, hub):
    code, _, err = upgrade(**RUNNING)
    assert code == 0
    upgrade_id, _ = err.split(": to release ")
    assert f"the hub runs {__version__}\n" in err
    code, out, _ = command_line(hub.api.url, hub.api.key, "upgrade", "status")
    assert code == 0
    assert upgrade_id in out
    assert "completed" in out
    code, out, _ = command_line(
        hub.api.url, hub.api.key, "upgrade", "status", upgrade_id, "-o", "jsonl"
    )
    assert (code, out) == (0, "")


@pytest.mark.parametrize(
    ("machines", "code", "last"),
    [
        # The machines are asked for after the upgrade: they can have ended when it had not.
        ([("nas", "refused", True)], failures.OTHER, "nas: refused: why\n"),
        ([("nas", "healthy", False)], 0, "nas: healthy: why\n"),
        (
            [("nas", "rolled_back", False), ("web", "waiting", False)],
            failures.OTHER,
            "nas: rolled back: why\n1 machines are away: they get it when they are back\n",
        ),
    ],
)
def test_what_became_of_machines_is_told_and_the_exit_code(tmp_path, machines, code, last):
    at_work = {"id": "upg_1", "version": "1.0.0", "status": "machines", "hub_upgraded_at": "then"}
    states = [at_work, at_work | {"status": "completed"}]
    listed = [
        {"name": name, "state": state, "online": online, "reason": "why"}
        for name, state, online in machines
    ]

    def script(asked):
        if asked.path.endswith("/machines"):
            return answer(listed)
        return answer(states.pop(0) if asked.method == "GET" and len(states) > 1 else states[-1])

    file = tmp_path / "cmdop.bundle"
    file.write_bytes(b"a bundle")
    with scripted_hub(script) as scripted:
        done = cmdop(scripted, "upgrade", file)
    assert done.returncode == code
    assert done.stderr.decode().endswith(f"the hub runs 1.0.0\n{last}")


def test_what_excludes_each_other_is_refused_before_the_hub_is_asked(upgrade):
    code, _, err = upgrade("--hub-only", "--machines", "web-1")
    assert code == failures.USAGE
    assert "--hub-only and --machines exclude each other" in err


def test_help_has_the_options_of_an_upgrade_and_what_shows_them(capsys):
    assert main(["upgrade", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--check" in said
    assert "status  Show the upgrades" in said


def test_a_file_that_is_not_there_is_named(command_line, hub):
    code, _, err = command_line(hub.api.url, hub.api.key, "upgrade", "/nowhere.bundle")
    assert code == failures.USAGE
    assert "/nowhere.bundle" in err
