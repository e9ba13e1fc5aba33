"""agent.toml: the example tells the truth, errors name the place, and what is denied and why."""

import os
import pwd
import tomllib
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from cmdop_appliance.agent.grants import open_window
from cmdop_appliance.agent.policy import (
    CommandsPolicy,
    Denied,
    FilesPolicy,
    Policy,
    TerminalsPolicy,
    judge,
    judge_terminal,
    load_policy,
)
from cmdop_appliance.errors import StartupError
from cmdop_appliance.protocol.messages import Spec
from cmdop_appliance.protocol.terminals import Shell

EXAMPLE = Path(__file__).parents[2] / "agent.example.toml"
FIELDS = [
    field
    for table in msgspec.structs.fields(Policy)
    for field in msgspec.structs.fields(table.type)
]
OWN_NAME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def file(tmp_path):
    """Writes agent.toml into the state directory; gives its path."""

    def write(text: str, mode: int = 0o600) -> Path:
        path = tmp_path / "agent.toml"
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


def refusal(path: Path) -> StartupError:
    with pytest.raises(StartupError) as caught:
        load_policy(path, path.parent)
    return caught.value


# ── the file ─────────────────────────────────────────────────────────────────────────────────


def test_the_example_has_every_key_with_its_default_and_no_other(tmp_path):
    assert tomllib.loads(EXAMPLE.read_text()) == msgspec.json.decode(msgspec.json.encode(Policy()))
    copy = tmp_path / "copy.toml"
    copy.write_text(EXAMPLE.read_text())
    copy.chmod(0o644)
    assert load_policy(copy, tmp_path) == Policy()


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_the_example_says_what_each_key_means_and_allows(field):
    lines = EXAMPLE.read_text().splitlines()
    shown = (f"{field.name} =", f"[coding.{field.name}.")
    here = next(n for n, line in enumerate(lines) if line.startswith(shown))
    assert lines[here - 1].startswith("# ")
    for meta in (m for m in get_args(field.type) if isinstance(m, msgspec.Meta)):
        if meta.ge is not None:
            assert f"{meta.ge} to {meta.le}" in lines[here - 1]


def test_the_state_directory_has_the_file_unless_another_is_named(tmp_path, file):
    assert load_policy(None, tmp_path) == Policy()
    file("[commands]\nexec = false\n")
    assert not load_policy(None, tmp_path).commands.exec
    other = tmp_path / "other.toml"
    other.write_text("[commands]\nmax_parallel = 7\n")
    other.chmod(0o600)
    assert load_policy(other, tmp_path) == Policy(commands=CommandsPolicy(max_parallel=7))


@pytest.mark.parametrize(
    ("text", "line", "key", "allowed"),
    [
        ("[commands]\n\nexecute = 1\n", 3, "commands.execute", "exec, users, max_parallel"),
        ("\n[command]\n", 2, "[command]", "commands, files"),
        ("[commands]\nexec = 0\n", 2, "commands.exec", "expected `bool`, got `int`"),
        ("[commands]\nusers = 'root'\n", 2, "commands.users", 'a list of names, or ["*"]'),
        ("[commands]\nusers = ['a', '']\n", 2, "commands.users", "a list of names"),
        ("[commands]\nmax_parallel = 0\n", 2, "commands.max_parallel", ">= 1"),
        ("[commands]\nmax_parallel = 1001\n", 2, "commands.max_parallel", "<= 1000"),
        ("[terminals]\nidle_ms = -1\n", 2, "terminals.idle_ms", ">= 0"),
        ("[files]\nread = 'no'\n", 2, "files.read", "expected `bool`, got `str`"),
        ("[files]\nwrite = 0\n", 2, "files.write", "expected `bool`, got `int`"),
        ("[files]\nroots = [\n  '/srv',\n  'etc',\n]\n", 2, "files.roots", "absolute paths"),
        ('[files]\nroots = ["/srv\\u0000"]\n', 2, "files.roots", "absolute paths"),
        ("[upgrade]\nenabled = 'no'\n", 2, "upgrade.enabled", "expected `bool`, got `str`"),
        ("[upgrade]\nkeys = ['QUJD']\n", 2, "upgrade.keys", "no Ed25519 public key: 32 bytes"),
        ("[upgrade]\nkeys = ['']\n", 2, "upgrade.keys", "a list of Ed25519 public keys"),
        ("[coding]\nenabled = 1\n", 2, "coding.enabled", "expected `bool`, got `int`"),
        ("[coding]\npath = ['bin']\n", 2, "coding.path", "a list of folders"),
        ("[coding]\npath = ['/a:/b']\n", 2, "coding.path", "a list of folders"),
        ("[coding]\nwaiting_ms = 499\n", 2, "coding.waiting_ms", ">= 500"),
        (
            "[coding.flavours.a]\nprograms = ['a']\nyollo = []\n",
            3,
            "coding.flavours.yollo",
            "programs, args, model, yolo",
        ),
        ("\n[coding.flavours.a]\nyolo = []\n", 2, "coding.flavours", "with programs (one at"),
        ("[coding.flavours.a]\nprograms = []\n", 1, "coding.flavours", "a list of words"),
        ("[coding.flavours.a]\nprograms = ['b/c']\n", 1, "coding.flavours", "a list of words"),
        ("[coding]\nflavours = []\n", 2, "coding.flavours", "tables [coding.flavours.NAME]"),
    ],
)
def test_a_refusal_names_file_line_key_and_what_is_allowed(file, text, line, key, allowed):
    path = file(text)
    error = refusal(path)
    assert error.message.startswith(f"{path}:{line}: {key}: ")
    assert allowed in f"{error.message} ({error.hint})"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused_with_the_remedy(file, mode):
    path = file("", mode)
    error = refusal(path)
    assert f"{mode:04o}" in error.message
    assert error.hint == f"chmod go-w {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused_with_the_remedy(file):
    path = file("")
    os.chown(path, 12345, -1)
    error = refusal(path)
    assert "12345" in error.message
    assert error.hint == f"chown 0 {path}"


def test_a_file_that_cannot_be_read_is_no_file_that_allows_all(tmp_path):
    missing = tmp_path / "no.toml"
    assert str(missing) in refusal(missing).message
    (tmp_path / "agent.toml").symlink_to(missing)
    with pytest.raises(StartupError, match=r"agent\.toml: No such file"):
        load_policy(None, tmp_path)


# ── what it denies ───────────────────────────────────────────────────────────────────────────


def verdict(state_dir: Path, policy: Policy, **spec: str) -> Spec | str:
    """The spec as it may start, or the code and the key that deny it."""
    (outcome,) = judge(policy, state_dir, [Spec(argv=["true"], **spec)])
    if isinstance(outcome, Spec):
        return outcome
    assert isinstance(outcome, Denied)
    assert "agent.toml" in outcome.message
    return f"{outcome.code} {outcome.message.rpartition('(')[2].partition(')')[0]}"


def allowing(*users: str) -> Policy:
    return Policy(commands=CommandsPolicy(users=users))


def within(*roots: object) -> Policy:
    return Policy(files=FilesPolicy(roots=tuple(map(str, roots))))


def test_without_exec_nothing_may_start_but_while_a_window_is_open(tmp_path):
    closed = Policy(commands=CommandsPolicy(exec=False))
    assert verdict(tmp_path, closed) == "policy_denied commands.exec"
    open_window(tmp_path, 60_000)
    assert verdict(tmp_path, closed) == Spec(argv=["true"])


def test_an_open_window_widens_neither_users_nor_roots(tmp_path):
    closed = Policy(commands=CommandsPolicy(exec=False, users=()), files=FilesPolicy(roots=("/a",)))
    open_window(tmp_path, 60_000)
    assert verdict(tmp_path, closed, user="x") == "user_denied commands.users"
    assert verdict(tmp_path, closed, cwd="/b") == "policy_denied files.roots"


@pytest.mark.parametrize(
    ("users", "user", "allowed"),
    [
        (("*",), "anybody", True),
        (("www", "*"), "anybody", True),
        (("www",), "www", True),
        (("www",), "WWW", False),
        (("www",), "ww", False),
        (("www",), "*", False),
        ((), "www", False),
        ((), OWN_NAME, True),
        ((), None, True),
        (("www",), None, False),
        (("www",), OWN_NAME, False),
        (("www", OWN_NAME), None, True),
        (("www", OWN_NAME), OWN_NAME, True),
    ],
)
def test_a_command_runs_as_the_users_that_are_named_and_no_other(tmp_path, users, user, allowed):
    spec = {} if user is None else {"user": user}
    outcome = verdict(tmp_path, allowing(*users), **spec)
    assert outcome == (Spec(argv=["true"], **spec) if allowed else "user_denied commands.users")


def test_who_names_no_user_is_told_whom_the_agent_runs_as_and_the_remedy(tmp_path):
    (denied,) = judge(allowing("www"), tmp_path, [Spec(argv=["true"])])
    assert repr(OWN_NAME) in denied.message
    assert "name one that it allows" in denied.message


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A root with a folder, links that leave it and come back, and a sibling with its name."""
    for name in ("srv/in", "srv-not", "home/in"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "srv/out").symlink_to("../srv-not")
    (tmp_path / "srv-not/back").symlink_to(tmp_path / "srv/in")
    (tmp_path / "data").symlink_to("srv")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize(
    ("cwd", "leads"),
    [
        ("srv", "srv"),
        ("srv/", "srv"),
        ("srv/in", "srv/in"),
        ("data/in", "srv/in"),
        ("srv-not/back", "srv/in"),
        ("srv-not/../srv/in", "srv/in"),
        ("srv/no/such", "srv/no/such"),
        ("srv-not", None),
        ("srv/..", None),
        ("srv/out", None),
        ("srv/out/../srv", "srv"),
        ("srv/in/../../home", None),
        (".", None),
    ],
)
@pytest.mark.parametrize("root", ["srv", "srv/", "data"])
def test_a_working_directory_is_where_it_really_leads(tree, root, cwd, leads):
    outcome = verdict(tree, within(f"{tree}/{root}"), cwd=f"{tree}/{cwd}")
    if leads is None:
        assert outcome == "policy_denied files.roots"
    else:  # and there it starts, whatever becomes of the links
        assert outcome.cwd == f"{tree}/{leads}"


def test_a_relative_working_directory_counts_from_the_home(tree):
    assert verdict(tree, within(tree / "home"), cwd="in").cwd == f"{tree}/home/in"
    assert verdict(tree, within(tree / "srv"), cwd="in") == "policy_denied files.roots"
    assert verdict(tree, within(tree / "srv"), cwd="../srv").cwd == f"{tree}/srv"
    account = pwd.getpwall()[-1]
    expected = os.path.realpath(f"{account.pw_dir}/x")
    assert verdict(tree, within(expected), cwd="x", user=account.pw_name).cwd == expected


def test_where_the_hub_names_no_directory_there_is_nothing_to_deny(tree):
    assert verdict(tree, within(tree / "srv")) == Spec(argv=["true"])
    assert verdict(tree, within()) == Spec(argv=["true"])
    assert verdict(tree, within(), cwd="/") == "policy_denied files.roots"
    assert verdict(tree, within("/"), cwd="/etc") == Spec(argv=["true"], cwd="/etc")


def test_names_from_the_hub_are_shown_harmless_and_short(tmp_path):
    (denied,) = judge(allowing(), tmp_path, [Spec(argv=["x"], user="\x1b[2J" + "x" * 10_000)])
    assert denied.message.isprintable()
    assert len(denied.message) < 500


@pytest.mark.parametrize("cwd", ["a\0b", "/etc\0"])
def test_what_is_no_path_is_left_for_the_keeper_to_refuse(tmp_path, cwd):
    assert verdict(tmp_path, within("/srv"), cwd=cwd).cwd == cwd


def terminal(state_dir: Path, policy: Policy, **shell: str) -> Shell | str:
    """The terminal as it may be opened, or the code and the key that deny it."""
    outcome = judge_terminal(policy, state_dir, Shell(**shell))
    if isinstance(outcome, Shell):
        return outcome
    return f"{outcome.code} {outcome.message.rpartition('(')[2].partition(')')[0]}"


def test_a_terminal_is_denied_as_a_command_is_and_by_a_switch_of_its_own(tree):
    closed = Policy(commands=CommandsPolicy(exec=False))
    assert terminal(tree, Policy(terminals=TerminalsPolicy(enabled=False))) == (
        "policy_denied terminals.enabled"
    )
    assert terminal(tree, allowing("www"), user=OWN_NAME) == "user_denied commands.users"
    assert terminal(tree, within(tree / "srv"), cwd="/") == "policy_denied files.roots"
    assert terminal(tree, closed) == "policy_denied commands.exec"
    open_window(tree, 60_000)
    assert terminal(tree, closed) == Shell()


def test_a_terminal_opens_where_its_directory_really_leads(tree):
    for policy in (Policy(), within(tree / "srv")):
        assert terminal(tree, policy, cwd=f"{tree}/data/in").cwd == f"{tree}/srv/in"
        assert terminal(tree, policy, cwd="/etc\0").cwd == "/etc\0"
    assert terminal(tree, Policy(), cwd="in").cwd == f"{tree}/home/in"
