"""HTTP for the asynchronous client: kept-alive connections, and one of its own per stream.

Every request may be sent again: GET and DELETE by their nature (RFC 9110, section 9.2.2), a POST
because it carries an Idempotency-Key, by which the hub knows that it has this one already. So a hub
that restarts costs time and nothing else.
"""

import http
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from os import PathLike
from typing import Any, Final, NoReturn

from cmdop_appliance.sdk import envelope
from cmdop_appliance.sdk.aio.connection import Connection, Response
from cmdop_appliance.sdk.aio.patience import STOPPING, Patience, is_passing
from cmdop_appliance.sdk.errors import (
    Away,
    CmdopError,
    Conflict,
    ConnectionFailed,
    NotFound,
    ServerError,
    Silent,
)
from cmdop_appliance.sdk.trust import Trust

# How long a hub that says nothing, or is away, is waited for: it stops within 5 s (contract, 11)
# and is ready within 2 s of its start, and a small machine reboots in a minute.
TIMEOUT_S: Final = 60.0
# What a proxy says of a hub that does not answer it: whether that heard of a request is unknown.
_GATEWAY: Final = frozenset({http.HTTPStatus.BAD_GATEWAY, http.HTTPStatus.GATEWAY_TIMEOUT})
_IDLE_CONNECTIONS: Final = 8  # that are kept for the next requests


class Transport:
    """Sends requests to one hub. Not for use by two threads at once."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout_s: float,
        ca_file: str | PathLike[str] | None = None,
        certificate: str | None = None,
    ) -> None:
        """`base_url`: with or without the /api/v1 at its end. The others: see `AsyncClient`.

        Raises:
            CmdopError: the URL or the key cannot be one.
        """
        self._address = envelope.address_of(base_url, ca_file, certificate)
        self._credentials = envelope.bearer_of(api_key)
        self._timeout_s = timeout_s
        self._idle: list[Connection] = []
        self._has_met = False  # whoever was never there does not come back, but is a wrong address

    def copy(self) -> "Transport":
        """Another one to the same hub, for another thread."""
        twin = object.__new__(Transport)
        vars(twin).update(vars(self), _idle=[])
        return twin

    async def aclose(self) -> None:
        """Close the kept connections; the next request opens another."""
        while self._idle:
            await self._idle.pop().aclose()

    def websocket(self, path: str) -> tuple[str, dict[str, str], Trust]:
        """Where a websocket is opened, the headers that go with it, and who is trusted to answer.

        `path`: below /api/v1.
        """
        return self._address.websocket(path), self._credentials, self._address.trust

    def patience(self) -> Patience:
        """As much of it as the client shall have."""
        return Patience(self._timeout_s)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        idempotency_key: str | None = None,
        waits: bool = False,
    ) -> dict[str, Any]:
        """The answer as JSON. `path` is below /api/v1, or begins with /api/ itself.

        A None in `query` or `body` is left out. In the body of a PATCH it is null instead: that
        takes something off.

        A hub that restarts is waited for, and so is a machine whose agent has not found it again.
        `waits`: the answer comes when something has ended, so a long silence only means that the
        hub is asked whether it is still there.

        Raises:
            APIError: the hub refused.
            ConnectionFailed, UnexpectedAnswer
            CmdopError: the idempotency key cannot be one.
        """
        headers = {}
        if method == "POST":
            headers = {"Idempotency-Key": envelope.idempotency_key(idempotency_key)}
        patience = self.patience()
        unknown: ConnectionFailed | None = None  # an attempt may have done what was asked
        passing: CmdopError | None = None  # why the last one is not the last
        while True:
            try:
                return await self._attempt(method, path, query, body, headers)
            except Away as exc:
                passing, unknown = exc, exc if exc.sent else unknown
            except Silent as exc:
                if not waits:
                    raise
                passing = unknown = exc
                await self.request("GET", "/auth/me")
                continue
            except ServerError as exc:
                if exc.status != STOPPING:
                    _raise_failed(exc, unknown)
                passing = unknown or exc
            except Conflict as exc:  # which tells that no attempt before was carried out
                if not is_passing(exc, was_there=passing is not None):
                    raise
                passing, unknown = exc, None
            except NotFound:
                if unknown is None or method != "DELETE":
                    raise
                return {}  # an attempt before took it away
            await patience.pause(passing)

    async def _attempt(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None,
        body: Mapping[str, object] | None,
        headers: Mapping[str, str],
    ) -> dict[str, Any]:
        connection = self._idle.pop() if self._idle else self._connection()
        try:
            if connection.is_stale():
                await connection.aclose()
            await self._send(connection, method, path, query, body, headers)
            answer = await self.read(await connection.answer())
        except BaseException:  # half an answer may still be in the connection
            await connection.aclose()
            raise
        if len(self._idle) < _IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            await connection.aclose()
        return answer

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        idle_timeout_s: float,
        headers: Mapping[str, str],
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """GET `path` on a connection of its own; gives the pieces of the body as they arrive.

        Raises:
            APIError: the hub refused.
            ConnectionFailed: also when nothing arrives for `idle_timeout_s`.
        """
        connection = self._connection(idle_timeout_s)
        try:
            await self._send(connection, "GET", path, query, None, headers)
            response = await connection.answer()
            if response.status != http.HTTPStatus.OK:
                await self.read(response)
            yield response.pieces()
        finally:
            await connection.aclose()

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        file: AsyncIterable[memoryview] | None = None,
    ) -> AsyncIterator[Response]:
        """One attempt on a connection of its own, however long it takes; gives the answer's head.

        `file`: what is sent, as long as `headers` say. A hub that answers before it has all of it
        is sent no more. One that is silent is asked, over another connection, whether it is still
        there.

        Raises:
            ConnectionFailed
        """
        connection = self._connection()
        try:
            await self._send(connection, method, path, query, body, headers or {})
            await connection.send_file(file, self._ask_for_life)
            yield await connection.answer()
        finally:
            await connection.aclose()

    async def _ask_for_life(self) -> None:
        await self._attempt("GET", "/auth/me", None, None, {})

    async def long_request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        was_there: bool = False,
    ) -> dict[str, Any]:
        """As `request`, of what may take as long as all of a disk does: it is not asked for twice.

        `was_there`: see `is_passing`.
        """
        headers = {"Idempotency-Key": envelope.idempotency_key(None)} if method == "POST" else {}
        patience = self.patience()
        failed: CmdopError | None = None
        while True:
            try:
                async with self.exchange(
                    method, path, query=query, headers=headers, body=body
                ) as response:
                    return await self.read(response)
            except NotFound as exc:
                if method == "DELETE" and failed is not None and exc.code == "file_not_found":
                    return {}  # an attempt before took it away
                raise
            except CmdopError as exc:
                if not is_passing(exc, was_there=was_there or failed is not None):
                    raise
                failed = exc
            await patience.pause(failed)

    def _connection(self, silence_s: float | None = None) -> Connection:
        return Connection(self._address, self._timeout_s, silence_s or self._timeout_s)

    async def _send(
        self,
        connection: Connection,
        method: str,
        path: str,
        query: Mapping[str, object] | None,
        body: Mapping[str, object] | None,
        headers: Mapping[str, str],
    ) -> None:
        try:
            await connection.open()
        except Away as exc:
            if self._has_met:
                raise
            raise ConnectionFailed(str(exc)) from exc
        self._has_met = True
        sent = {**self._credentials, **headers}
        payload = None
        if body is not None:
            payload = envelope.json_of(method, body)
            sent["Content-Type"] = "application/json"
        await connection.send(method, self._address.target(path, query), sent, payload)

    async def read(self, response: Response) -> dict[str, Any]:
        """The answer as JSON.

        Raises:
            APIError: it is a refusal.
            ConnectionFailed, UnexpectedAnswer
        """
        raw = await response.read()
        if response.status in _GATEWAY:
            raise Away(f"the hub behind {self._address} does not answer (HTTP {response.status})")
        if not raw and not response.header("Content-Length"):
            raise Away(f"the hub at {self._address} broke off its answer")
        return envelope.read_answer(response.status, raw)


def _raise_failed(error: ServerError, unknown: ConnectionFailed | None) -> NoReturn:
    """A failed attempt did nothing, but one before it may have."""
    if unknown is None:
        raise error
    raise ConnectionFailed(f"{unknown}, and failed when it was asked again: {error}") from error
