"""What a shell is told could follow."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from cmdop_appliance.cli import machine_names
from tests.cli.files_cli import PROGRAM, cmdop
from tests.cli.files_cli import environ as variables_of
from tests.sdk.scripted_hub import answer, scripted_hub

NAMES = ["nas", "web-1", "web-2", "$(reboot)", "a b", "-rf", "x;y"]


def _hub(names=NAMES):
    return scripted_hub(lambda _: answer([{"name": name} for name in names]))


@pytest.fixture
def complete(tmp_path, monkeypatch):
    """What could stand for the last word of a line, by a shell of a user with an empty home."""
    monkeypatch.setattr(machine_names, "_HUB_S", 30.0)  # a slow machine is not what is tested
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def ask(hub, line):
        with monkeypatch.context() as patched:
            patched.setenv("HOME", str(tmp_path))
            patched.setenv("_CMDOP_COMPLETE", "bash_complete")
            patched.setenv("COMP_WORDS", line)
            patched.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
            done = cmdop(hub)
        assert done.stderr == b""
        return [item.removeprefix("plain,") for item in done.stdout.decode().split()]

    return ask


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("cmdop exec ", ["nas", "web-1", "web-2"]),  # and nothing that a shell would run
        ("cmdop exec w", ["web-1", "web-2"]),
        ("cmdop run -t n", ["nas"]),
        ("cmdop commands ls --machine n", ["nas"]),
        ("cmdop mach", ["machines"]),
        ("cmdop machines ren", ["rename"]),
        ("cmdop --key k machines show --hub {} n", ["nas"]),
        ("cmdop cp README.md n", ["nas:"]),  # no file here begins so
        ("cmdop cp READ", ["file,READ"]),
        ("cmdop cp ./n", ["file,./n"]),
        ("cmdop files ls READ", []),
        ("cmdop files ls n", ["nas:"]),
        ("cmdop nothing ", []),
    ],
)
def test_names_that_begin_so_are_offered(complete, line, found):
    with _hub() as hub:
        assert complete(hub, line.format(hub.url)) == found


def test_the_hub_is_asked_once_in_a_minute(complete, tmp_path):
    with _hub() as hub:
        complete(hub, "cmdop exec n")
        complete(hub, "cmdop exec w")
        assert len(hub.asked) == 1
        (cache,) = (tmp_path / ".cache/cmdop").iterdir()
        assert cache.stat().st_mode & 0o777 == 0o600
        old = time.time() - 61
        os.utime(cache, (old, old))
        complete(hub, "cmdop exec w")
        assert len(hub.asked) == 2


def test_a_hub_that_is_away_costs_no_error_and_the_old_names_are_offered(complete, tmp_path):
    with _hub() as hub:
        complete(hub, "cmdop exec n")
    (cache,) = (tmp_path / ".cache/cmdop").iterdir()
    os.utime(cache, (0, 0))
    assert complete(hub, "cmdop exec n") == ["nas"]
    cache.write_text(json.dumps(["$(x)", "nas"]))
    assert complete(hub, "cmdop exec ") == ["nas"]
    cache.unlink()
    assert complete(hub, "cmdop exec n") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(tmp_path, shell):
    program = [*PROGRAM, "completion", shell]
    script = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "_CMDOP_COMPLETE" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, timeout=60, check=True)


def test_without_a_shell_there_is_one_line_that_says_which_there_are():
    done = subprocess.run([*PROGRAM, "completion"], capture_output=True, timeout=60, check=False)
    first = done.stderr.decode().splitlines()[0]
    assert (done.returncode, first.endswith("Choose from: bash, zsh, fish")) == (2, True), first


def test_bash_completes_a_name_as_it_is_typed(complete, tmp_path):
    program = tmp_path / "cmdop"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cmdop_appliance "$@"\n')
    program.chmod(0o755)
    asks = """
    eval "$(cmdop completion bash)"
    compopt() { echo "$@"; }
    COMP_WORDS=(cmdop exec we) COMP_CWORD=2
    _cmdop_completion cmdop
    echo "${COMPREPLY[@]}"
    COMP_WORDS=(cmdop cp we) COMPREPLY=()
    _cmdop_completion cmdop
    """
    with _hub() as hub:
        complete(hub, "cmdop exec ")
        environ = variables_of(hub) | {"HOME": str(tmp_path)}
        environ["PATH"] = f"{tmp_path}:{environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", asks],
            capture_output=True,
            text=True,
            env=environ,
            timeout=60,
            check=True,
        )
    assert done.stdout.splitlines() == ["web-1 web-2", "-o nospace"]
    assert len(hub.asked) == 1
