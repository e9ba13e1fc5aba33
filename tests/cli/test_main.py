"""The program as it is started: exit codes, three lines at most, no traceback, quick."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sdk.scripted_hub import answer, scripted_hub

ROOT = Path(__file__).parents[2]
CALL = "import sys; from cmdop_appliance.__main__ import main; sys.argv[0] = 'cmdop'; "


def _run(*args, before="", cwd=None, **options):
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-c", before + CALL + "main()", *args],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environ,
        timeout=60,
        check=False,
        **options,
    )


def test_version_is_one_line(tmp_path):
    for spelling in ("version", "--version"):
        done = _run(spelling, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("cmdop 0.")


HEAVY = [
    *("anyio", "asyncio", "h11", "httpx", "hypercorn", "markdown_it", "msgspec", "quart", "rich"),
    *("tomli_w", "trio", "websockets"),
]
_TELL = (
    "import atexit, sys; atexit.register(lambda: "
    "print('LOADED', *(n for n in {} if n in sys.modules), file=sys.stderr)); "
)
REPORT = _TELL.format(HEAVY)


@pytest.mark.parametrize("args", [["version"], ["completion", "zsh"]])
def test_what_asks_no_hub_loads_nothing_that_would(tmp_path, args):
    done = _run(*args, before=_TELL.format([*HEAVY, "http.client", "ssl"]), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "LOADED\n")


def test_a_simple_command_loads_nothing_heavy(tmp_path):
    done = _run("machines", "ls", before=REPORT, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == "LOADED"


def test_no_command_loads_anything_heavy_before_it_is_run(tmp_path):
    """But for those whose work is to read and write configuration."""
    import_all = (
        "from cmdop_appliance.cli.main import _COMMANDS, cli; "
        "[cli.get_command(None, name) for name in {*_COMMANDS} - {'apply', 'export'}]; "
    )
    done = _run("version", before=REPORT + import_all, cwd=tmp_path)
    assert done.stderr == "LOADED\n"


def test_a_shell_that_asks_what_could_follow_does_not_wait_for_imports(tmp_path):
    asked = {"_CMDOP_COMPLETE": "bash_complete", "COMP_WORDS": "cmdop exec ", "COMP_CWORD": "2"}
    done = _run(before=REPORT, cwd=tmp_path, env=asked)
    assert (done.returncode, done.stderr) == (0, "LOADED\n")


ELSEWHERE = ["--hub", "http://127.0.0.1:1", "--key", "k"]  # a port where nobody listens


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["machine"], 2, "did you mean: machines?"),
        (["zzz"], 2, 'no command "zzz"'),
        (["machines", "ls", "--wrong"], 2, "--wrong"),
        (["machines", "ls"], 2, "no hub is known"),
        (["machines", "add", "--ttl", "1"], 2, "such as 500ms, 30s, 5m, 2h or 1d"),
        (["machines", "metrics", "nas", "--since", "999999999d"], 2, "at most 3650d"),
        ([*ELSEWHERE, "machines", "ls"], 5, "refused"),
        ([*ELSEWHERE, "machines", "ls"], 5, "is the address right? It is from --hub\n"),
        ([*ELSEWHERE, "machines", "ls", "--tags", ""], 2, "'--tags': no name is given"),
        ([*ELSEWHERE, "machines", "add", "--tags", ","], 2, "'--tags': no name is given"),
        ([*ELSEWHERE, "auth", "create-key", "--tags", ""], 2, "'--tags': no name is given"),
        ([*ELSEWHERE, "auth", "create-key", "--tags", " ,"], 2, "'--tags': no name is given"),
        ([*ELSEWHERE, "auth", "create-key", "--scopes", ""], 2, "'--scopes': no name is given"),
        (["machines", "ls", "--context", "none"], 3, 'no context "none"'),
        (["run", "--", "true"], 2, "-t"),
        (["logout"], 2, "logged in to no hub"),
        ([*ELSEWHERE, "audit", "verify", "-o", "name"], 2, "'name' is not one of"),
        (["machines", "ls", "--hub", "nonsense", "--key", "k"], 2, "http://127.0.0.1:3006"),
        (["exec", "nas", "--", "true"], 255, "no hub is known"),
        (["exec", "nas", "-q", "--", "true"], 255, "-q"),
        (["exec", "nas", *ELSEWHERE, "ls"], 255, "refused"),
        (["exec"], 255, "MACHINE"),
        ([*ELSEWHERE, "exec", "nas", "git", "checkout", "--", "f"], 255, "stands before --"),
        ([*ELSEWHERE, "exec", "nas", "--env", "A", "--", "env"], 255, "NAME=VALUE"),
        (["exec", "nas", "--timeout", "soon", "--", "true"], 255, "30s"),
        ([*ELSEWHERE, "connect", "nas"], 255, "not a terminal"),
        (["connect", "nas", "--detach-key", "^1"], 255, "'^1' with Ctrl needs a letter"),
        (["code", "nas"], 255, "DIR"),
        ([*ELSEWHERE, "code", "nas", "~"], 255, "hint: --detach needs none"),
        ([*ELSEWHERE, "sessions", "attach", "x"], 255, "hint: cmdop sessions ls"),
    ],
)
def test_a_failure_is_an_exit_code_and_at_most_three_lines(tmp_path, args, code, said):
    done = _run(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 3
    assert said in done.stderr


def test_a_bug_leaves_its_traceback_in_a_private_file(tmp_path):
    bug = "import cmdop_appliance.cli.main as m; m._run = lambda args: {}['secret']; "
    done = _run(before=bug, env={"TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stdout) == (70, "")
    (crash,) = tmp_path.iterdir()
    assert done.stderr.count("\n") == 1
    assert str(crash) in done.stderr
    assert "Traceback" in crash.read_text()
    assert crash.stat().st_mode & 0o777 == 0o600


def test_a_startup_error_is_two_lines_and_code_2():
    error = (
        "import cmdop_appliance.cli.main as m; from cmdop_appliance.errors import StartupError\n"
        "def _run(args): raise StartupError('port 1 is taken', hint='choose another')\n"
        "m._run = _run; "
    )
    done = _run(before=error)
    assert (done.returncode, done.stderr) == (
        2,
        "error: port 1 is taken\nhint: choose another\n",
    )


def test_a_reader_that_leaves_ends_it_quietly(tmp_path):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as broken:
        done = subprocess.run(
            [sys.executable, "-m", "cmdop_appliance", "--help"],
            stdout=broken,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_is_said_once():
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cmdop_appliance", "version"],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"error: cannot write the output: No space left on device\n"


def test_only_the_one_file_has_a_list_of_its_parts(tmp_path):
    done = _run("version", "--sbom", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "hint: scripts/build" in done.stderr


def test_a_name_the_terminal_has_no_letters_for_is_escaped(tmp_path):
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    with scripted_hub(lambda _: answer([{"name": "zürich"}])) as hub:
        done = _run("machines", "ls", "-o", "name", *_at(hub), cwd=tmp_path, env=ascii_only)
    assert (done.returncode, done.stdout) == (0, "z\\xfcrich\n")


def _at(hub):
    return ["--hub", hub.url, "--key", "k"]
