"""The scripts in a checkout of their own, with locks that pin nothing: nothing is fetched."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # makes virtual environments
ENVIRON = {"PATH": os.environ["PATH"]}


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    (root / "scripts/build-web").write_text("#!/bin/sh\n")  # test_build_web.py
    (root / "packaging").mkdir()
    for name in ("requirements", "requirements-dev"):
        (root / f"packaging/{name}.lock").write_text("# nothing\n")
    package = root / "cmdop_appliance"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import os, sys; print(os.getcwd(), sys.argv[1:])")
    return root


def _start(checkout, *args, cwd="/", env=ENVIRON):
    return subprocess.Popen(
        [checkout / "scripts" / args[0], *args[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=env,
    )


def _finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_the_first_use_prepares_and_the_second_starts_at_once(checkout, tmp_path):
    link = tmp_path / "cmdop"
    link.symlink_to(checkout / "scripts/cmdop")
    (tmp_path / "cmdop_appliance.py").write_text("raise SystemExit('the wrong one')")
    expected = f"{tmp_path} ['exec', 'a b']\n"

    code, out, err = _finish(_start(checkout, "cmdop", "exec", "a b", cwd=tmp_path))
    assert (code, out) == (0, expected)
    assert err.startswith("preparing ")

    again = subprocess.run(
        [link, "exec", "a b"], capture_output=True, text=True, cwd=tmp_path, env={}, check=False
    )
    assert (again.returncode, again.stdout, again.stderr) == (0, expected, "")

    lock = checkout / "packaging/requirements.lock"
    lock.write_text("# changed\n")
    code, out, err = _finish(_start(checkout, "cmdop", cwd=tmp_path))
    assert (code, err.count("preparing ")) == (0, 1)


def test_two_first_uses_at_once_make_one_environment(checkout):
    both = [_start(checkout, "cmdop", str(number)) for number in range(2)]
    ends = [_finish(process) for process in both]
    assert [code for code, _, _ in ends] == [0, 0]
    assert "".join(err for _, _, err in ends).count("preparing ") == 1


def test_an_interrupted_preparation_is_made_again(checkout):
    half = checkout / ".venv"
    half.mkdir()
    (half / "left-over").touch()
    code, _, _ = _finish(_start(checkout, "venv", "requirements"))
    assert code == 0
    assert not (half / "left-over").exists()
    assert (half / "requirements.lock").exists()


def test_the_tools_for_development_are_added_to_what_is_there(checkout):
    _finish(_start(checkout, "venv", "requirements"))
    (checkout / ".venv/still-here").touch()
    code, _, err = _finish(_start(checkout, "venv", "requirements-dev"))
    assert (code, err.count("preparing ")) == (0, 1)
    assert (checkout / ".venv/still-here").exists()


def test_without_a_python_the_remedy_is_named(checkout, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cmp", "dirname", "readlink"):
        (tools / name).symlink_to(shutil.which(name))
    code, out, err = _finish(_start(checkout, "cmdop", env={"PATH": str(tools)}))
    assert (code, out) == (2, "")
    assert err == "error: no Python 3.11 or newer is on the PATH\nhint: install python3\n"


def test_an_old_python_is_passed_over_and_one_without_ensurepip_is_named(checkout, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cmp", "dirname", "readlink"):
        (tools / name).symlink_to(shutil.which(name))
    for name, script in {
        "python3": "exit 1",
        "python3.12": 'case "$2" in *ensurepip*) exit 1 ;; esac',
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    code, _, err = _finish(_start(checkout, "cmdop", env={"PATH": str(tools)}))
    assert code == 2
    assert err == (
        "error: python3.12 cannot make a virtual environment\nhint: apt-get install python3-venv\n"
    )
