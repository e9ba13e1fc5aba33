"""`cmdop cp` against a hub with machines, all of it real; hostile machines are scripted."""

import fcntl
import hashlib
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import unicodedata

import pytest

from tests.cli.files_cli import PROGRAM, cmdop, environ
from tests.sdk.scripted_hub import Answer, answer, scripted_hub
from tests.support.appliance import running_agent, stopped_agent, wait_for
from tests.support.fault_proxy import Faults, running_proxy

LARGE = os.urandom(4_000_000)


@pytest.fixture
def there(agent, tmp_path):
    """A directory on the machine."""
    directory = tmp_path / "there"
    directory.mkdir()
    return directory


@pytest.fixture
def here(tmp_path):
    """Our working directory."""
    directory = tmp_path / "here"
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
def fleet(hub, agent, place):
    """Beside `target`: `web-1` and `web-2` with the tag web, and `web-3`, which is away."""
    token = hub.new_token(max_uses=3, tags=["web"])
    with (
        running_agent(hub, place, "web-1", token=token) as first,
        running_agent(hub, place, "web-2", token=token) as second,
        stopped_agent(place, "web-3") as away,
    ):
        away.join(hub, token)
        away.stop()
        yield first, second


def _names(directory):
    return sorted(path.name for path in directory.iterdir())


def _tree(root):
    """Every path below `root`, with the bytes of files and the modes of all."""
    return {
        str(path.relative_to(root)): (
            path.read_bytes() if path.is_file() else None,
            path.stat().st_mode & 0o777,
        )
        for path in root.rglob("*")
    }


# ── one file ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [0, 7, len(LARGE)])
def test_a_file_goes_to_a_machine_and_comes_back(hub, here, there, size):
    (here / "f").write_bytes(LARGE[:size])
    done = cmdop(hub, "cp", "f", f"target:{there}/up", cwd=here)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (there / "up").read_bytes() == LARGE[:size]
    assert cmdop(hub, "cp", f"target:{there}/up", "down", cwd=here).returncode == 0
    assert (here / "down").read_bytes() == LARGE[:size]
    assert sorted(path.name for path in here.iterdir()) == ["down", "f"]


def test_a_new_file_gets_the_mode_of_its_source_less_the_umask_and_another_keeps_its_own(
    hub, here, there
):
    (here / "f").write_bytes(b"#!/bin/sh\n")
    (here / "f").chmod(0o766)
    to, back = f"target:{there}/up", "down"
    for mode in (0o744, 0o600):
        assert cmdop(hub, "cp", "f", to, cwd=here).returncode == 0
        assert cmdop(hub, "cp", to, back, cwd=here).returncode == 0
        assert (there / "up").stat().st_mode & 0o777 == mode
        assert (here / back).stat().st_mode & 0o777 == mode
        (there / "up").chmod(0o600)
        (here / back).chmod(0o600)


@pytest.mark.parametrize("way", ["directory", "slash", "several", "link", "home"])
def test_a_directory_is_copied_into(hub, here, there, way):
    (here / "f").write_bytes(b"f")
    (here / "g").write_bytes(b"g")
    (there / "d").mkdir()
    (there / "link").symlink_to("d")
    to = f"target:{there}/" + {"slash": "d/", "link": "link"}.get(way, "d")
    if way == "home":
        (there / "d").rmdir()
        (there / "d").symlink_to(there)
    sources = ["f", "g"] if way == "several" else ["f"]
    assert cmdop(hub, "cp", *sources, to, cwd=here).returncode == 0
    assert [(there / "d" / name).read_bytes() for name in sources] == [s.encode() for s in sources]
    back = here / "back"
    back.mkdir()
    froms = [f"{to.rstrip('/')}/{name}" for name in sources]
    assert cmdop(hub, "cp", *froms, "back", cwd=here).returncode == 0
    assert sorted(path.name for path in back.iterdir()) == sources


def test_names_of_any_bytes_arrive_as_they_are(hub, here, there):
    name = os.fsdecode(b"n\xff\n\x1b[31m: ?&=")
    (here / name).write_bytes(b"x")
    assert cmdop(hub, "cp", f"./{name}", f"target:{there}/", cwd=here).returncode == 0
    assert _names(there) == [name]
    assert cmdop(hub, "cp", f"target:{there}/{name}", "back", cwd=here).returncode == 0
    assert (here / "back").read_bytes() == b"x"


def test_standard_input_and_output_are_a_dash(hub, here, there):
    at = f"target:{there}/f"
    assert cmdop(hub, "cp", "-", at, stdin=LARGE).returncode == 0
    assert (there / "f").read_bytes() == LARGE
    assert cmdop(hub, "cp", at, "-").stdout == LARGE
    assert cmdop(hub, "cp", "-", f"target:{there}", stdin=b"x").returncode == 2


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["f", "g"], 2, b"no machine is named"),
        (["target:/x", "target:/y"], 2, b"cmdop files cp"),
        (["f", "target:/x", "."], 2, b"on a machine, too"),
        (["target:/x", "other:/y", "."], 2, b"one machine at a time"),
        (["*:/x", "."], 2, b"one machine at a time"),
        (["-", "*:/x"], 2, b"one machine only"),
        (["f", "tag::/x"], 2, b"no tag is given"),
        (["f", "tag:none:/x"], 3, b'no machine fits "tag:none"'),
        (["-", "f", "target:/x"], 2, b"one source"),
        (["f"], 2, b"SOURCE"),
        (["f", "nowhere:/x"], 3, b'machine "nowhere" not found'),
        (["none", "target:{}/x"], 1, b"none is not copied: no such file"),
        (["target:{}/none", "x"], 3, b"none"),
        (["target:{}", "x"], 1, b"-r copies directories"),
        ([".", "target:{}"], 1, b"-r copies directories"),
        (["f", "target:{}/none/x"], 3, b"/none/x, does not exist; make it first"),
        (["f", "target:{}/none/x"], 3, b"hint: cmdop files mkdir -p target:{}/none\n"),
        (["-", "target:{}/no ne/x"], 3, b"hint: cmdop files mkdir -p 'target:{}/no ne'\n"),
        (["-r", ".", "target:{}/none/x"], 3, b"hint: cmdop files mkdir -p target:{}/none\n"),
        (["f", "f", "target:{}/x"], 1, b"/x does not exist"),
        (["f", "target:{}/x/"], 1, b"error: the directory target:{}/x/ does not exist"),
        (["f", "target:{}/there/"], 1, b"there/ is not a directory"),
        (["target:{}/there", "x/"], 1, b"error: the directory x/ does not exist"),
        (["target:{}/there", "f/"], 1, b"f/ is not a directory"),
        (["target:{}/there", "x/y"], 1, b"is not copied: x/y: no such file or directory"),
        (["target:{}/there", "/dev/null"], 1, b"not a regular file"),
        (["/dev/null", "target:{}/x"], 1, b"not a regular file"),
    ],
)
def test_what_cannot_be_copied_says_why_and_changes_nothing(hub, here, there, args, code, said):
    (here / "f").write_bytes(b"f")
    (there / "there").write_bytes(b"t")
    done = cmdop(hub, "cp", *(arg.format(there) for arg in args), cwd=here, stdin=b"x")
    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr.startswith(b"error: ")
    assert len(done.stderr.splitlines()) <= 3
    assert said.replace(b"{}", os.fsencode(there)) in done.stderr
    assert (_names(here), _names(there)) == (["f"], ["there"])


def test_a_record_for_each_file_tells_what_came_of_it(hub, here, there):
    (here / "f").write_bytes(b"f")
    done = cmdop(hub, "cp", "-o", "json", "f", "none", f"target:{there}", cwd=here)
    assert done.returncode == 1
    ok, failed = json.loads(done.stdout)
    assert ok["sha256"] == hashlib.sha256(b"f").hexdigest()
    assert (ok["source"], ok["destination"], ok["size"]) == ("f", f"target:{there}/f", 1)
    assert (ok["machine"], ok["error"]) == ("target", None)
    assert failed["error"].startswith("none is not copied")


def test_a_key_that_may_only_write_is_enough_to_send(hub, here, there):
    (here / "f").write_bytes(b"f")
    (here / "f").chmod(0o600)
    (there / "d").mkdir()
    key = ["--key", hub.new_key("machines:read", "files:write").key]
    assert cmdop(hub, "cp", *key, "f", f"target:{there}/g", cwd=here).returncode == 0
    assert cmdop(hub, "cp", *key, "f", f"target:{there}/d/", cwd=here).returncode == 0
    assert [(there / name).stat().st_mode & 0o777 for name in ("g", "d/f")] == [0o600] * 2
    refused = cmdop(hub, "cp", *key, f"target:{there}/g", ".", cwd=here)
    assert (refused.returncode, b"files:read" in refused.stderr) == (4, True)


def test_a_machine_that_is_away_has_an_exit_code_of_its_own(hub, here, fleet):
    (here / "f").write_bytes(b"f")
    done = cmdop(hub, "cp", "f", "web-3:/tmp/never", cwd=here)
    assert done.returncode == 6
    assert b"not connected" in done.stderr


@pytest.mark.parametrize(
    "args",
    [["f", "web-3:/tmp/never"], ["f", "g", "web-3:/tmp"], ["web-3:/tmp/f", "here"]],
)
def test_a_machine_that_is_away_is_told_once_and_has_its_records(hub, here, fleet, args):
    (here / "f").write_bytes(b"f")
    done = cmdop(hub, "cp", "-o", "jsonl", *args, cwd=here)
    assert done.returncode == 6
    assert done.stderr.count(b"not connected") == 1
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["source"] for record in records] == args[:-1]
    assert all("not connected" in record["error"] for record in records)


def test_what_was_copied_before_the_machine_went_away_is_recorded_as_copied(here):
    asked = []

    def script(request):
        match request.path.rpartition("/")[2]:
            case "machines":
                return answer([{"id": "mach_1", "name": "m", "hostname": "m"}])
            case "stat":
                return answer({"path": "/d", "type": "directory", "size": 0, "mode": "0755"})
        asked.append(request)
        if len(asked) == 2:
            error = {"code": "session_not_active", "message": "-", "details": {}}
            return answer(error, status=409)
        sha256 = hashlib.sha256(request.body).hexdigest()
        return answer({"path": "/d/f", "size": 1, "sha256": sha256, "complete": True})

    for name in "fgh":
        (here / name).write_bytes(name.encode())
    with scripted_hub(script) as hub:
        done = cmdop(hub, "cp", "-o", "json", "f", "g", "h", "m:/d", cwd=here)
    assert done.returncode == 6
    told = [(record["source"], bool(record["error"])) for record in json.loads(done.stdout)]
    assert told == [("f", False), ("g", True), ("h", True)]


def test_a_place_here_that_is_not_ours_is_named_and_nothing_is_left_of_the_try(hub, here, there):
    (there / "f").write_bytes(b"f")
    done = cmdop(hub, "cp", f"target:{there}/f", "/proc/f")
    assert (done.returncode, b"is not copied: /proc/f: " in done.stderr) == (1, True)
    os.mkfifo(there / "fifo")
    assert cmdop(hub, "cp", f"target:{there}/fifo", ".", cwd=here).returncode == 1
    assert _names(here) == []


def test_a_standard_input_that_is_closed_is_no_empty_file(hub, there):
    program = [*PROGRAM, "cp", "-", f"target:{there}/f"]
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *program]
    done = subprocess.run(closed, env=environ(hub), capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (2, b"error: standard input is closed\n")
    assert _names(there) == []


# ── trees ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tree(here):
    """A directory here with what trees have, links and special files aside."""
    root = here / "tree"
    (root / "sub/deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "private").mkdir(0o700)
    (root / "one").write_bytes(b"1")
    (root / ".hidden").write_bytes(b"h")
    (root / "sub/deep/large").write_bytes(LARGE)
    (root / "private/key").write_bytes(b"k")
    (root / "private/key").chmod(0o600)
    (root / os.fsdecode(b"\xff\n")).write_bytes(b"?")
    return root


def test_a_tree_goes_to_a_machine_and_comes_back_as_it_was(hub, here, there, tree):
    assert cmdop(hub, "cp", "-r", "tree", f"target:{there}/up", cwd=here).returncode == 0
    assert _tree(there / "up") == _tree(tree)
    assert cmdop(hub, "cp", "-r", f"target:{there}/up", "down", cwd=here).returncode == 0
    assert _tree(here / "down") == _tree(tree)


def test_a_tree_goes_into_what_is_there_and_its_content_beside_it(hub, here, there, tree):
    (there / "tree/sub").mkdir(parents=True)
    (there / "tree/one").write_bytes(b"before")
    (there / "tree/one").chmod(0o600)
    assert cmdop(hub, "cp", "-r", "tree", f"target:{there}", cwd=here).returncode == 0
    assert (there / "tree/one").read_bytes() == b"1"
    assert (there / "tree/one").stat().st_mode & 0o777 == 0o600
    assert (there / "tree/sub/deep/large").read_bytes() == LARGE
    assert cmdop(hub, "cp", "-r", "tree/.", f"target:{there}/tree", cwd=here).returncode == 0
    assert not (there / "tree/tree").exists()
    (here / "down").mkdir()
    for source in (f"target:{there}/tree", f"target:{there}/tree/."):
        assert cmdop(hub, "cp", "-r", source, "down", cwd=here).returncode == 0
    below = [name for name in _names(here / "down") if name != "tree"]
    assert below == _names(here / "down/tree") == _names(there / "tree")


def test_of_a_tree_here_links_to_files_are_followed_and_the_rest_is_told(hub, here, there):
    tree = here / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "f").write_bytes(b"f")
    (tree / "link").symlink_to("f")
    (tree / "loop").symlink_to(".")
    (tree / "sub/broken").symlink_to("nowhere")
    os.mkfifo(tree / "sub/fifo")
    done = cmdop(hub, "cp", "-r", "tree", f"target:{there}/up", cwd=here)
    assert done.returncode == 1
    assert sorted(done.stderr.decode().splitlines()) == [
        "error: tree/loop is not copied: it is a link to a directory",
        "error: tree/sub/broken is not copied: no such file or directory",
        "error: tree/sub/fifo is not copied: it is not a regular file",
    ]
    assert {name: found[0] for name, found in _tree(there / "up").items()} == {
        "f": b"f",
        "link": b"f",
        "sub": None,
    }


def test_of_a_tree_there_links_and_special_files_are_told_and_passed_over(hub, here, there):
    (there / "f").write_bytes(b"f")
    (there / "link").symlink_to("/etc/passwd")
    os.mkfifo(there / "fifo")
    done = cmdop(hub, "cp", "-r", f"target:{there}", "down", cwd=here)
    assert done.returncode == 1
    assert done.stderr.count(b"is not copied") == 2
    assert _names(here / "down") == ["f"]


def test_a_tree_that_comes_never_leads_out_of_its_destination(hub, here, there, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"outside")
    (there / "sub").mkdir()
    (there / "sub/f").write_bytes(b"f")
    (there / "f").write_bytes(b"f")
    (here / "down").mkdir()
    (here / "down/sub").symlink_to(outside)
    (here / "down/f").symlink_to(outside / "f")
    done = cmdop(hub, "cp", "-r", f"target:{there}/.", "down", cwd=here)
    assert done.returncode == 1
    assert b"sub is not copied" in done.stderr
    assert _tree(outside) == {"f": (b"outside", 0o644)}
    assert (here / "down/f").read_bytes() == b"f"


HOSTILE = ["..", ".", "", "../escape", "a/b", "/etc/x", "nul\0", "x" * 300, "\ud800"]
PLAIN = ["\x1b[31m", "-rf", "good"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_name_that_is_none_is_refused_and_the_others_arrive(here, kind):
    """A machine says of its directory what it likes."""
    content = b"content"

    def entry(name):
        return {"name": name, "path": f"/d/{name}", "type": kind, "size": 7, "mode": "0755"}

    def script(asked):
        match asked.path.rpartition("/")[2]:
            case "machines":
                return answer([{"id": "mach_1", "name": "m", "hostname": "m"}])
            case "stat" if "checksum" not in asked.query:
                return answer({**entry("d"), "type": "directory"})
            case "stat":
                sha256 = hashlib.sha256(content).hexdigest()
                return answer({**entry("f"), "type": "file", "sha256": sha256})
            case "download":
                head = f'HTTP/1.1 200 X\r\nETag: "v"\r\nContent-Length: {len(content)}\r\n\r\n'
                return Answer(head.encode() + content)
        is_top = asked.query.startswith("path=%2Fd&")
        return answer({"files": [entry(name) for name in HOSTILE + PLAIN] if is_top else []})

    with scripted_hub(script) as hub:
        done = cmdop(hub, "cp", "-r", "m:/d", "down", cwd=here)
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert len(lines) == len(HOSTILE)
    assert all(" is not copied: " in line for line in lines)
    assert "\x1b" not in done.stderr.decode()
    assert _names(here) == ["down"]
    assert _names(here / "down") == sorted(PLAIN)
    if kind == "file":
        assert (here / "down/good").read_bytes() == content


# ── many machines ────────────────────────────────────────────────────────────────────────────────


def test_a_file_goes_to_all_machines_of_a_tag_and_each_is_told(hub, here, there, fleet):
    for agent in fleet:  # another test has killed their hub, perhaps
        agent.wait_connected(hub)
    (here / "f").write_bytes(LARGE)
    sha256 = hashlib.sha256(LARGE).hexdigest()
    done = cmdop(hub, "cp", "f", f"tag:web:{there}/f", cwd=here)
    assert (done.returncode, done.stderr) == (1, b"")
    rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert rows[:2] == [[name, "ok", "1", sha256[:12], "-"] for name in ("web-1", "web-2")]
    assert rows[2][:2] == ["web-3", "failed"]
    assert "not connected" in rows[2][4]
    assert (there / "f").read_bytes() == LARGE
    done = cmdop(hub, "cp", "-o", "json", "f", f"web-[12]:{there}/f", cwd=here)
    assert done.returncode == 0
    assert [(r["machine"], r["sha256"]) for r in json.loads(done.stdout)] == [
        ("web-1", sha256),
        ("web-2", sha256),
    ]
    done = cmdop(hub, "cp", "f", f"*:{there}/none/f", cwd=here)
    assert done.returncode == 1
    assert done.stdout.count(b"failed") == 4


# ── breaks ───────────────────────────────────────────────────────────────────────────────────────

# At most 64 KiB at a time, so that LARGE takes some seconds: time to see it, and to interrupt it.
SLOW = Faults(delay_s=(0.025, 0.025))


@pytest.fixture(scope="module")
def proxy(hub):
    with running_proxy(hub.address, "cp") as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _no_faults(request):
    yield
    if "proxy" in request.fixturenames:
        request.getfixturevalue("proxy").faults = Faults()


def _begin(hub, proxy, here, *args, stderr=subprocess.PIPE):
    return subprocess.Popen(
        [*PROGRAM, "cp", *args],
        cwd=here,
        env={**environ(hub), "CMDOP_URL": proxy.url},
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def _arriving(directory):
    """Wait until a file has begun to arrive in a directory where there is no other."""

    def size():
        return sum(path.stat().st_size for path in directory.iterdir())

    wait_for(lambda: size() > 1_000_000, f"something arrives in {directory}")


@pytest.mark.slow
def test_a_file_arrives_whole_both_ways_though_every_connection_is_cut(
    hub, agent, proxy, here, there
):
    (here / "f").write_bytes(LARGE)
    proxy.faults = Faults(cut_after_bytes=(500_000, 2_000_000))
    for args in (("f", f"target:{there}/up"), (f"target:{there}/up", "down")):
        cuts = proxy.cuts
        process = _begin(hub, proxy, here, *args)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, b"", b""), proxy
        assert proxy.cuts > cuts
    assert (there / "up").read_bytes() == (here / "down").read_bytes() == LARGE
    assert (_names(there), _names(here)) == (["up"], ["down", "f"])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["up", "down"])
def test_ctrl_c_leaves_what_the_same_command_goes_on_with(hub, proxy, here, there, way):
    source, arrives, args = {
        "up": (here, there, ("f", f"target:{there}/f")),
        "down": (there, here, (f"target:{there}/f", "f")),
    }[way]
    (source / "f").write_bytes(LARGE)
    proxy.faults = SLOW
    process = _begin(hub, proxy, here, *args)
    _arriving(arrives)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b"interrupted; the same command again goes on from here\n"
    assert "f" not in _names(arrives)
    kept = {path.name: path.stat().st_ino for path in arrives.iterdir()}
    assert cmdop(hub, "cp", *args, cwd=here).returncode == 0
    assert (arrives / "f").read_bytes() == LARGE
    assert _names(arrives) == ["f"]
    if way == "down":
        assert (arrives / "f").stat().st_ino == kept[".f.cmdop-part"]


@pytest.mark.slow
def test_a_hub_that_is_killed_and_started_again_is_not_noticed(hub, agent, proxy, here, there):
    (here / "f").write_bytes(LARGE)
    proxy.faults = SLOW
    process = _begin(hub, proxy, here, "f", f"target:{there}/f")
    _arriving(there)
    hub.kill()
    hub.start()
    proxy.faults = Faults()
    out, err = process.communicate(timeout=60)
    agent.wait_connected(hub)
    assert (process.returncode, out, err) == (0, b"", b"")
    assert (there / "f").read_bytes() == LARGE
    assert _names(there) == ["f"]


def _terminal(columns):
    """(our end, the end of a program) of a terminal so wide."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return os.fdopen(ours, "rb", buffering=0), its


def _shown(terminal):
    """All that was written to a terminal until nobody had its other end."""
    shown = b""
    with terminal:
        while True:
            try:
                shown += terminal.read(4096)
            except OSError:  # EIO: the other end is closed
                return shown.decode()


@pytest.mark.slow
def test_a_terminal_is_told_how_far_it_is_after_a_second_unless_it_shall_not_be(
    hub, agent, place, proxy, here
):
    name, columns = "\N{CJK UNIFIED IDEOGRAPH-5B57}" * 60, 70  # of two columns each
    (place / name).write_bytes(LARGE)  # in the agent's home
    proxy.faults = SLOW
    runs = []
    for options in ([], ["-q"]):
        terminal, its = _terminal(columns)
        args = [*options, f"target:{name}", f"down{options}"]
        runs.append((_begin(hub, proxy, here, *args, stderr=its), terminal))
        os.close(its)
    told, quiet = [_shown(terminal) for _, terminal in runs]
    for process, _ in runs:
        assert process.communicate(timeout=60)[0] == b""
        assert process.returncode == 0
    assert quiet == ""
    *lines, last = told.split("\r\x1b[K")
    assert (lines.pop(0), last) == ("", "")
    assert lines
    for line in lines:
        assert line.startswith("target:" + name[:3])
        assert " %  " in line
        wide = sum(unicodedata.east_asian_width(char) in "WF" for char in line)
        assert len(line) + wide < columns
