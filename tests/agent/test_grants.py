"""Windows: they end by themselves and with the boot, and every change is audited once."""

import fcntl
import json
import os
import stat
from pathlib import Path

import pytest
import trio

from cmdop_appliance.agent import audit, grants
from cmdop_appliance.agent.audit import append, append_denial, tell_hub
from cmdop_appliance.agent.grants import (
    WINDOW_MOST_MS,
    audit_expiry,
    close_window,
    is_open,
    left_ms,
    open_window,
)
from cmdop_appliance.agent.outbox import Outbox
from cmdop_appliance.protocol import messages
from cmdop_appliance.protocol.messages import FEATURES
from tests.support.agents import eventually

MINUTE_MS = 60_000


def events(state_dir: Path) -> list[str]:
    return [line["event"] for line in lines(state_dir)]


def lines(state_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (state_dir / "audit.log").read_text().splitlines()]


def change(state_dir: Path, **fields: object) -> None:
    """Another window than was opened, as a reboot or damage would leave it."""
    path = state_dir / "grant.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# ── a window ─────────────────────────────────────────────────────────────────────────────────


def test_a_window_is_open_until_it_is_closed(tmp_path):
    assert not is_open(tmp_path)
    open_window(tmp_path, MINUTE_MS)
    assert is_open(tmp_path)
    assert 0 < left_ms(tmp_path) <= MINUTE_MS
    assert close_window(tmp_path)
    assert not is_open(tmp_path)
    assert not close_window(tmp_path)
    assert events(tmp_path) == ["grant.opened", "grant.closed"]


async def test_a_window_closes_by_itself_and_the_agent_audits_it_once(tmp_path):
    open_window(tmp_path, 50)
    await eventually(lambda: not is_open(tmp_path), "the window is closed")
    assert events(tmp_path) == ["grant.opened"]
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(audit_expiry, tmp_path)
            await eventually(lambda: not (tmp_path / "grant.json").exists(), "the window is gone")
            nursery.cancel_scope.cancel()
    assert events(tmp_path) == ["grant.opened", "grant.expired"]


@pytest.mark.parametrize("act", [close_window, lambda path: open_window(path, MINUTE_MS)])
async def test_an_expiry_that_no_agent_saw_is_audited_by_whoever_comes_next(tmp_path, act):
    open_window(tmp_path, 1)
    await eventually(lambda: not is_open(tmp_path), "the window is closed")
    act(tmp_path)
    assert events(tmp_path)[:2] == ["grant.opened", "grant.expired"]


def test_a_restart_of_the_machine_closes_a_window(tmp_path):
    open_window(tmp_path, MINUTE_MS)
    change(tmp_path, boot_id="another boot")
    assert not is_open(tmp_path)
    assert not close_window(tmp_path)
    assert "restart" in lines(tmp_path)[-1]["message"]


def test_a_new_window_takes_the_place_of_the_old_one(tmp_path):
    open_window(tmp_path, 10 * MINUTE_MS)
    open_window(tmp_path, MINUTE_MS)
    assert left_ms(tmp_path) <= MINUTE_MS


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"boot_id": 1}', b"[" * 100_000, b'{"until_ms": 1e999}'],
)
def test_a_damaged_window_is_closed(tmp_path, content):
    (tmp_path / "grant.json").write_bytes(content)
    assert not is_open(tmp_path)
    assert not close_window(tmp_path)
    assert events(tmp_path) == ["grant.expired"]


def test_no_window_is_longer_than_a_day(tmp_path):
    open_window(tmp_path, WINDOW_MOST_MS)
    assert is_open(tmp_path)
    open_window(tmp_path, WINDOW_MOST_MS + MINUTE_MS)
    assert not is_open(tmp_path)


@pytest.mark.parametrize("act", [close_window, lambda path: open_window(path, MINUTE_MS)])
def test_windows_change_one_after_another(tmp_path, monkeypatch, act):
    open_window(tmp_path, MINUTE_MS)
    others = []

    def try_to_come_between(*args, **details):
        fd = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            others.append("waits")
        os.close(fd)

    monkeypatch.setattr(grants, "append", try_to_come_between)
    act(tmp_path)
    assert others == ["waits"]


def test_a_window_that_cannot_be_audited_is_not_opened(tmp_path):
    (tmp_path / "audit.log").mkdir()
    with pytest.raises(OSError, match="directory"):
        open_window(tmp_path, MINUTE_MS)
    assert not is_open(tmp_path)


def test_a_window_closes_even_if_that_cannot_be_audited(tmp_path):
    open_window(tmp_path, MINUTE_MS)
    (tmp_path / "audit.log").unlink()
    (tmp_path / "audit.log").mkdir()
    with pytest.raises(OSError, match="directory"):
        close_window(tmp_path)
    assert not is_open(tmp_path)


# ── the audit log ────────────────────────────────────────────────────────────────────────────


def test_a_line_says_when_what_who_and_until_when(tmp_path):
    before = os.umask(0)
    try:
        until = open_window(tmp_path, MINUTE_MS)
    finally:
        os.umask(before)
    (line,) = lines(tmp_path)
    assert line["event"] == "grant.opened"
    assert line["time"] < line["until"] == until
    assert line["duration_ms"] == MINUTE_MS
    assert line["uid"] == os.getuid()
    assert line["login"]
    for name in ("audit.log", "grant.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_no_text_can_forge_a_line(tmp_path):
    append_denial(tmp_path, "cmd_1", "user_denied", 'x\n{"event": "grant.opened"}\r\u2028')
    append(tmp_path, "grant.opened", "m")
    assert events(tmp_path) == ["command.denied", "grant.opened"]


def test_denials_fill_no_disk_and_leave_room_for_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "DENIALS_UP_TO_BYTES", 1000)
    for number in range(100):
        append_denial(tmp_path, f"cmd_{number}", "policy_denied", "m" * 100)
    assert (tmp_path / "audit.log").stat().st_size < 1500
    append(tmp_path, "grant.opened", "m")
    assert events(tmp_path)[-1] == "grant.opened"


# ── what the hub is told ─────────────────────────────────────────────────────────────────────


async def told(state_dir: Path, count: int) -> list[messages.Message]:
    """The next notices of an agent that starts now and is connected."""
    outbox = Outbox()
    outbox.open(FEATURES)
    said = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_hub, state_dir, outbox)
        with trio.fail_after(20):
            for _ in range(count):
                said.append(await outbox.next())  # noqa: PERF401 - one after another
            size = str((state_dir / "audit.log").stat().st_size)
            path = state_dir / "audit.told"
            while not path.exists() or path.read_text().strip() != size:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert outbox.next_nowait() is None
    return said


async def test_the_hub_is_told_of_each_window_once_also_of_those_before_the_start(tmp_path):
    open_window(tmp_path, MINUTE_MS)
    append_denial(tmp_path, "cmd_1", "policy_denied", "m")
    close_window(tmp_path)
    opened, closed = await told(tmp_path, 2)
    assert (opened.event, closed.event) == ("grant.opened", "grant.closed")
    assert "60 s" in opened.message
    assert f"uid {os.getuid()}" in opened.message
    open_window(tmp_path, MINUTE_MS)
    (opened,) = await told(tmp_path, 1)
    assert opened.event == "grant.opened"


async def test_a_log_that_was_put_away_is_read_from_its_start(tmp_path):
    open_window(tmp_path, MINUTE_MS)
    close_window(tmp_path)
    await told(tmp_path, 2)
    (tmp_path / "audit.log").unlink()
    open_window(tmp_path, MINUTE_MS)
    assert [notice.event for notice in await told(tmp_path, 1)] == ["grant.opened"]


async def test_while_there_is_no_connection_nothing_is_lost(tmp_path, autojump_clock):
    outbox = Outbox()
    append(tmp_path, "grant.opened", "m")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_hub, tmp_path, outbox)
        await trio.sleep(60)
        outbox.open(FEATURES)
        assert (await outbox.next()).event == "grant.opened"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["audit.log", "audit.told"])
async def test_a_log_that_cannot_be_read_is_reported_once_and_told_when_it_can(
    tmp_path, autojump_clock, caplog, name
):
    outbox = Outbox()
    outbox.open(FEATURES)
    (tmp_path / name).mkdir()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_hub, tmp_path, outbox)
        await trio.sleep(60)
        assert [record.message for record in caplog.records] == ["cannot read what to tell the hub"]
        (tmp_path / name).rmdir()
        append(tmp_path, "grant.opened", "m")
        with trio.fail_after(60):
            assert (await outbox.next()).event == "grant.opened"
        nursery.cancel_scope.cancel()


async def test_what_a_connection_could_not_take_is_said_on_the_next(
    tmp_path, monkeypatch, autojump_clock
):
    monkeypatch.setattr("cmdop_appliance.agent.outbox.QUEUE_MESSAGES", 1)
    outbox = Outbox()
    outbox.open(FEATURES)
    append(tmp_path, "grant.opened", "m")
    append(tmp_path, "grant.closed", "m")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_hub, tmp_path, outbox)
        await trio.sleep(60)
        outbox.shut()
        await trio.sleep(60)
        outbox.open(FEATURES)
        with trio.fail_after(60):
            said = [(await outbox.next()).event for _ in range(2)]
        nursery.cancel_scope.cancel()
    assert said == ["grant.opened", "grant.closed"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"event": "grant.x", "message": "\\ud800", "login": 1, "uid": []}',
        b'{"event": "grant.\\ud800", "message": null, "login": "", "uid": 0}',
        b'{"event": "grant.' + b"x" * 10_000 + b'", "message": "", "login": "", "uid": 0}',
    ],
)
def test_any_line_makes_a_message_that_can_be_sent(tmp_path, content):
    (tmp_path / "audit.log").write_bytes(content + b"\n")
    end, (notice,) = audit._news(tmp_path, 0)
    assert end == len(content) + 1
    assert messages.decode_from_agent(messages.encode(notice)) == notice


@pytest.mark.parametrize("content", [b"\xff\n", b"[]\n", b'{"event": 1}\n', b"\n\n", b"[" * 70_000])
def test_what_is_no_line_of_ours_is_passed_over(tmp_path, content):
    (tmp_path / "audit.log").write_bytes(content)
    assert audit._news(tmp_path, 0) == (min(len(content), 65536), [])


def test_a_line_that_is_not_whole_yet_waits(tmp_path):
    (tmp_path / "audit.log").write_bytes(b'{"event"')
    assert audit._news(tmp_path, 0) == (0, [])
