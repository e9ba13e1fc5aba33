"""Credit: a sender waits for it, a receiver holds no more than it gave."""

import socket
from contextlib import closing

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cmdop_appliance.errors import RemoteProtocolError
from cmdop_appliance.protocol.frames import Data
from cmdop_appliance.protocol.limits import DATA_BYTES, TRANSFER_BYTES, UNSENT_BYTES
from cmdop_appliance.transfer import Incoming, Outgoing, Room

PIECE = bytes(DATA_BYTES)
MUCH_BYTES = 30_000_000  # more than any socket takes
PATIENCE_S = 10


class Gone(Exception):
    pass


def filled(incoming: Incoming) -> None:
    for _ in range(TRANSFER_BYTES // DATA_BYTES):
        incoming.put(Data(1, incoming.end, PIECE))


async def test_what_arrives_is_taken_in_order_and_then_its_end():
    incoming = Incoming(5)
    incoming.put(Data(1, 5, b"ab"))
    incoming.put(Data(1, 7, b"cd"))
    assert await incoming.take() == b"abcd"
    incoming.finish(9)
    assert await incoming.take() == b""


async def test_whoever_takes_waits_for_data():
    incoming = Incoming(0)
    taken = []

    async def take() -> None:
        taken.append(await incoming.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        assert not taken
        incoming.put(Data(1, 0, b"x"))
    assert taken == [b"x"]


@pytest.mark.parametrize("offset", [0, 4, 6])
def test_data_that_leaves_a_gap_or_repeats_is_a_broken_protocol(offset):
    incoming = Incoming(5)
    with pytest.raises(RemoteProtocolError, match="stands at 5"):
        incoming.put(Data(1, offset, b"x"))


def test_a_sender_without_credit_is_a_broken_protocol():
    incoming = Incoming(0)
    filled(incoming)
    with pytest.raises(RemoteProtocolError):
        incoming.put(Data(1, TRANSFER_BYTES, b"x"))


@pytest.mark.parametrize("end", [0, 2, 99])
def test_an_end_elsewhere_than_behind_the_last_byte_is_a_broken_protocol(end):
    incoming = Incoming(0)
    incoming.put(Data(1, 0, b"x"))
    with pytest.raises(RemoteProtocolError):
        incoming.finish(end)


@pytest.mark.parametrize("again", ["put", "finish"])
def test_nothing_comes_after_the_end(again):
    incoming = Incoming(0)
    incoming.finish(0)
    with pytest.raises(RemoteProtocolError):
        incoming.put(Data(1, 0, b"x")) if again == "put" else incoming.finish(0)


async def test_credit_comes_anew_with_what_is_taken_and_not_before():
    incoming = Incoming(0)
    filled(incoming)
    assert incoming.grant() is None
    await incoming.take()
    assert incoming.grant() == 2 * TRANSFER_BYTES
    assert incoming.grant() is None
    incoming.put(Data(1, TRANSFER_BYTES, b"x"))


async def test_a_little_room_is_not_worth_a_message():
    incoming = Incoming(0)
    incoming.put(Data(1, 0, b"x"))
    await incoming.take()
    assert incoming.grant() is None


async def test_a_file_that_has_ended_needs_no_credit():
    incoming = Incoming(0)
    filled(incoming)
    incoming.finish(TRANSFER_BYTES)
    await incoming.take()
    assert incoming.grant() is None


async def test_a_failure_wakes_whoever_takes_also_before_what_is_held():
    incoming = Incoming(0)
    incoming.put(Data(1, 0, b"x"))
    incoming.fail(Gone())
    with pytest.raises(Gone):
        await incoming.take()


async def test_a_sender_waits_when_its_credit_is_used_up():
    outgoing = Outgoing(7)
    assert await outgoing.wait_room() == TRANSFER_BYTES
    outgoing.offset += TRANSFER_BYTES
    rooms = []

    async def wait() -> None:
        rooms.append(await outgoing.wait_room())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not rooms
        outgoing.allow(7 + TRANSFER_BYTES + 3)
    assert rooms == [3]


async def test_credit_once_given_is_not_taken_back():
    outgoing = Outgoing(0)
    outgoing.allow(5)
    assert await outgoing.wait_room() == TRANSFER_BYTES


async def test_a_failure_wakes_whoever_waits_for_credit():
    outgoing = Outgoing(0)
    outgoing.offset += TRANSFER_BYTES
    with pytest.RaisesGroup(Gone):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outgoing.wait_room)
            await wait_all_tasks_blocked()
            outgoing.fail(Gone())


async def test_a_socket_with_much_unsent_has_no_room_and_whoever_sends_is_not_in_the_way():
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await trio.testing.open_stream_to_socket_listener(listeners[0])
    server = await listeners[0].accept()
    async with listeners[0], client, server:
        with closing(Room(client.socket)) as room, trio.fail_after(PATIENCE_S):
            option = client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
            assert option == UNSENT_BYTES
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, bytes(MUCH_BYTES))
                await wait_all_tasks_blocked()
                with trio.move_on_after(0.1) as waited:
                    await room.wait()
                assert waited.cancelled_caught
                nursery.start_soon(room.wait)
                received = 0
                while received < MUCH_BYTES:
                    received += len(await server.receive_some())
            await room.wait()


async def test_whoever_waits_for_room_hears_that_there_will_be_none():
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await trio.testing.open_stream_to_socket_listener(listeners[0])
    server = await listeners[0].accept()
    async with listeners[0], client, server:
        room = Room(client.socket)
        with pytest.RaisesGroup(trio.ClosedResourceError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, bytes(MUCH_BYTES))
                await wait_all_tasks_blocked()
                nursery.start_soon(room.wait)
                await wait_all_tasks_blocked()
                room.close()
                room.close()
        with pytest.raises(trio.ClosedResourceError):
            await room.wait()
