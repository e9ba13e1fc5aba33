"""`cmdop agent` as it is typed: its flags, and the windows that a person at the machine opens."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts for other users")


@pytest.fixture
def state_dir(tmp_path):
    path = tmp_path / "state"
    path.mkdir(0o700)
    return path


def cmdop(place: Path, *args: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cmdop_appliance", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=place,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(place), **more},
        timeout=60,
        check=False,
    )


def audited(state_dir: Path) -> list[str]:
    lines = (state_dir / "audit.log").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


# ── starting ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "words",
    [
        ["agent", "--hub", "nonsense", "--name", "n", "--state-dir", "s"],
        ["agent", "start", "--foreground", "--hub", "nonsense", "--name", "n"],
        ["agent", "--hub", "nonsense", "start", "--foreground", "--state-dir", "s"],
        ["agent", "--hub", "other", "start", "--hub", "nonsense"],
        ["agent", "--hub", "nonsense", "--foreground", "start", "--name", "n"],
        ["--hub", "nonsense", "agent", "start"],
        ["--hub", "other", "agent", "--hub", "nonsense"],
    ],
)
def test_the_flags_may_stand_before_and_after_start(tmp_path, words):
    done = cmdop(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'nonsense' is not the address of a hub" in done.stderr


def test_a_flag_before_start_wins_over_a_variable(tmp_path):
    done = cmdop(tmp_path, "agent", "--hub", "flag", "start", CMDOP_SERVER_URL="variable")
    assert "'flag' is not the address of a hub" in done.stderr


def test_every_flag_before_start_is_heeded(tmp_path):
    flags = ["--hub", "http://127.0.0.1:1", "--token", "wrong", "--state-dir", "there"]
    done = cmdop(tmp_path, "agent", *flags, "start")
    assert "this is not an enrolment token" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[commands]\n\nexe = true\n", "agent.toml:3: commands.exe: unknown key"),
        ("[commands]\nmax_parallel = 0\n", "agent.toml:2: commands.max_parallel: "),
        ("[files\n", "agent.toml: "),
    ],
)
@pytest.mark.parametrize("flag", [[], ["--config", "state/agent.toml"]])
def test_a_wrong_policy_is_refused_at_once_and_without_a_traceback(state_dir, flag, text, said):
    (state_dir / "agent.toml").write_text(text)
    (state_dir / "agent.toml").chmod(0o600)
    begun = time.monotonic()
    done = cmdop(state_dir.parent, "agent", "--state-dir", state_dir, *flag)
    assert time.monotonic() - begun < 30  # a bound against waiting for a hub
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr.splitlines()[0]
    assert len(done.stderr.splitlines()) <= 2


def test_a_policy_that_is_not_there_or_that_others_may_write_is_refused(state_dir):
    place = state_dir.parent
    done = cmdop(place, "agent", "--config", "no.toml")
    assert (done.returncode, "cannot read no.toml" in done.stderr) == (2, True)
    (state_dir / "agent.toml").write_text("")
    (state_dir / "agent.toml").chmod(0o666)
    done = cmdop(place, "agent", "--state-dir", state_dir)
    assert (done.returncode, "hint: chmod go-w" in done.stderr) == (2, True)


# ── windows ──────────────────────────────────────────────────────────────────────────────────


def test_a_window_is_opened_shown_and_closed(state_dir):
    place = state_dir.parent
    (state_dir / "agent.toml").write_text("[commands]\nexec = false\nusers = ['www']\n")
    (state_dir / "agent.toml").chmod(0o600)
    done = cmdop(place, "agent", "grant", "exec", "30m", "--state-dir", state_dir)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("exec is granted until 20")
    done = cmdop(place, "agent", "--state-dir", state_dir, "policy", "-o", "json")
    shown = json.loads(done.stdout)
    assert (shown["commands.exec"], shown["commands.users"]) == (False, ["www"])
    assert shown["exec granted for"].startswith("0:")
    done = cmdop(place, "agent", "--state-dir", state_dir, "revoke", "exec")
    assert (done.returncode, done.stdout) == (0, "exec is no longer granted\n")
    done = cmdop(place, "agent", "revoke", "exec", "--state-dir", state_dir)
    assert (done.returncode, done.stdout) == (0, "exec was not granted\n")
    done = cmdop(place, "agent", "policy", "--state-dir", state_dir, "-o", "json")
    assert json.loads(done.stdout)["exec granted for"] is None
    assert audited(state_dir) == ["grant.opened", "grant.closed"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["grant", "exec", "25h"], "at most 24h"),
        (["grant", "exec", "86400001ms"], "at most 24h"),
        (["grant", "exec", "0s"], "must be greater than 0"),
        (["grant", "exec"], "DURATION"),
        (["grant", "files", "1h"], "exec"),
        (["revoke", "files"], "exec"),
        (["policy", "--config", "no.toml"], "no.toml"),
        (["grant", "exec", "1h", "--state-dir", "elsewhere"], "--state-dir"),
        (["grant", "exec", "1h", "--state-dir", "/dev/null"], "/dev/null"),
    ],
)
def test_what_cannot_be_granted_is_refused_and_opens_nothing(state_dir, args, said):
    done = cmdop(state_dir.parent, "agent", "--state-dir", "state", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert list(state_dir.iterdir()) == []


def test_a_day_can_be_granted(state_dir):
    assert cmdop(state_dir, "agent", "grant", "exec", "24h", "--state-dir", ".").returncode == 0


@pytest.fixture
def foreign_state_dir():
    """Of another user, who can reach it: pytest's directories are root's alone."""
    with TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        state_dir = Path(place, "state")
        state_dir.mkdir(0o700)
        os.chown(state_dir, 12345, 12345)
        yield state_dir


@needs_root
def test_root_opens_a_window_for_an_agent_of_another_user(foreign_state_dir):
    done = cmdop(Path("/"), "agent", "grant", "exec", "1m", "--state-dir", foreign_state_dir)
    assert done.returncode == 0
    written = {path.name: path.stat().st_uid for path in foreign_state_dir.iterdir()}
    assert written == {"audit.log": 12345, "grant.json": 12345}
    assert '"uid": 0' in (foreign_state_dir / "audit.log").read_text()


@needs_root
def test_a_link_in_the_directory_of_another_user_leads_root_nowhere(foreign_state_dir):
    secret = foreign_state_dir.parent / "secret"
    secret.write_text("as it was")
    secret.chmod(0o600)
    (foreign_state_dir / "audit.log").symlink_to(secret)
    done = cmdop(Path("/"), "agent", "grant", "exec", "1m", "--state-dir", foreign_state_dir)
    assert (done.returncode, "Permission denied" in done.stderr) == (2, True)
    assert secret.read_text() == "as it was"
    assert secret.stat().st_uid == 0
