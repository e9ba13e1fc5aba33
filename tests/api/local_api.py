"""The API of a hub in this process, whose clock a test turns: no listener, no framework."""

import re
from urllib.parse import unquote

import msgspec

from cmdop_appliance.api import cmdop as cmdop  # fills the table
from cmdop_appliance.api import hapi as hapi
from cmdop_appliance.api.exchange import Request, respond
from cmdop_appliance.api.registry import CMDOP, HAPI, JSON, ROUTES, Route
from cmdop_appliance.auth import new_key, secret_hash
from cmdop_appliance.hub.hub import Hub
from cmdop_appliance.store import api_keys
from tests.support import records
from tests.support.appliance import Answer


class LocalApi:
    """The API as one key sees it."""

    def __init__(self, hub: Hub, secret: str) -> None:
        self.hub = hub
        self.secret = secret

    @classmethod
    async def of(cls, hub: Hub, *scopes: str, **fields) -> "LocalApi":
        """With a new key, of an admin if no scopes are named."""
        secret = new_key()
        key = records.api_key(scopes=[*scopes] or ["admin"], **fields)
        await hub.store.run(api_keys.insert, key, secret_hash(secret))
        return cls(hub, secret)

    async def call(
        self, method: str, path: str, body: object = None, *, once: str | None = None
    ) -> Answer:
        """One request; `path` is one of HAPI's, or below /api/v1. `once`: its Idempotency-Key."""
        path, _, query = path.partition("?")
        route, parameters = _route(method, path)
        headers = {"authorization": f"Bearer {self.secret}", "content-type": JSON}
        if once is not None:
            headers["idempotency-key"] = once

        async def read() -> bytes:
            return b"" if body is None else msgspec.json.encode(body)

        request = Request(method, path, query, headers, "127.0.0.1", read_body=read)
        answer = await respond(self.hub, route, parameters, request)
        assert isinstance(answer.body, bytes)
        return Answer(answer.status, answer.headers, answer.body)

    async def get(self, path: str):
        return (await self.call("GET", path)).data

    async def post(self, path: str, **fields: object):
        return (await self.call("POST", path, fields)).data

    async def patch(self, path: str, **fields: object):
        return (await self.call("PATCH", path, fields)).data


def _route(method: str, path: str) -> tuple[Route, dict[str, str]]:
    """The route of a path, and its parameters; one that has none goes before."""
    plane = HAPI if path.startswith("/api/") else CMDOP
    for route in sorted(ROUTES, key=lambda each: len(each.parameters)):
        match = re.fullmatch(route.path_with("(?P<{}>[^/]+)"), path)
        if route.plane is plane and route.method == method and match is not None:
            return route, {name: unquote(value) for name, value in match.groupdict().items()}
    raise LookupError(f"no route for {method} {path}")
