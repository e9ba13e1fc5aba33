"""What the packed program does to its environment and its folder before all else."""

import fcntl
import os
import sys

import pytest

from cmdop_appliance import packed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """We seem to run from there."""
    place = tmp_path / "folder"
    place.mkdir()
    (place / "cmdop").touch()
    monkeypatch.setattr(sys, "executable", str(place / "cmdop"))
    return place


@pytest.mark.parametrize(
    ("environ", "original"),
    [
        ({"LD_LIBRARY_PATH": "/folder"}, {}),
        ({"LD_LIBRARY_PATH": "/folder", "LD_LIBRARY_PATH_ORIG": "/a"}, {"LD_LIBRARY_PATH": "/a"}),
        ({"LD_LIBRARY_PATH": "/folder", "LD_LIBRARY_PATH_ORIG": ""}, {"LD_LIBRARY_PATH": ""}),
        ({"_PYI_ARCHIVE_FILE": "x", "_PYI_PARENT_PROCESS_LEVEL": "1", "_MEIPASS2": "y"}, {}),
        ({"PYINSTALLER_RESET_ENVIRONMENT": "1"}, {}),
        ({"PYTHONPATH": "/lib", "_": "/usr/bin/x"}, {"PYTHONPATH": "/lib", "_": "/usr/bin/x"}),
    ],
)
def test_nothing_of_the_packer_is_left(environ, original, folder):
    packed.settle(environ)
    assert environ == original


def test_the_folder_is_held_so_that_nobody_cleans_it_up(folder):
    packed.settle({})
    cleaner = os.open(folder, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(cleaner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(cleaner)


def test_a_folder_that_is_being_cleaned_up_is_no_reason_not_to_start(folder):
    cleaner = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(cleaner, fcntl.LOCK_EX)
        packed.settle({})
    finally:
        os.close(cleaner)


def test_a_program_whose_folder_is_gone_is_started_from_the_one_file(folder, tmp_path, monkeypatch):
    onefile = tmp_path / "onefile"
    onefile.touch()
    monkeypatch.setenv("CMDOP_ONEFILE", str(onefile))
    assert packed.own_program() == sys.executable
    (folder / "cmdop").unlink()
    assert packed.own_program() == str(onefile)
    onefile.unlink()
    assert packed.own_program() == sys.executable
