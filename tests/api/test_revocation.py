"""A key that is revoked gets nothing more, however long an answer takes to be given."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from cmdop_appliance.api import cmdop as cmdop  # fills the table
from cmdop_appliance.api.exchange import Call, Request, Response, respond
from cmdop_appliance.api.registry import ROUTES
from cmdop_appliance.auth import NOBODY, Scope, new_key, secret_hash
from cmdop_appliance.errors import Unauthorized
from cmdop_appliance.store import api_keys
from tests.support import records
from tests.support.live_hub import LiveHub, live_hub
from tests.support.records import REACH


class Asked:
    """One request with a key of its own, to whatever route a test makes up."""

    def __init__(self, live: LiveHub) -> None:
        self.hub = live.hub
        self.key = records.api_key()

    async def answer(self, handler) -> Response:
        secret, admin = new_key(), records.api_key()  # the last admin's key cannot be revoked
        await self.hub.store.run(api_keys.insert, admin, "another")
        await self.hub.store.run(api_keys.insert, self.key, secret_hash(secret))
        route = replace(
            ROUTES[0], handler=handler, scopes=(Scope.ANY_KEY,), query=None, has_etag=False
        )
        headers = {"authorization": f"Bearer {secret}"}
        request = Request("GET", "/v1/x", "", headers, "127.0.0.1", read_body=trio.sleep_forever)
        return await respond(self.hub, route, {}, request)

    async def revoke(self) -> None:
        await self.hub.store.run(api_keys.delete, REACH, self.key.id)
        self.hub.callers.forget()


async def test_a_streamed_answer_breaks_off_within_a_second(tmp_path, autojump_clock: MockClock):
    async with live_hub(tmp_path) as live:
        asked = Asked(live)
        closed = []

        async def pieces():
            try:
                for number in range(10):
                    yield b"%d" % number
                    await trio.sleep(1)  # a reader that takes its time
            finally:
                closed.append(True)

        async def handler(_: Call) -> Response:
            return Response(200, {}, pieces())

        seen = []
        async for piece in (await asked.answer(handler)).body:
            seen.append(piece)
            if piece == b"3":
                await asked.revoke()
        assert seen == [b"0", b"1", b"2", b"3"]
        assert closed == [True]


async def test_a_stream_of_a_good_key_is_whole(tmp_path, autojump_clock: MockClock):
    async with live_hub(tmp_path) as live:

        async def pieces():
            for _ in range(5):
                yield b"x"
                await trio.sleep(1)

        async def handler(_: Call) -> Response:
            return Response(200, {}, pieces())

        body = (await Asked(live).answer(handler)).body
        assert [piece async for piece in body] == [b"x"] * 5


async def test_who_waited_with_a_key_that_was_revoked_is_told_nothing(
    tmp_path, autojump_clock: MockClock
):
    async with live_hub(tmp_path) as live:
        asked = Asked(live)

        async def handler(_: Call) -> Response:
            await trio.sleep(5)
            await asked.revoke()
            return Response(200, {}, b"the output")

        answer = await asked.answer(handler)
        assert answer.status == 401
        assert b"the output" not in answer.body


async def test_looking_again_at_a_key_that_was_revoked_locks_nobody_out(tmp_path):
    async with live_hub(tmp_path) as live:
        asked = Asked(live)
        caller = replace(NOBODY, key_id=asked.key.id)
        for _ in range(2 * live.hub.config.auth.attempts):
            with pytest.raises(Unauthorized):
                await live.hub.callers.require_still_good(caller)

        async def handler(_: Call) -> Response:
            return Response(200, {}, b"good")

        assert (await asked.answer(handler)).status == 200
