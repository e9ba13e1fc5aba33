"""How fast terminals are read, in a time that we make."""

import base64
import os
import select
import tty

import pytest

from cmdop_appliance.agent.keeper.pty import CommandFile, Pty, open_pty
from cmdop_appliance.agent.keeper.requests import Input, Watch
from cmdop_appliance.agent.keeper.screens import PASS_BYTES, RATE_BYTES_S, Screens
from tests.agent.keeper.test_segments import files_of_at_most

TICK_S = 0.001


class Looks:
    """As an epoll that asks each terminal: what was written is there, and not on its way."""

    def __init__(self) -> None:
        self.wanted: dict[int, int] = {}

    def register(self, fd: int, wanted: int) -> None:
        assert fd not in self.wanted
        self.wanted[fd] = wanted

    def modify(self, fd: int, wanted: int) -> None:
        assert fd in self.wanted
        self.wanted[fd] = wanted

    def unregister(self, fd: int) -> None:
        del self.wanted[fd]

    def poll(self) -> list[tuple[int, int]]:
        asked = select.poll()
        for fd, wanted in self.wanted.items():
            asked.register(fd, wanted)  # POLLIN is EPOLLIN, and so on
        return asked.poll(0)


class Bench:
    """Terminals of which some are flooded, as fast as anybody reads."""

    def __init__(self) -> None:
        self.epoll = Looks()
        self.told = []
        self.screens = Screens(self.epoll, self.told.append)
        self.now = 100.0
        self.slaves = {}

    def add(self, name: str, output: str = os.devnull) -> Pty:
        master, slave, _ = open_pty(80, 24, echoes=False)
        tty.setraw(slave)
        os.set_blocking(slave, False)
        pty = Pty(name, master, CommandFile(os.open(output, os.O_WRONLY | os.O_APPEND)))
        self.slaves[pty] = slave
        self.screens.add(pty)
        return pty

    def look(self, pty: Pty) -> None:
        """Serve those that are ready, this one among them, in no time."""
        ready = dict(self.epoll.poll())
        assert pty.master in ready
        for fd, happened in ready.items():
            self.screens.serve(self.screens.find(fd), happened, self.now)

    def close(self, pty: Pty) -> None:
        self.screens.close(pty)
        os.close(self.slaves.pop(pty))

    def flood(self, pty: Pty) -> None:
        try:
            while os.write(self.slaves[pty], bytes(4096)):
                pass
        except BlockingIOError:
            return

    def flood_into_debt(self, pty: Pty) -> None:
        while pty.master in self.epoll.wanted:
            self.flood(pty)
            self.look(pty)

    def run(self, seconds: float, *flooded: Pty) -> None:
        """As the keeper's loop, which may look again and again at any time."""
        until = self.now + seconds
        while self.now < until:
            for _ in range(3):
                for pty in flooded:
                    self.flood(pty)
                for fd, happened in self.epoll.poll():
                    self.screens.serve(self.screens.find(fd), happened, self.now)
            self.now += TICK_S
            if self.now >= self.screens.wake_at:
                self.screens.resume(self.now)


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    for pty in list(bench.slaves):
        bench.close(pty)
    assert bench.epoll.wanted == {}


def test_a_flood_is_read_at_its_pace_and_no_faster(bench):
    pty = bench.add("flood")
    bench.run(0.5, pty)
    assert RATE_BYTES_S / 4 < pty.output.end < RATE_BYTES_S / 2 + 2 * PASS_BYTES


def test_floods_share_one_pace_in_equal_parts(bench):
    floods = [bench.add(f"flood{number}") for number in range(8)]
    bench.run(0.5, *floods)
    sizes = [pty.output.end for pty in floods]
    assert sum(sizes) < RATE_BYTES_S / 2 + len(floods) * 2 * PASS_BYTES
    assert max(sizes) - min(sizes) <= 3 * PASS_BYTES
    assert min(sizes) > 0


def test_who_writes_little_is_read_at_once_whatever_others_do(bench):
    floods = [bench.add(f"flood{number}") for number in range(8)]
    quiet = bench.add("quiet")
    for number in range(1, 50):
        bench.run(TICK_S, *floods)
        os.write(bench.slaves[quiet], b"x")
        bench.look(quiet)
        assert quiet.output.end == number


def test_one_pass_is_bounded(bench):
    pty = bench.add("flood")
    bench.flood(pty)
    for _ in range(20):
        before = pty.output.end
        bench.look(pty)
        assert 0 < pty.output.end - before <= PASS_BYTES
        bench.flood(pty)
        bench.now += 1


def test_a_terminal_that_no_program_has_open_is_looked_at_now_and_then(bench):
    pty = bench.add("left")
    left = os.dup(bench.slaves[pty])
    path = os.ttyname(left)
    os.close(left)
    os.close(bench.slaves[pty])
    bench.look(pty)
    assert bench.epoll.poll() == []
    bench.slaves[pty] = os.open(path, os.O_RDWR | os.O_NOCTTY)
    os.write(bench.slaves[pty], b"x")
    bench.now = bench.screens.wake_at
    bench.screens.resume(bench.now)
    bench.look(pty)
    assert pty.output.end == 1
    assert pty.master in bench.epoll.wanted


@pytest.mark.parametrize("is_in_debt", [True, False])
def test_a_new_terminal_owes_nothing_for_the_one_that_had_its_descriptor(bench, is_in_debt):
    first = bench.add("first")
    if is_in_debt:
        bench.flood_into_debt(first)
    bench.close(first)
    second = bench.add("second")
    assert second.master == first.master
    os.write(bench.slaves[second], b"x")
    bench.look(second)
    assert second.output.end == 1
    bench.screens.resume(bench.now)
    assert bench.screens.wake_at == float("inf")


def test_a_terminal_whose_output_finds_no_room_is_looked_at_again_later(bench, tmp_path):
    (tmp_path / "output").touch()
    pty = bench.add("stuck", str(tmp_path / "output"))
    os.write(bench.slaves[pty], b"some and more")
    with files_of_at_most(4):
        bench.look(pty)
        os.write(bench.slaves[pty], b" and more")
        assert bench.epoll.poll() == []
    bench.now = bench.screens.wake_at
    bench.screens.resume(bench.now)
    bench.look(pty)
    assert (tmp_path / "output").read_text() == "some and more and more"


def test_keys_reach_a_program_that_is_not_read(bench):
    pty = bench.add("flood")
    bench.flood_into_debt(pty)
    bench.screens.handle(pty, typed("flood", b"\x03"))
    assert os.read(bench.slaves[pty], 9) == b"\x03"
    assert bench.told[-1] == {"event": "taken", "id": "flood", "writer": "a", "offset": 1}
    assert bench.epoll.wanted == {}


def test_nobody_is_told_what_he_no_longer_watches(bench):
    pty = bench.add("quiet")
    bench.screens.handle(pty, Watch({"id": "quiet", "offset": 0}))
    bench.screens.unwatch()
    os.write(bench.slaves[pty], b"x")
    bench.look(pty)
    assert pty.output.end == 1
    assert bench.told == []


def typed(terminal_id: str, data: bytes) -> Input:
    text = base64.b64encode(data).decode()
    return Input({"id": terminal_id, "writer": "a", "offset": 0, "data": text})
