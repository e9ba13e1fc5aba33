"""What the hub's process does before anybody has their trade."""

import socket
import struct

import pytest
import trio

from cmdop_appliance.config import WebhooksConfig
from cmdop_appliance.errors import StartupError
from cmdop_appliance.front import PeekedStream, open_listeners
from cmdop_appliance.server import _sender, _serve_link

ABORT = struct.pack("ii", 1, 0)  # SO_LINGER, socket(7): close() sends RST


async def test_an_agent_that_has_gone_when_its_turn_comes_is_no_failure():
    (listener,) = await open_listeners("127.0.0.1", 0)
    async with listener:
        client = await trio.open_tcp_stream(*listener.socket.getsockname())
        async with await listener.accept() as stream:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            await client.aclose()
            await trio.lowlevel.wait_readable(stream.socket)
            await _serve_link(None, PeekedStream(stream, b"GET /agent HTTP/1.1\r\n\r\n"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"allow_networks": ["169.254.169.254"]}, "allow_networks: 169.254.169.254/32 is a cloud"),
        ({"ca_file": "/no/such.pem"}, "ca_file: /no/such.pem"),
    ],
)
def test_a_hub_does_not_start_with_receivers_that_can_never_be(settings, words):
    with pytest.raises(StartupError) as caught:
        _sender(WebhooksConfig(**settings))
    assert f"[webhooks] {words}" in caught.value.message
