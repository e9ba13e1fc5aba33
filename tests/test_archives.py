"""A backup is taken whole or not at all, and nothing but what a backup has is taken out of one."""

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path
from random import Random

import msgspec
import pytest

from cmdop_appliance import archives
from cmdop_appliance.archives import EMPTY, End, Head, Packer
from cmdop_appliance.errors import BackupDamaged

NOW = 1_700_000_000_000
HEAD = Head(version="0.1.0", schema=13, created_ms=NOW, tables={"command": 1}, lists={})
OUTPUT = "output/AV/cmd_01ARZ3NDEKTSV4RRFFQ69G5FAV.stdout"
FILES = {OUTPUT: b"x" * 1000, "admin.key": b"", "cmdop.db": bytes(range(256)) * 40}


def packed(files: dict[str, bytes] = FILES) -> bytes:
    packer = Packer(NOW)
    data = EMPTY + packer.head(HEAD)
    for name, content in files.items():
        data += packer.begin(name, len(content)) + packer.add(content)
    return data + packer.end()


def unpacked(data: bytes, tmp_path: Path) -> dict[str, bytes]:
    file, folder = tmp_path / "backup", tmp_path / "unpacked"
    file.write_bytes(data)
    folder.mkdir(exist_ok=True)
    assert archives.unpack(file, folder) == HEAD
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(data: bytes, tmp_path: Path) -> str:
    with pytest.raises(BackupDamaged) as caught:
        unpacked(data, tmp_path)
    return caught.value.message


def tarred(*members: tuple[tarfile.TarInfo | str, bytes]) -> bytes:
    """A tar with a right head, these members, and an end that tells right of them."""
    file, sums = io.BytesIO(), archives._Sum()
    with gzip.open(file, "wb") as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        head = ("cmdop-backup.json", msgspec.json.encode(HEAD))
        for member, data in (head, *members):
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            sums.begin(info.name, len(data))
            sums.update(data)
            tar.addfile(info, io.BytesIO(data))
        end = msgspec.json.encode(sums.end())
        info = tarfile.TarInfo("end.json")
        info.size = len(end)
        tar.addfile(info, io.BytesIO(end))
    return file.getvalue()


def test_what_goes_in_comes_out(tmp_path):
    assert unpacked(packed(), tmp_path) == FILES
    assert archives.read_head(tmp_path / "backup") == HEAD
    for path in (tmp_path / "unpacked").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_any_tar_reads_it(tmp_path):
    (tmp_path / "backup").write_bytes(packed())
    with tarfile.open(tmp_path / "backup", "r:gz") as tar:
        assert tar.getnames() == ["cmdop-backup.json", *FILES, "end.json"]


def test_a_large_file_is_told_by_its_size():
    packer = Packer(NOW)
    packer.head(HEAD)
    packer.begin("cmdop.db", 20 * 1024**3)  # more than the first form of tar can say


@pytest.mark.parametrize("seed", range(4))
def test_a_backup_that_was_cut_is_found(tmp_path, seed):
    data = packed()
    for cut in Random(seed).sample(range(len(data)), 25):
        (tmp_path / str(cut)).mkdir()
        refused(data[:cut], tmp_path / str(cut))


@pytest.mark.parametrize("seed", range(4))
def test_a_byte_that_flipped_is_found_if_anything_is_another_for_it(tmp_path, seed):
    data, random, found = packed(), Random(seed), 0
    for at in random.sample(range(len(data)), 40):
        (tmp_path / str(at)).mkdir()
        bad = bytearray(data)
        bad[at] ^= 1 << random.randrange(8)
        try:
            assert unpacked(bytes(bad), tmp_path / str(at)) == FILES
        except BackupDamaged:
            found += 1
    assert found > 20


def test_what_comes_behind_the_end_is_refused(tmp_path):
    refused(packed() + gzip.compress(b"more"), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../cmdop.db",
        "/etc/passwd",
        "output/../../x",
        "output/AV/../../x",
        "tls/..",
        "tls/.x",
        "dl/a/b",
        "cmdop.db-wal",
        "hub.json",
        "restoring",
        "output/AV/cmd_01ARZ3NDEKTSV4RRFFQ69G5FAV.stdout\n",
    ],
)
def test_a_name_that_no_backup_has_is_refused(tmp_path, name):
    before = sorted(tmp_path.parent.rglob("*"))
    assert "no backup has" in refused(tarred(("cmdop.db", b"db"), (name, b"x")), tmp_path)
    assert (tmp_path / "unpacked/cmdop.db").exists()
    assert {path.name for path in tmp_path.rglob("*")} == {"backup", "unpacked", "cmdop.db"}
    assert set(before) <= set(tmp_path.parent.rglob("*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, b"6"])
def test_what_is_no_plain_file_is_refused(tmp_path, kind):
    info = tarfile.TarInfo("cmdop.db")
    info.type, info.linkname = kind, "/etc/passwd"
    refused(tarred((info, b"")), tmp_path)
    assert not any((tmp_path / "unpacked").iterdir())


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_as_long_as_memory_is_not_read(tmp_path, kind):
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 64 << 20
    head = gzip.decompress(tarred())[: 2 * tarfile.BLOCKSIZE]
    data = gzip.compress(head + info.tobuf(tarfile.GNU_FORMAT) + bytes(info.size), 1)
    tracemalloc.start()
    refused(data, tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < info.size


def test_a_name_twice_is_refused(tmp_path):
    refused(tarred(("cmdop.db", b"db"), ("cmdop.db", b"db")), tmp_path)


def test_without_a_database_it_is_no_backup(tmp_path):
    refused(tarred(("admin.key", b"key")), tmp_path)


def test_another_file_is_no_backup(tmp_path):
    for data in (b"", b"text", gzip.compress(b"text"), gzip.compress(bytes(10_240))):
        assert "no backup" in refused(data, tmp_path)


def test_an_end_that_tells_of_other_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives._Sum, "end", lambda _: End(1, 2, "00"))
    data = packed()
    monkeypatch.undo()
    assert "not whole" in refused(data, tmp_path)


def test_a_later_form_is_told_as_that(tmp_path):
    packer = Packer(NOW)
    later = msgspec.structs.replace(HEAD, format=2, version="9.0.0")
    assert "by cmdop 9.0.0" in refused(packer.head(later) + packer.end(), tmp_path)


def test_backups_are_named_by_their_time_and_nothing_else_is():
    assert archives.file_name(NOW + 999) == "cmdop-backup-20231114T221320Z.tar.gz"
    assert archives.made_ms("cmdop-backup-20231114T221320Z.tar.gz") == NOW
    for name in ("cmdop-backup-20231114T221320Z.tar.gz.part", "cmdop-backup-2023.tar.gz", "x", ""):
        assert archives.made_ms(name) is None
    assert archives.made_ms("cmdop-backup-20231114T2213 0Z.tar.gz") is None
