"""A hub's pages, in this process and over a real socket, as browsers see them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from cmdop_appliance.api.app import make_app
from cmdop_appliance.api.guard import HttpServer
from cmdop_appliance.config import ServerConfig
from cmdop_appliance.front import PeekedStream
from tests.support.appliance import Answer, Api
from tests.support.live_hub import live_hub


@dataclass(frozen=True, slots=True)
class Site:
    """The address of a hub."""

    url: str

    async def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """An answer to somebody without a key; header names are written with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        call = partial(Api(self.url, "").call, method, path, headers=named, prefix="")
        return await trio.to_thread.run_sync(call)


@asynccontextmanager
async def open_site(place: Path, public_url: str = "") -> AsyncIterator[Site]:
    """A hub that keeps its data in `place`."""
    server = ServerConfig(data_dir=str(place), public_url=public_url)
    async with live_hub(place, server=server) as live, trio.open_nursery() as nursery:
        http = HttpServer(make_app(live.hub))

        async def serve(stream: trio.SocketStream) -> None:
            await http.serve(PeekedStream(stream, b""))

        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield Site(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
        nursery.cancel_scope.cancel()
