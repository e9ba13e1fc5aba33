"""`cmdop selftest` as somebody runs it: on a folder of theirs, by the program itself."""

import re
import subprocess

import psutil
import pytest

from tests.support.appliance import BASE_ENVIRONMENT, PROGRAM


def run(*args: object):
    return subprocess.run(
        [*PROGRAM, "selftest", *map(str, args)],
        env=BASE_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
def test_a_good_disk_passes_and_nothing_is_left(tmp_path):
    done = run("--torture", "2s", "--dir", tmp_path, "--seed", 7)
    assert done.returncode == 0, done
    assert done.stderr == ""
    for part in ("power cuts", "full disk", "kills"):
        assert re.search(rf"^{part} +[1-9]\d* +0 ", done.stdout, re.MULTILINE), done.stdout
    assert list(tmp_path.iterdir()) == []
    assert not [
        each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(each.info)
    ]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    missing = run("--dir", tmp_path / "none")
    assert missing.returncode == 2
    assert "none" in missing.stderr
