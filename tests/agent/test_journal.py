"""The journal: what was written is read again, and damage costs no more than the damaged line."""

import os
import resource
import signal
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.agent import journal as module
from cmdop_appliance.agent.journal import Entry, Journal
from cmdop_appliance.ids import new_id

STARTING = Entry("cmd_1", b"h" * 32, "boot", serial_key="key")
LOST = Entry("cmd_2", b"i" * 32, "boot", end="lost", reason="rebooted", message="it was")


def reopened(journal: Journal) -> Journal:
    journal.close()
    return Journal(journal._path)


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal.log")
    yield journal
    journal.close()


def test_starts_ends_and_tombstones_are_read_again(tmp_path):
    journal = Journal(tmp_path / "journal.log")
    journal.starting([STARTING, LOST, Entry("cmd_3")])
    journal.sync()
    journal.ended(LOST)
    journal.forget("cmd_3")
    for _ in range(2):  # as written, and as compacted
        journal = reopened(journal)
        assert journal.entries == {"cmd_1": STARTING, "cmd_2": LOST}
        assert set(journal.tombstones) == {"cmd_3"}
    journal.close()


def test_an_entry_of_before_there_were_serial_keys_is_read(tmp_path):
    path = tmp_path / "journal.log"
    body = b'{"id":"cmd_1","boot_id":"boot"}'
    path.write_bytes(b"%08x %s\n" % (zlib.crc32(body), body))
    journal = Journal(path)
    journal.close()
    assert journal.entries == {"cmd_1": Entry("cmd_1", None, "boot", serial_key=None)}


def test_it_is_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        Journal(tmp_path / "journal.log").close()
    finally:
        os.umask(before)
    assert (tmp_path / "journal.log").stat().st_mode & 0o777 == 0o600


@given(st.data())
def test_damage_anywhere_costs_no_other_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("journal") / "journal.log"
    entries = [Entry(new_id("cmd"), bytes([n]) * 32, "boot") for n in range(3)]
    journal = Journal(path)
    journal.starting(entries)
    journal.close()
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    line = content[:at].count(b"\n")
    content[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
    path.write_bytes(content)
    journal = Journal(path)
    journal.close()
    # A newline that is damaged joins two lines; nothing else reaches beyond its own.
    spared = {entry.id: entry for n, entry in enumerate(entries) if n not in (line, line + 1)}
    assert spared.items() <= journal.entries.items()
    assert all(entry in entries for entry in journal.entries.values())


@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_a_journal(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("journal") / "journal.log"
    path.write_bytes(content)
    journal = Journal(path)
    assert journal.entries == {}
    journal.starting([STARTING])
    journal = reopened(journal)
    assert journal.entries == {"cmd_1": STARTING}
    journal.close()


def test_a_full_disk_refuses_the_start_and_spoils_nothing_that_follows(journal):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, limits[1]))  # less than one line
    try:
        with pytest.raises(OSError, match="cannot be written"):
            journal.starting([STARTING])
        assert journal.entries == {}
        journal.forget("cmd_9")  # is remembered all the same, until the end
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "cmd_9" in journal.tombstones
    journal.starting([LOST])
    again = Journal(journal._path)
    assert again.entries == {"cmd_2": LOST}
    again.close()


def test_tombstones_are_dropped_after_their_time_but_the_newest_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOMBSTONES_AT_LEAST", 2)
    journal = Journal(tmp_path / "journal.log")
    now = time.time()
    for number in range(5):
        monkeypatch.setattr(time, "time", lambda n=number: now + n - 2 * module.TOMBSTONE_S)
        journal.forget(f"cmd_{number}")
    monkeypatch.setattr(time, "time", lambda: now)
    journal = reopened(journal)
    assert list(journal.tombstones) == ["cmd_3", "cmd_4"]
    journal.forget("cmd_5")
    journal = reopened(journal)
    assert list(journal.tombstones) == ["cmd_4", "cmd_5"]
    journal.close()


def test_the_oldest_tombstone_makes_room_when_there_are_too_many(journal, monkeypatch):
    monkeypatch.setattr(module, "TOMBSTONES_AT_MOST", 2)
    for number in range(4):
        journal.forget(f"cmd_{number}")
    assert list(journal.tombstones) == ["cmd_2", "cmd_3"]


def test_of_what_it_let_go_the_journal_remembers_how_new_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOMBSTONES_AT_MOST", 2)
    monkeypatch.setattr(module, "TOMBSTONES_AT_LEAST", 1)
    journal = Journal(tmp_path / "journal.log")
    assert not journal.is_beyond_memory("cmd_0")
    for number in (5, 1, 2, 3):
        journal.forget(f"cmd_{number}")
    for again in (journal, journal := reopened(journal)):
        assert [again.is_beyond_memory(f"cmd_{n}") for n in (1, 4, 5, 6)] == [True] * 3 + [False]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * module.TOMBSTONE_S)
    journal = reopened(journal)  # of what is let go now, none is newer
    assert list(journal.tombstones) == ["cmd_3"]
    journal = reopened(journal)
    assert journal.is_beyond_memory("cmd_5")
    journal.forget("cmd_6")
    journal.forget("cmd_7")
    journal.forget("cmd_8")
    assert journal.is_beyond_memory("cmd_6")
    journal.close()


def test_a_large_journal_is_rewritten_with_what_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "COMPACT_ABOVE_BYTES", 1000)
    journal = Journal(tmp_path / "journal.log")
    for _ in range(50):
        journal.starting([STARTING])
        journal.sync()
    assert journal._path.stat().st_size < 1500
    journal = reopened(journal)
    assert journal.entries == {"cmd_1": STARTING}
    journal.close()


def test_a_removed_machine_lets_go_of_every_command(journal):
    journal.starting([STARTING, LOST])
    journal.forget_all()
    again = Journal(journal._path)
    assert again.entries == {}
    assert set(again.tombstones) == {"cmd_1", "cmd_2"}
    again.close()
