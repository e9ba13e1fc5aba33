"""Identifiers."""

import re
import sys
import threading
from typing import get_args

import pytest

from cmdop_appliance import ids
from cmdop_appliance.ids import Kind, is_id, made_ms, new_id, new_ulid, order_of


def test_an_id_is_greater_than_every_one_before():
    made = [new_ulid() for _ in range(2000)]  # many of them within one ms
    assert made == sorted(set(made))


def test_the_order_of_ids_is_a_number_that_json_can_hold(monkeypatch):
    monkeypatch.setattr(ids, "_last", 0)
    made = []
    for ms in range(1_800_000_000_000, 1_800_000_000_100):
        monkeypatch.setattr(ids.time, "time_ns", lambda ms=ms: ms * 1_000_000)
        made.append(order_of(new_id("cmd")))
    assert made == sorted(set(made))
    assert max(made) < 2**52


def test_a_clock_that_steps_back_makes_no_smaller_id(monkeypatch):
    monkeypatch.setattr(ids.time, "time_ns", lambda: 2_000_000_000_000_000_000)
    before = new_ulid()
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_000_000_000_000_000_000)
    after = new_ulid()
    monkeypatch.setattr(ids, "_last", 0)
    assert before < after


def test_threads_never_make_the_same_id(monkeypatch):
    interval = sys.getswitchinterval()
    monkeypatch.setattr(ids.time, "time_ns", lambda: 0)  # all within one ms
    made: list[str] = []

    def make() -> None:
        made.extend(new_ulid() for _ in range(3000))

    threads = [threading.Thread(target=make) for _ in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(set(made)) == 4 * 3000


def test_an_id_begins_with_the_time_of_its_making(monkeypatch):
    monkeypatch.setattr(ids, "_last", 0)
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_469_918_176_385 * 1_000_000)
    made = new_ulid()
    monkeypatch.setattr(ids, "_last", 0)
    assert made.startswith("01ARYZ6S41")  # the example of the ULID specification


def test_an_id_tells_when_it_was_made(monkeypatch):
    assert made_ms("cmd_01ARYZ6S41TSV4RRFFQ69G5FAV") == 1_469_918_176_385  # as above
    assert made_ms("cmd_" + "0" * 26) == 0
    assert made_ms("cmd_7" + "Z" * 25) == 2**48 - 1
    for now_ms in (0, 1, 31, 32, 1_700_000_000_000, 2**48 - 1):
        monkeypatch.setattr(ids, "_last", 0)
        monkeypatch.setattr(ids.time, "time_ns", lambda now_ms=now_ms: now_ms * 1_000_000)
        assert made_ms(new_id("cmd")) == now_ms
    monkeypatch.setattr(ids, "_last", 0)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_new_id_is_an_id_of_its_kind_alone(kind: Kind):
    made = new_id(kind)
    assert re.fullmatch(kind + "_[0-9A-HJKMNP-TV-Z]{26}", made)
    assert [other for other in get_args(Kind) if is_id(other, made)] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cmd",
        "cmd_",
        "cmd_01ARZ3NDEKTSV4RRFFQ69G5FA",  # 25
        "cmd_01ARZ3NDEKTSV4RRFFQ69G5FAVV",  # 27
        "cmd_81ARZ3NDEKTSV4RRFFQ69G5FAV",  # more than 128 bits
        "cmd_01ARZ3NDEKTSV4RRFFQ69G5FAU",  # no Crockford letter
        "cmd_01arz3ndektsv4rrffq69g5fav",
        "cmd_01ARZ3NDEKTSV4RRFFQ69G5FAV\n",
        "cmd_01ARZ3NDEKTSV4RRFFQ69G5FA\0",
        "cmd_０1ARZ3NDEKTSV4RRFFQ69G5FAV",  # a digit that is not ASCII
        "mach_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "cmd__01ARZ3NDEKTSV4RRFFQ69G5FAV",
    ],
)
def test_what_is_no_command_id_is_told_apart(text: str):
    assert not is_id("cmd", text)
