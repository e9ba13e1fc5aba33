"""`cmdop files` against a hub with a machine, all of it real."""

import json
import os

import pytest

from tests.cli.files_cli import cmdop
from tests.sdk.scripted_hub import answer, scripted_hub


@pytest.fixture
def there(agent, tmp_path):
    """A directory on the machine."""
    directory = tmp_path / "there"
    directory.mkdir()
    return directory


def _names(done):
    assert (done.returncode, done.stderr) == (0, b"")
    return [line.split(b"\t")[0] for line in done.stdout.splitlines()]


def test_a_directory_is_listed_by_name_and_hidden_names_only_when_asked_for(hub, there):
    (there / "b").write_bytes(b"12345")
    (there / "a").mkdir()
    (there / ".hidden").touch()
    (there / "link").symlink_to("b")
    place = f"target:{there}"
    assert _names(cmdop(hub, "files", "ls", place)) == [b"a", b"b", b"link"]
    assert _names(cmdop(hub, "files", "ls", "-a", place)) == [b".hidden", b"a", b"b", b"link"]
    assert _names(cmdop(hub, "files", "ls", "-o", "name", place)) == [b"a", b"b", b"link"]
    long = cmdop(hub, "files", "ls", "-l", place).stdout.decode().splitlines()
    assert long[1].split("\t")[1:3] == ["file", "0644"]
    assert long[1].split("\t")[5] == "5"
    assert long[2].split("\t")[-1] == "b"
    (file,) = _names(cmdop(hub, "files", "ls", f"{place}/b"))
    assert file == b"b"


def test_a_word_without_a_colon_is_a_machine_and_its_home(hub, agent):
    assert _names(cmdop(hub, "files", "ls", "target")) == _names(
        cmdop(hub, "files", "ls", "target:~")
    )


def test_names_of_any_bytes_are_harmless_to_look_at_and_exact_in_json(hub, there):
    raw = b"bad\xff\x1b[31m\n"
    (there / os.fsdecode(raw)).write_bytes(b"x")
    assert _names(cmdop(hub, "files", "ls", f"target:{there}")) == [rb"bad\udcff\x1b[31m\n"]
    (record,) = json.loads(cmdop(hub, "files", "ls", "-o", "json", f"target:{there}").stdout)
    assert record["name"] == "bad\ufffd\x1b[31m\n"
    assert record["name_base64"] == "YmFk/xtbMzFtCg=="
    path = f"target:{there}/{os.fsdecode(raw)}"
    assert cmdop(hub, "files", "cat", path).stdout == b"x"
    shown = json.loads(cmdop(hub, "files", "stat", "--checksum", "-o", "json", path).stdout)
    assert shown["size"] == 1
    assert len(shown["sha256"]) == 64
    assert cmdop(hub, "files", "rm", path).returncode == 0
    assert list(there.iterdir()) == []


def test_a_record_is_shown_without_what_only_programs_read(hub, there):
    (there / "f").write_bytes(b"")
    shown = cmdop(hub, "files", "stat", f"target:{there}/f").stdout.decode()
    assert "type\tfile\n" in shown
    assert "base64" not in shown


def test_files_are_printed_and_what_is_missing_is_told_and_passed_over(hub, there):
    (there / "a").write_bytes(b"\x00\xff")
    (there / "b").write_bytes(b"b" * 200_000)
    done = cmdop(hub, "files", "cat", *(f"target:{there}/{name}" for name in ("a", "none", "b")))
    assert (done.returncode, done.stdout) == (1, b"\x00\xff" + b"b" * 200_000)
    assert done.stderr.count(b"\n") == 1
    assert b"none" in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["cat", "target:{}/none"], 3, b"none"),
        (["stat", "nowhere:/x"], 3, b'machine "nowhere" not found'),
        (["rm", "target:{}"], 1, b"something in it\nhint: -r removes it"),
        (["rm", "target:{}", "target:{}/none"], 1, b"something in it\nhint: -r removes it"),
        (["mkdir", "target:{}/no/such"], 3, b"no"),
        (["cat", "/etc/passwd"], 2, b"names no machine"),
        (["ls", "/etc"], 2, b'"/etc" names no machine\nhint: write MACHINE:PATH'),
        (["mv", "target:{}/f", "target:{}/g/"], 1, b""),
        (["cp", "target:{}/d", "target:{}/e"], 1, b"-r copies it"),
        (["cp", "target:{}/f", "target:{}/g"], 1, b"g"),
    ],
)
def test_a_failure_says_what_and_has_its_exit_code(hub, there, args, code, said):
    (there / "f").touch()
    (there / "g").touch()
    (there / "d").mkdir()
    before = sorted(there.rglob("*"))
    done = cmdop(hub, "files", *(arg.format(there) for arg in args))
    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr.startswith(b"error: ")
    assert said in done.stderr
    assert sorted(there.rglob("*")) == before


def test_directories_are_made_and_taken_away(hub, there):
    assert cmdop(hub, "files", "mkdir", f"target:{there}/a", f"target:{there}/b").returncode == 0
    assert cmdop(hub, "files", "mkdir", f"target:{there}/a").returncode == 1
    assert cmdop(hub, "files", "mkdir", "-p", f"target:{there}/a/c/d").returncode == 0
    assert (there / "a/c/d").is_dir()
    assert cmdop(hub, "files", "rm", f"target:{there}/b").returncode == 0
    assert cmdop(hub, "files", "rm", "-r", f"target:{there}/a").returncode == 0
    assert list(there.iterdir()) == []


def test_files_are_moved_and_copied_within_their_machine(hub, there):
    (there / "f").write_bytes(b"f")
    (there / "d").mkdir()
    at = f"target:{there}"
    assert cmdop(hub, "files", "mv", f"{at}/f", there / "d").returncode == 0
    assert (there / "d/f").read_bytes() == b"f"
    assert cmdop(hub, "files", "cp", f"{at}/d/f", f"{at}/g").returncode == 0
    assert cmdop(hub, "files", "cp", "-r", f"{at}/d", f"{at}/e").returncode == 0
    assert (there / "e/f").read_bytes() == (there / "g").read_bytes() == b"f"
    (there / "g").write_bytes(b"g")
    assert cmdop(hub, "files", "mv", "-f", f"{at}/g", f"{at}/d/f").returncode == 0
    assert (there / "d/f").read_bytes() == b"g"


@pytest.mark.parametrize(
    "args",
    [
        ["rm", "-r", "target:"],
        ["rm", "-r", "target:/tmp/none", "target:/"],
        ["rm", "target:~"],
        ["mv", "-f", "target:", "/tmp/none"],
        ["mv", "target:/tmp/..", "/tmp/none"],
    ],
)
def test_a_variable_that_is_not_set_removes_no_home(args):
    """By a hub that has nothing to lose."""
    with scripted_hub(lambda _: answer([])) as hub:
        done = cmdop(hub, "files", *args)
    assert (done.returncode, done.stdout, hub.asked) == (2, b"", [])
    assert b"ends in no name, and is left as it is" in done.stderr


def test_a_link_to_a_directory_is_moved_into_and_never_replaced(hub, there):
    (there / "d/g").mkdir(parents=True)
    (there / "link").symlink_to("d")
    (there / "d/h").symlink_to("g")
    (there / "broken").symlink_to("none")
    for name in "fgh":
        (there / name).write_bytes(b"new")
    at = f"target:{there}"
    assert cmdop(hub, "files", "mv", "-f", f"{at}/f", f"{at}/link").returncode == 0
    assert (there / "d/f").read_bytes() == b"new"
    for command in ("mv", "cp"):
        done = cmdop(hub, "files", command, "-f", f"{at}/h", f"{at}/link")
        assert (done.returncode, b"h is a link to a directory" in done.stderr) == (1, True)
        assert cmdop(hub, "files", command, "-f", f"{at}/g", f"{at}/link").returncode == 1
    assert (there / "link").is_symlink()
    assert (there / "d/h").is_symlink()
    assert (there / "d/g").is_dir()
    assert cmdop(hub, "files", "mv", "-f", f"{at}/g", f"{at}/broken").returncode == 0
    assert (there / "broken").read_bytes() == b"new"
