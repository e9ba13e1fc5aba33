"""The one file in other systems' roots: hub, agent, command, terminal and schedule out of it.

Each case is one release of Debian with one kind of places to write to. What happens there is lost
again: the root lies below an overlay in memory. Needs root (mounts, chroot) and debootstrap, and is
done best with what scripts/build-release made: what scripts/build makes runs where the C library is
not older.
"""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from tests.torture.parts import Case, NotTriedError, Part, Stage

_CHECKOUT = Path(__file__).parents[2]
_PROGRAMS = (f"dist/cmdop-linux-{os.uname().machine}", "dist/cmdop")
_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
_ROOTS = _CHECKOUT / "build/roots"  # kept: each takes a minute or two to fetch
_SUITES = ("bullseye", "bookworm", "trixie")
_PLACES = {
    "noexec": "mount -t tmpfs -o noexec none /tmp; mount -t tmpfs -o noexec none /var/tmp",
    "none": "rmdir /tmp",
    "home-noexec": "mount -t tmpfs -o noexec none /root",
    "cleaned": ":",
    "read-only": "mount -t tmpfs none /srv; mount -o remount,bind,ro /",
}
_CASES = [(suite, kind) for suite in _SUITES for kind in _PLACES]
_CASE_S = 600.0
_FETCH_S = 900

_ENTER = """
mount --make-rprivate /
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" none "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs none dev/shm
cp "$3" usr/local/bin/cmdop
exec env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LD_LIBRARY_PATH=/srv/mine \
    TERM=xterm chroot . sh -euc "$4" sh
"""
# Everything is told apart by lines that begin with "== ".
_WITHIN = """
{places}
cd /srv
name=$(uname -n)
cmdop serve --local-agent --listen 127.0.0.1:0 --data-dir data >log 2>&1 &
hub=$!
export CMDOP_DATA_DIR=/srv/data
until cmdop machines ls 2>/dev/null | grep -q online; do
    kill -0 $hub || {{ cat log; exit 1; }}
    sleep 0.2
done
if [ {kind} = cleaned ]; then
    rm -rf /tmp/* /tmp/.[!.]* /var/tmp/* /root/.cache
fi
echo "== exe"
readlink /proc/$hub/exe
echo "== command"
cmdop exec "$name" -- 'uname -n; exit 7' || echo $?
echo "== ldd"
cmdop exec "$name" -- 'ldd /bin/bash'
echo "== ldd here"
ldd /bin/bash
echo "== env"
cmdop exec "$name" -- env
echo "== terminal"
echo 'echo "in a $((6 * 7)) terminal"; exit' | script -qec "cmdop connect $name" /dev/null
echo "== schedule"
cmdop schedules create s --cron '0 3 * * *' --tz Europe/Berlin -m "$name" -- 'echo run' >/dev/null
cmdop schedules run s --follow
echo "== temporary"
ls -A /tmp /var/tmp 2>/dev/null || :
echo "== end"
kill $hub
wait $hub || echo $?
"""


def _try(place: Path, suite: str, kind: str) -> None:
    program = next((path for name in _PROGRAMS if (path := _CHECKOUT / name).is_file()), None)
    if os.geteuid() != 0:
        raise NotTriedError("only root can mount and change its root")
    if program is None:
        raise NotTriedError("nothing is built: scripts/build-release, or scripts/build")
    place.mkdir(parents=True, exist_ok=True)
    root = _root(suite)
    if _needed(program, place) > _has(root):
        raise NotTriedError(f"{program.name} needs a newer C library: scripts/build-release")
    within = _WITHIN.format(places=_PLACES[kind], kind=kind)
    apart = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
    done = subprocess.run(
        [*apart, "sh", "-euc", _ENTER, "sh", place, root, program, within],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_CASE_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    said = dict(re.findall(r"^== (.*)\n((?:(?!== ).*\n)*)", done.stdout, re.MULTILINE))
    assert said["command"] == f"{os.uname().nodename}\n7\n", said["command"]
    assert _libraries(said["ldd"]) == _libraries(said["ldd here"]), said["ldd"]
    ours = {"CMDOP_COMMAND_ID", "CMDOP_OPERATOR"}
    names = {line.partition("=")[0] for line in said["env"].splitlines()}
    foreign = ("_PYI", "_MEI", "PYINSTALLER", "PYTHON", "SSL_", "CMDOP", "LD_LIBRARY_PATH_ORIG")
    assert not [name for name in names - ours if name.startswith(foreign)], said["env"]
    assert "LD_LIBRARY_PATH=/srv/mine\n" in said["env"], said["env"]
    assert "in a 42 terminal" in said["terminal"], said["terminal"]
    assert "run\n" in said["schedule"], said["schedule"]
    assert "cmdop" not in said["temporary"], said["temporary"]
    assert "_MEI" not in said["temporary"], said["temporary"]
    assert said["end"] == "", said["end"]


def _libraries(said: str) -> set[str]:
    """What `ldd` says, without where it was loaded to, which is random."""
    return {line.partition(" (0x")[0].strip() for line in said.splitlines()}


def _needed(program: Path, place: Path) -> tuple[int, ...]:
    """The newest glibc that anything in it names."""
    folder = place / "program"
    environ = {**os.environ, "CMDOP_UNPACK_TO": str(folder)}
    subprocess.run([program], env=environ, check=True)
    return max(map(_newest, folder.rglob("*")))


def _newest(file: Path) -> tuple[int, ...]:
    if not file.is_file() or file.is_symlink() or file.read_bytes()[:4] != b"\x7fELF":
        return (0,)
    said = subprocess.run(["objdump", "-T", file], capture_output=True, text=True, check=True)
    named = re.findall(r"GLIBC_([0-9.]+)", said.stdout)
    return max((tuple(map(int, version.split("."))) for version in named), default=(0,))


def _has(root: Path) -> tuple[int, ...]:
    said = subprocess.run(
        ["chroot", root, "ldd", "--version"], capture_output=True, text=True, check=True
    )
    return tuple(map(int, said.stdout.splitlines()[0].split()[-1].split(".")))


_FETCHING = threading.Lock()


def _root(suite: str) -> Path:
    """A minimal system of that release."""
    with _FETCHING:
        root = _ROOTS / suite
        if root.exists():
            return root
        if not shutil.which("debootstrap"):
            raise NotTriedError("debootstrap is missing: apt-get install debootstrap")
        mirrors = re.findall("^URIs: *(.*)$", _SOURCES.read_text(), re.MULTILINE)
        fresh = _ROOTS / f".{suite}"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["debootstrap", "--variant=minbase", suite, fresh, mirrors[0]],
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=_FETCH_S,
        )
        return fresh.rename(root)


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    def case(number: int, _dice: Random) -> None:
        suite, kind = _CASES[number]
        _try(stage.place / str(number), suite, kind)
        stage.say(f"roots: {suite}, {kind}: all of it runs")

    yield case


ROOTS = Part("roots", len(_CASES), _CASE_S, _stage, jobs_most=2)
