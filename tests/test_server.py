"""What the hub's process does before anybody has their trade."""

import socket
import struct
import subprocess
import sys

import trio

from cmdop_appliance.front import PeekedStream, open_listeners
from cmdop_appliance.server import _serve_agent, _serve_socket

ABORT = struct.pack("ii", 1, 0)  # SO_LINGER, socket(7): close() sends RST


async def test_an_agent_that_has_gone_when_its_turn_comes_is_no_failure():
    (listener,) = await open_listeners("127.0.0.1", 0)
    async with listener:
        client = await trio.open_tcp_stream(*listener.socket.getsockname())
        async with await listener.accept() as stream:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            await client.aclose()
            await trio.lowlevel.wait_readable(stream.socket)
            await _serve_socket(None, _serve_agent, PeekedStream(stream, b"GET /agent"))


def test_what_only_schedules_and_webhooks_need_is_not_loaded_at_the_start():
    code = (
        "import sys, cmdop_appliance.server; print(*{'croniter', 'httpcore2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"\n"
