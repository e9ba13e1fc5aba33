"""`cmdop backup` and `cmdop restore`: what is written, what is said, and what is left behind."""

import os

import pytest

from cmdop_appliance.archives import Head, Packer
from cmdop_appliance.cli.main import main
from tests.sdk.scripted_hub import Answer, Asked, answer, http, scripted_hub, stream

LISTS = {"machines": 2, "commands": 3}
FULL = {"code": "storage_full", "message": "a backup needs 9 bytes", "details": {}}


def packed() -> bytes:
    packer = Packer(1_700_000_000_000)
    head = Head(version="0.1.0", schema=13, created_ms=1_700_000_000_000, tables={}, lists=LISTS)
    return packer.head(head) + packer.begin("cmdop.db", 2) + packer.add(b"db") + packer.end()


@pytest.fixture
def cmdop(monkeypatch, capsys):
    """Runs `cmdop …` against a hub that answers so: exit code, what was said, what was asked."""

    def run(reply: Answer, *args: object):
        asked: list[Asked] = []

        def script(request: Asked) -> Answer:
            asked.append(request)
            return reply

        with scripted_hub(script) as hub:
            monkeypatch.setenv("CMDOP_URL", hub.url)
            monkeypatch.setenv("CMDOP_API_KEY", "k")
            code = main([str(arg) for arg in args])
        said = capsys.readouterr()
        return code, said.out, said.err, asked

    return run


def test_a_backup_is_a_new_file_for_its_owner_and_what_is_in_it_is_told(cmdop, tmp_path):
    file = tmp_path / "hub.tar.gz"
    os.umask(old := os.umask(0))
    os.umask(0)
    try:
        code, out, _, (asked,) = cmdop(stream(packed()), "backup", file)
    finally:
        os.umask(old)
    assert (code, asked.method, asked.path) == (0, "GET", "/api/v1/backup")
    assert file.read_bytes() == packed()
    assert file.stat().st_mode & 0o777 == 0o600
    assert "2 machines, 3 commands; as of 2023-11-14T22:13:20Z, by cmdop 0.1.0" in out
    assert [path.name for path in tmp_path.iterdir()] == ["hub.tar.gz"]


def test_a_file_that_is_there_is_left_alone_and_the_hub_is_not_asked(cmdop, tmp_path):
    file = tmp_path / "hub.tar.gz"
    file.write_text("mine")
    code, _, err, asked = cmdop(stream(packed()), "backup", file)
    assert (code, asked, file.read_text()) == (2, [], "mine")
    assert "is there already" in err


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (stream(packed()[:60], whole=False), "broke off"),
        (stream(packed()[:-9]), "no backup, or not whole"),
        (http(200, b"<html>"), "no backup"),
        (answer(FULL, status=507), "a backup needs 9 bytes"),
    ],
)
def test_of_a_backup_that_did_not_come_nothing_is_left(cmdop, tmp_path, reply, told):
    code, _, err, _ = cmdop(reply, "backup", tmp_path / "hub.tar.gz")
    assert code in (1, 5)
    assert told in err
    assert not any(tmp_path.iterdir())


def test_where_nobody_can_write_is_told(cmdop, tmp_path):
    code, _, err, asked = cmdop(stream(packed()), "backup", tmp_path / "no/hub.tar.gz")
    assert (code, asked) == (2, [])
    assert f"there is no directory {tmp_path / 'no'}\n" in err


@pytest.mark.parametrize(
    ("args", "told", "code"),
    [
        (("backup", "verify", "nothing"), "No such file", 1),
        (("restore", "nothing", "--data-dir", "data"), "No such file", 1),
        (("restore", "nothing"), "no directory is named", 2),
        (("--data-dir", "there", "restore", "nothing"), "not empty", 2),
        (("backup", "verify", "there/notes"), "no backup", 1),
    ],
)
def test_what_cannot_be_is_told_in_a_line(cmdop, tmp_path, monkeypatch, args, told, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there/notes").write_text("no backup")
    got, out, err, _ = cmdop(stream(), *args)
    assert (got, out) == (code, "")
    assert told in err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_help_shows_both_ways(cmdop):
    code, out, _, _ = cmdop(stream(), "backup", "--help")
    assert code == 0
    assert "FILE | COMMAND" in out
    assert "verify" in out
