"""A stream that seldom lets others run keeps to what a stream of Trio's promises."""

import socket

import pytest
import trio
import trio.testing

from cmdop_appliance.sockets import QuickStream


@pytest.fixture
async def pair():
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        async with QuickStream(_stream(ours)) as quick:
            yield quick, theirs


def _stream(sock: socket.socket) -> trio.SocketStream:
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def _received(sock: socket.socket, size: int, piece: int) -> bytearray:
    """So many bytes, at most `piece` of them at a time."""
    read = bytearray()
    while len(read) < size:
        await trio.lowlevel.wait_readable(sock)
        read += sock.recv(piece)
    return read


async def test_all_is_sent_however_little_is_taken_at_a_time(pair):
    quick, theirs = pair
    data = bytes(range(256)) * 8192
    async with trio.open_nursery() as nursery:
        nursery.start_soon(quick.send_all, data)
        read = await _received(theirs, len(data), 10_000)
    assert read == data


async def test_nobody_sends_into_what_another_is_sending(pair):
    quick, theirs = pair
    data = b"a" * 2_000_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(quick.send_all, data)
        await trio.testing.wait_all_tasks_blocked()
        theirs.recv(1000)  # there is room again
        for _ in range(2):
            with pytest.raises(trio.BusyResourceError):
                await quick.send_all(b"b")
        read = await _received(theirs, len(data) - 1000, 100_000)
    assert b"a" * 1000 + read == data


async def test_who_sends_to_a_ready_reader_lets_others_run(pair):
    quick, theirs = pair
    sent = 0

    async def send():
        nonlocal sent
        while True:
            await quick.send_all(b"x")
            theirs.recv(1)
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while sent < 100:
            await trio.lowlevel.checkpoint()  # it goes on only if we are let
        nursery.cancel_scope.cancel()


async def test_who_reads_from_a_ready_sender_lets_others_run(pair):
    quick, theirs = pair
    received = 0

    async def receive():
        nonlocal received
        while True:
            theirs.send(b"x")
            received += len(await quick.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        while received < 100:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def test_what_comes_later_is_waited_for(pair):
    quick, theirs = pair
    got = []

    async def receive():
        got.append(await quick.receive_some(3))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        theirs.send(b"later")
    assert got == [b"lat"]
    theirs.close()
    assert await quick.receive_some() == b"er"
    assert await quick.receive_some() == b""


async def test_a_peer_that_has_gone_is_told_as_broken(pair):
    quick, theirs = pair
    theirs.close()
    with pytest.raises(trio.BrokenResourceError):
        await quick.send_all(b"x")


async def test_a_closed_stream_says_so_to_whoever_comes_and_whoever_waits(pair):
    quick, _ = pair

    async def receive():
        with pytest.raises(trio.ClosedResourceError):
            await quick.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await quick.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await quick.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await quick.send_all(b"x")
