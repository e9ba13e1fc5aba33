"""Versions in folders, with programs that run."""

import fcntl
import os
import shutil
import stat
import subprocess
import sys

import pytest

from cmdop_appliance.errors import UnusableProgram
from cmdop_appliance.service.folders import (
    Home,
    home_of_this_program,
    onefile_of_this_program,
    version_of,
)
from tests.support.nobody import succeeds_as_nobody
from tests.support.onefile import onefile


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "opt/cmdop")


def test_a_version_is_whole_and_for_everybody_whatever_the_umask(home, tmp_path):
    before = os.umask(0o077)
    try:
        version = home.add(onefile(tmp_path, "1.2.0"))
    finally:
        os.umask(before)
    assert version.name.startswith("1.2.0-")
    assert version.number == "1.2.0"
    assert home.versions() == [version]
    assert home.current() is None
    modes = {
        str(path.relative_to(home.path.parent)): stat.S_IMODE(path.lstat().st_mode)
        for path in [home.path, *home.path.rglob("*")]
        if not path.is_symlink()
    }
    folder = f"cmdop/versions/{version.name}"
    assert modes == {
        "cmdop": 0o755,
        "cmdop/versions": 0o755,
        "cmdop/versions/.lock": 0o700,
        folder: 0o755,
        f"{folder}/cmdop": 0o755,
        f"{folder}/cmdop.onefile": 0o755,
        f"{folder}/_internal": 0o755,
        f"{folder}/_internal/data": 0o644,
    }
    assert subprocess.check_output([version.program, "version"]) == b"cmdop 1.2.0\n"
    assert version.onefile.read_bytes() == (tmp_path / "onefile-1.2.0").read_bytes()


def test_the_same_file_is_added_once_and_another_build_beside_it(home, tmp_path):
    file = onefile(tmp_path, "1.0")
    version = home.add(file)
    mark = version.path / "_internal/mark"
    mark.touch()
    assert home.add(file) == version
    assert mark.exists()
    file.write_text(file.read_text() + "# another build\n")
    other = home.add(file)
    assert other.number == version.number
    assert home.versions() == [other, version]


def test_a_version_that_does_not_run_any_more_is_mended_by_adding_it_again(home, tmp_path):
    file = onefile(tmp_path, "1.0")
    version = home.add(file)
    version.program.write_text("#!/bin/sh\nexit 1\n")
    assert home.add(file) == version
    assert subprocess.check_output([version.program, "version"]) == b"cmdop 1.0\n"
    assert names(home.path / "versions") == [version.name]


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("echo >&2 'no symbol'; exit 127", "exit code 127: 'no symbol'"),
        ("echo cmdop ../../evil", "does not say its version"),
        ("echo cmdop", "does not say its version"),
    ],
)
def test_what_does_not_run_here_leaves_nothing(home, tmp_path, does, why):
    with pytest.raises(UnusableProgram, match=why):
        home.add(onefile(tmp_path, "1.0", does))
    assert names(home.path / "versions") == []


def test_a_file_for_another_processor_is_refused(home, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"\x7fELF" + bytes(60))
    with pytest.raises(UnusableProgram, match="does not run on this machine: Exec format error"):
        home.add(file)


def test_a_place_that_cannot_be_is_named_with_its_remedy(tmp_path):
    (tmp_path / "opt").touch()
    with pytest.raises(UnusableProgram, match="Not a directory") as caught:
        Home(tmp_path / "opt").add(onefile(tmp_path, "1.0"))
    assert "writable" in caught.value.hint


def test_what_a_crash_left_is_swept_by_the_next(home, tmp_path):
    left = home.path / "versions/.new-crashed/folder"
    left.mkdir(parents=True)
    version = home.add(onefile(tmp_path, "1.0"))
    assert names(home.path / "versions") == [version.name]


def test_who_may_look_into_it_cannot_hold_up_who_adds(home, tmp_path):
    version = home.add(onefile(tmp_path, "1.0"))
    for place in (home.path, home.path / "versions", version.path):
        fcntl.flock(os.open(place, os.O_RDONLY), fcntl.LOCK_SH)
    home.add(onefile(tmp_path, "1.1"))

    def look() -> None:
        with pytest.raises(PermissionError):
            os.open(home.path / "versions/.lock", os.O_RDONLY)

    assert succeeds_as_nobody(look)


def test_the_program_gets_nothing_that_could_mislead_it(home, tmp_path, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    monkeypatch.setenv("CMDOP_JOIN_KEY", "secret")
    version = home.add(onefile(tmp_path, "1.0", f"env >{tmp_path}/env; echo cmdop 1.0"))
    found = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert found - {"PWD", "_", "SHLVL", "OLDPWD"} == {"PATH", "LC_ALL"}
    assert version.number == "1.0"


def test_the_link_leads_to_the_version_that_was_switched_to(home, tmp_path):
    old, new = (home.add(onefile(tmp_path, number)) for number in ("1.0", "2.0"))
    for version in (old, new, old):
        home.switch(version)
        assert home.current() == version
        answer = subprocess.check_output([home.path / "current/cmdop", "version"])
        assert answer == f"cmdop {version.number}\n".encode()
    assert names(home.path) == ["current", "versions"]
    assert not (home.path / "current").readlink().is_absolute()  # it goes where its home goes


@pytest.mark.parametrize("target", ["versions/gone-0123456789ab", "../elsewhere", "versions"])
def test_a_link_to_no_version_is_none(home, target):
    (home.path / "versions").mkdir(parents=True)
    (home.path / "current").symlink_to(target)
    assert home.current() is None


def test_old_versions_go_but_not_what_is_current_or_runs(home, tmp_path):
    versions = [home.add(onefile(tmp_path, f"{number}.0")) for number in range(1, 7)]
    for number, version in enumerate(versions):
        os.utime(version.path, ns=(number, number))
    home.switch(versions[1])
    shutil.copy(shutil.which("sleep"), versions[2].program)
    with subprocess.Popen([versions[2].program, "60"]) as process:
        gone = home.prune(keep=2)
        process.kill()
    assert gone == [versions[3], versions[0]]
    assert home.versions() == [versions[number] for number in (5, 4, 2, 1)]
    assert home.prune(keep=2) == [versions[2]]
    assert len(names(home.path / "versions")) == 3


def test_only_a_program_in_a_home_is_installed(home, tmp_path):
    version = home.add(onefile(tmp_path, "1.0"))
    assert version_of(version.program) is None  # nothing leads there yet
    home.switch(version)
    assert version_of(home.path / "current/cmdop") == version
    assert version_of(tmp_path / "onefile-1.0") is None
    elsewhere = tmp_path / "cache" / version.name / "cmdop"
    elsewhere.parent.mkdir(parents=True)
    assert version_of(elsewhere) is None


def test_a_checkout_is_not_installed_and_has_no_one_file():
    assert home_of_this_program() is None
    assert onefile_of_this_program() is None


def test_a_program_knows_its_home_and_its_one_file(home, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    version = home.add(onefile(tmp_path, "1.0"))
    home.switch(version)
    monkeypatch.setattr(sys, "executable", str(home.path / "current/cmdop"))
    monkeypatch.setenv("CMDOP_ONEFILE", str(tmp_path / "onefile-1.0"))
    found = home_of_this_program()
    assert found is not None
    assert found.current() == version
    assert onefile_of_this_program() == version.onefile
    monkeypatch.setattr(sys, "executable", str(tmp_path / "cache/cmdop"))  # unpacked by itself
    assert home_of_this_program() is None
    assert onefile_of_this_program() == tmp_path / "onefile-1.0"
    monkeypatch.setenv("CMDOP_ONEFILE", str(tmp_path / "gone"))
    assert onefile_of_this_program() is None


def test_somebody_else_cannot_write_there(home, tmp_path):
    home.add(onefile(tmp_path, "1.0"))
    assert home.is_writable()

    def check():
        assert not home.is_writable()

    assert succeeds_as_nobody(check)
