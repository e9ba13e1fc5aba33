"""Receivers of webhooks as real listeners, good and bad ones, and a record of every dial."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from cmdop_appliance.addresses import Networks
from cmdop_appliance.webhooks.sending import Sender

Behave = Callable[[trio.abc.Stream], Awaitable[None]]
_TLS = ssl.create_default_context()  # once: it reads all of the system's authorities


@dataclass
class Receiver:
    """A listener on a loopback address, and what came to it."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    gone: trio.Event = field(default_factory=trio.Event)  # the other side closed


@asynccontextmanager
async def receiver(
    behave: Behave, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Reads a request from each connection, then does what it does, then waits for the end."""
    listeners = await trio.open_tcp_listeners(0, host=host)
    mine = Receiver(listeners[0].socket.getsockname()[1])

    async def serve(stream: trio.abc.Stream) -> None:
        mine.connections += 1
        if tls is not None:
            stream = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                mine.requests.append(await read_request(stream))
                await behave(stream)
                while await stream.receive_some(65536):
                    pass
        mine.gone.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield mine
        nursery.cancel_scope.cancel()


async def read_request(stream: trio.abc.Stream) -> bytes:
    """Head and body of one request."""
    got = bytearray()
    while b"\r\n\r\n" not in got:
        got += await some(stream)
    head, _, body = bytes(got).partition(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += await some(stream)
    return head + b"\r\n\r\n" + body


async def some(stream: trio.abc.Stream) -> bytes:
    """What comes next; an end is none."""
    got = await stream.receive_some(65536)
    if not got:
        raise trio.BrokenResourceError
    return bytes(got)


def saying(*parts: bytes) -> Behave:
    """A receiver that answers this."""

    async def behave(stream: trio.abc.Stream) -> None:
        for part in parts:
            await stream.send_all(part)

    return behave


def answering(status: int, body: bytes = b"", **headers: str) -> Behave:
    """A receiver that answers as it should."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return saying("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


@dataclass
class Dials:
    """Every address that any socket of Trio was told to connect to."""

    seen: list[str] = field(default_factory=list)
    # Where an address leads instead: a port of 127.0.0.1, or nowhere, ever.
    leads: dict[str, int | None] = field(default_factory=dict)


class Names:
    """A name server: gives each time the next of its answers, then the last again and again."""

    def __init__(self, **answers: list[list[str] | OSError]) -> None:
        self.answers = {name.replace("_", "."): given for name, given in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        answers = self.answers[host.removesuffix(".")]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


def sender(*allowed: str, **settings) -> Sender:
    """One that may dial public addresses, and of the others those in these networks."""
    return Sender(Networks(allowed), **{"tls": _TLS, "resolve": Names()} | settings)
