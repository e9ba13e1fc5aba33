"""What only the asynchronous client does, on both loops."""

import threading
from contextlib import aclosing, asynccontextmanager

import anyio.abc
import anyio.to_thread
import pytest
from websockets.frames import Opcode
from websockets.server import ServerProtocol

from cmdop_appliance.sdk import AsyncClient, part_files
from cmdop_appliance.sdk.aio import websocket
from cmdop_appliance.sdk.aio.websocket import WebSocket
from cmdop_appliance.sdk.terminal_events import HubAway
from cmdop_appliance.sdk.websocket_terms import PROTOCOL, Closed
from tests.sdk.scripted_hub import Answer, answer, output, scripted_hub
from tests.sdk.scripted_machine import SMALL, Machine
from tests.support.appliance import wait_for

KEY = "cmdop_apikey_0123456789"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(params=["trio", "asyncio"])
def run(request):
    """Run this function in a loop of this kind."""
    return lambda main: anyio.run(main, backend=request.param)


def test_calls_at_once_have_a_connection_each_of_which_some_are_kept(run):
    together = threading.Barrier(20, timeout=20)

    def script(_):
        together.wait()
        return answer({})

    async def main():
        async with AsyncClient(hub.url, KEY) as client:
            for _ in range(2):
                async with anyio.create_task_group() as calls:
                    for _ in range(20):
                        calls.start_soon(client.me)
            await _until_open(hub, 8)
        await _until_open(hub, 0)

    with scripted_hub(script) as hub:
        run(main)
    assert hub.connections == 20 + 12


def test_a_call_that_is_cancelled_leaves_no_answer_to_the_next(run):
    asked, cancelled = threading.Event(), threading.Event()

    def script(request):
        if request.path.endswith("/late"):
            asked.set()
            assert cancelled.wait(20)
        return answer({"name": request.path.rpartition("/")[2]})

    async def main():
        async with AsyncClient(hub.url, KEY) as client:
            async with anyio.create_task_group() as calls:
                calls.start_soon(client.machines.get, "late")
                await anyio.to_thread.run_sync(asked.wait, 20)
                calls.cancel_scope.cancel()
            cancelled.set()
            assert (await client.machines.get("next"))["name"] == "next"
            await _until_open(hub, 1)

    with scripted_hub(script) as hub:
        run(main)


def test_a_stream_that_is_left_hangs_up(run):
    event = output("stdout", b"abc", "3-0")
    begun = Answer(HEAD + b"%x\r\n%b\r\n" % (len(event), event))

    async def main():
        async with AsyncClient(hub.url, KEY) as client:
            async with aclosing(client.commands.stream("cmd_1")) as items:
                assert (await anext(items)).data == b"abc"
                assert hub.open_connections == 1
            await _until_open(hub, 0)

    with scripted_hub(lambda _: begun) as hub:
        run(main)


def test_a_slow_disk_holds_up_only_who_uses_it(run, here, monkeypatch):
    begun, written = threading.Event(), threading.Event()
    append = part_files.PartFile.append

    def slow(part, piece):
        begun.set()
        assert written.wait(20), "the loop stands still"
        append(part, piece)

    async def main():
        async with AsyncClient(hub.url, KEY) as client, anyio.create_task_group() as calls:
            calls.start_soon(client.files.download, "mach_1", "/f", here)
            await anyio.to_thread.run_sync(begun.wait, 20)
            await client.files.stat("mach_1", "/f")
            written.set()

    monkeypatch.setattr(part_files.PartFile, "append", slow)
    with scripted_hub(Machine(SMALL)) as hub:
        run(main)
    assert here.read_bytes() == SMALL


def test_a_hub_that_does_not_answer_a_ping_is_away(run, monkeypatch):
    monkeypatch.setattr(websocket, "PING_S", 0.05)
    monkeypatch.setattr(websocket, "PONG_S", 0.05)
    pinged = []

    async def hub(stream):
        """Open a websocket, and say nothing more."""
        protocol = ServerProtocol(subprotocols=[PROTOCOL])
        async with stream:
            async for data in stream:
                protocol.receive_data(data)
                for event in protocol.events_received():
                    if not hasattr(event, "opcode"):
                        protocol.send_response(protocol.accept(event))
                        await stream.send(b"".join(protocol.data_to_send()))
                    elif event.opcode is Opcode.PING:
                        pinged.append(event)

    async def main():
        async with (
            _serving(hub) as where,
            AsyncClient(f"http://{where}", KEY) as client,
            client.terminals.attach("term_1") as viewer,
            aclosing(viewer.events()) as events,
        ):
            with anyio.fail_after(20):
                assert await anext(events) == HubAway()

    run(main)
    assert len(pinged) == 1


def test_a_websocket_of_which_half_a_message_was_sent_is_closed(run):
    async def hub(stream):
        """Open a websocket, and read nothing of what it brings."""
        protocol = ServerProtocol(subprotocols=[PROTOCOL])
        async with stream:
            protocol.receive_data(await stream.receive())
            protocol.send_response(protocol.accept(*protocol.events_received()))
            await stream.send(b"".join(protocol.data_to_send()))
            await anyio.sleep_forever()

    async def main():
        async with _serving(hub) as where:
            socket = await WebSocket.open(f"ws://{where}/", {})
            with anyio.move_on_after(0.05):
                await socket.send(bytes(64 << 20))
            with pytest.raises(Closed):
                await socket.receive(20)
            await socket.aclose()

    run(main)


@asynccontextmanager
async def _serving(hub):
    """Where `hub` is called with each connection."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as serving,
    ):
        serving.start_soon(listener.serve, hub)
        yield f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        serving.cancel_scope.cancel()


async def _until_open(hub, connections):
    await anyio.to_thread.run_sync(
        wait_for, lambda: hub.open_connections == connections, f"{connections} connections"
    )
