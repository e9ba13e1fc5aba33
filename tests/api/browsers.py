"""A page in a browser, as far as a hub can tell: it sends its origin, and keeps a cookie."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.api.terminal_site import BOUND, Refusal, Site, answer_on

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


@dataclass
class Browser:
    """One that shows a page of this origin, and asks the hub by this name."""

    site: Site
    origin: str = ""
    host: str = ""
    cookie: str = ""  # its name and value, as the hub has set it
    more: dict[str, str] = field(default_factory=dict)  # headers of every request

    def __post_init__(self) -> None:
        self.host = self.host or self.site.host
        self.origin = self.origin or f"http://{self.host}"

    async def ask(
        self, method: str, path: str, body: object = None, **headers: str | None
    ) -> Refusal:
        """The answer to one request; a header of None is not sent."""
        with trio.fail_after(BOUND):
            async with self.opened(method, path, body, **headers) as stream:
                answer = await answer_on(stream)
        if "set-cookie" in answer.headers:
            self.cookie = answer.headers["set-cookie"].partition(";")[0]
        return answer

    @asynccontextmanager
    async def opened(
        self, method: str, path: str, body: object = None, **headers: str | None
    ) -> AsyncIterator[trio.SocketStream]:
        """A connection on which one request was sent."""
        content = b"" if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        usual = {"Host": self.host, "Cookie": self.cookie, "User-Agent": FIREFOX, **self.more}
        if method != "GET":
            usual |= {"Origin": self.origin, "Content-Type": "application/json"}
            usual["Content-Length"] = str(len(content))
        lines = [f"{name}: {value}" for name, value in (usual | named).items() if value]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode()
        async with await trio.open_tcp_stream("127.0.0.1", self.site.port) as stream:
            await stream.send_all(head + content)
            yield stream

    async def data(self, method: str, path: str, body: object = None) -> Any:
        """The `data` of an answer that must be a success."""
        answer = await self.ask(method, path, body)
        assert answer.status in (200, 201), answer
        return json.loads(answer.body)["data"]
