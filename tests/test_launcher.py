"""The start of the one file: it unpacks, once, where it may, and becomes what it has unpacked."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[1] / "packaging"
CANNOT_RUN = 126
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and be another")
pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")

# Stands for the program: says how it was started.
PROGRAM = """#!/bin/sh
[ "$1" = version ] && cat "$(dirname "$0")/_internal/number" && exit
echo "$0 $* $CMDOP_ONEFILE $(umask)"
exit 7
"""


def built(place, number):
    """A one file, and what it is to unpack."""
    folder = place / "folder"
    (folder / "_internal" / ("deep" * 10) / ("er" * 40)).mkdir(parents=True)
    (folder / "_internal" / "number").write_text(number)
    (folder / "_internal" / "big").write_bytes(os.urandom(300_001))
    (folder / "_internal" / ("deep" * 10) / ("er" * 40) / "file").touch()
    (folder / "_internal" / "link").symlink_to("number")
    (folder / "cmdop").write_text(PROGRAM)
    (folder / "cmdop").chmod(0o755)
    launcher, onefile = place / "launcher", place / "cmdop"
    compile_ = ["cc", "-static", "-Wall", "-Wextra", "-Werror", "-o", launcher]
    subprocess.run([*compile_, PACKAGING / "launcher.c", "-lz"], check=True)
    pack = [sys.executable, PACKAGING / "payload.py", launcher, folder, onefile]
    subprocess.run(pack, check=True)
    return onefile, onefile.read_bytes()[-64:].split()[1].decode()


@pytest.fixture(scope="module")
def onefile(tmp_path_factory):
    return built(tmp_path_factory.mktemp("onefile"), "1")


def start(onefile, *args, **environ):
    return subprocess.run(
        [onefile[0], *args], capture_output=True, text=True, env=environ, timeout=60, check=False
    )


def folders(place):
    return sorted(path.name for path in place.iterdir() if path.name != "lock")


def test_the_first_start_unpacks_and_the_second_finds_it(onefile, tmp_path):
    cache = tmp_path / ".cache/cmdop"
    first = start(onefile, "version", HOME=str(tmp_path))
    assert (first.returncode, first.stdout, first.stderr) == (0, "1", "")
    assert folders(cache) == [onefile[1]]
    before = (cache / onefile[1] / "cmdop").stat()
    assert start(onefile, "version", HOME=str(tmp_path)).stdout == "1"
    assert (cache / onefile[1] / "cmdop").stat() == before
    assert cache.stat().st_mode & 0o777 == 0o700


def test_arguments_umask_and_exit_code_pass_through_and_it_knows_its_one_file(onefile, tmp_path):
    done = start(onefile, "a", "b c", HOME=str(tmp_path))
    program = tmp_path / ".cache/cmdop" / onefile[1] / "cmdop"
    umask = subprocess.run(["sh", "-c", "umask"], capture_output=True, text=True, check=True).stdout
    assert done.stdout == f"{program} a b c {onefile[0]} {umask}"
    assert done.returncode == 7


def test_what_is_unpacked_for_an_installation_is_exact_and_for_everybody(onefile, tmp_path):
    done = start(onefile, CMDOP_UNPACK_TO=str(tmp_path / "new"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    original = onefile[0].parent / "folder"
    subprocess.run(["diff", "-r", "--no-dereference", original, tmp_path / "new"], check=True)
    assert (tmp_path / "new/_internal/link").readlink() == Path("number")
    for path in [tmp_path / "new", *(tmp_path / "new").rglob("*")]:
        is_program = path.is_dir() or path.name == "cmdop"
        if not path.is_symlink():
            assert path.stat().st_mode & 0o777 == (0o755 if is_program else 0o644)


def test_it_does_not_unpack_over_what_is_there(onefile, tmp_path):
    (tmp_path / "cmdop").write_text("mine")
    done = start(onefile, CMDOP_UNPACK_TO=str(tmp_path))
    assert (done.returncode, str(tmp_path) in done.stderr) == (CANNOT_RUN, True)
    assert (tmp_path / "cmdop").read_text() == "mine"


@pytest.mark.parametrize("hurt", [Path.unlink, lambda path: os.truncate(path, 1), None])
def test_a_folder_that_is_not_whole_is_made_anew(onefile, tmp_path, hurt):
    start(onefile, "version", HOME=str(tmp_path))
    folder = tmp_path / ".cache/cmdop" / onefile[1]
    if hurt:
        hurt(folder / "_internal/big")
    else:
        shutil.rmtree(folder / "_internal")
    assert start(onefile, "version", HOME=str(tmp_path)).stdout == "1"
    assert (folder / "_internal/big").stat().st_size == 300_001
    assert folders(folder.parent) == [onefile[1]]


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("call", ["mkdirat:when=1", "mkdirat:when=3", "write:when=4"])
@pytest.mark.parametrize("after", ["syncfs", "renameat", "fsync"])
def test_whoever_is_killed_while_it_unpacks_leaves_nothing_that_the_next_start_minds(
    onefile, tmp_path, call, after
):
    environ = {"HOME": str(tmp_path)}
    for kill in (call, after):
        inject = f"--inject={kill}:signal=KILL"
        traced = ["strace", "-o", os.devnull, inject, onefile[0], "version"]
        killed = subprocess.run(traced, env=environ, check=False)
        assert killed.returncode == -signal.SIGKILL
    assert start(onefile, "version", **environ).stdout == "1"
    assert folders(tmp_path / ".cache/cmdop") == [onefile[1]]


def test_many_first_starts_at_once_make_one_folder(onefile, tmp_path):
    started = [
        subprocess.Popen([onefile[0], "version"], env={"HOME": str(tmp_path)}, stdout=-1)
        for _ in range(20)
    ]
    assert [process.communicate()[0] for process in started] == [b"1"] * 20
    assert folders(tmp_path / ".cache/cmdop") == [onefile[1]]


def test_what_others_can_change_is_not_used(onefile, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (tmp_path / "link").mkdir()
    (tmp_path / "link/cmdop").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir(0o700)
    (tmp_path / "home").mkdir()
    for bad in (shared, shared / "below", tmp_path / "link"):
        done = start(onefile, "version", XDG_CACHE_HOME=str(bad), HOME=str(tmp_path / "home"))
        assert done.stdout == "1"
    assert not list((tmp_path / "elsewhere").iterdir())
    assert not list(shared.rglob(onefile[1]))
    assert folders(tmp_path / "home/.cache/cmdop") == [onefile[1]]


@needs_root
def test_nothing_is_made_where_another_user_could_lead_us_astray(onefile, tmp_path):
    theirs, elsewhere = tmp_path / "theirs", tmp_path / "elsewhere"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    elsewhere.symlink_to(theirs)
    for cache in (theirs, elsewhere):
        done = start(onefile, "version", XDG_CACHE_HOME=str(cache), HOME=str(tmp_path))
        assert done.stdout == "1"
    assert not list(theirs.iterdir())


@needs_root
def test_the_folder_of_another_user_in_the_way_is_passed_by(onefile, tmp_path):
    theirs = tmp_path / "tmp" / f"cmdop-{os.geteuid()}"
    theirs.mkdir(parents=True)
    theirs.parent.chmod(0o1777)
    start(onefile, CMDOP_UNPACK_TO=str(theirs / onefile[1]))
    (theirs / onefile[1] / "cmdop").write_text("#!/bin/sh\necho theirs\n")
    os.chown(theirs, 12345, 12345)
    done = start(onefile, "version", CMDOP_UNPACK_DIR=str(theirs))
    assert (done.returncode, done.stdout) == (CANNOT_RUN, "")
    assert f"{theirs}: others can change what is there" in done.stderr


@needs_root
def test_nothing_is_made_in_a_home_that_is_another_users(onefile, tmp_path):
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", 12345, 12345)
    done = start(onefile, "version", CMDOP_UNPACK_DIR=str(tmp_path / "home/.cache"))
    assert (done.returncode, done.stdout) == (CANNOT_RUN, "")
    assert not list((tmp_path / "home").iterdir())


@needs_root
@pytest.mark.parametrize("option", ["noexec", "size=200k", "ro"])
def test_a_place_that_will_not_do_is_passed_by(onefile, tmp_path, option):
    (tmp_path / "bad").mkdir()
    mounted = 'mount -t tmpfs -o "$1" none "$2"; shift 2; "$@"; ls "$XDG_CACHE_HOME/cmdop"'
    argv = ["unshare", "--mount", "sh", "-c", mounted, "sh", option, tmp_path / "bad"]
    environ = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "bad")}
    done = subprocess.run(
        [*argv, onefile[0], "version"],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        check=False,
    )
    assert done.stdout in ("1", "1lock\n")
    assert folders(tmp_path / ".cache/cmdop") == [onefile[1]]


def test_without_any_place_it_says_why_and_what_to_do(onefile, tmp_path):
    (tmp_path / "file").touch()
    done = start(onefile, "version", CMDOP_UNPACK_DIR=str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (CANNOT_RUN, "")
    assert f"  {tmp_path}/file: not to be used: Not a directory\n" in done.stderr
    assert "hint: CMDOP_UNPACK_DIR=" in done.stderr


@pytest.mark.parametrize("hurt", ["cut", "flipped", "size", "listing"])
def test_a_file_that_did_not_come_as_it_was_says_so(onefile, tmp_path, hurt):
    whole = bytearray(onefile[0].read_bytes())
    if hurt == "cut":
        del whole[-200_000:]
    elif hurt != "flipped":
        at = -40 if hurt == "size" else -20
        whole[at : at + 10] = b"1234567890"
    else:
        whole[-200_000] ^= 1
    half = tmp_path / "half"
    half.write_bytes(whole)
    half.chmod(0o755)
    done = start((half,), "version", HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (CANNOT_RUN, "")
    assert "is not whole" in done.stderr


def test_versions_that_nobody_uses_any_more_are_removed_and_what_was_left_by_a_crash(
    onefile, tmp_path
):
    cache = tmp_path / ".cache/cmdop"
    names = ["1" * 16, "2" * 16, "3" * 16, "." + "4" * 16, "somebody's"]
    for name in names:
        (cache / name / "_internal").mkdir(parents=True)
        if name != "3" * 16:
            os.utime(cache / name, (0, 0))
    cache.chmod(0o700)
    in_use = os.open(cache / ("2" * 16), os.O_RDONLY)
    try:
        fcntl.flock(in_use, fcntl.LOCK_SH)
        assert start(onefile, "version", HOME=str(tmp_path)).stdout == "1"
    finally:
        os.close(in_use)
    assert folders(cache) == sorted([onefile[1], "2" * 16, "3" * 16, "somebody's"])
