"""What the API makes of an output that it cannot read, or whose end it was not told."""

import json
import shutil

import trio
from trio.testing import MockClock

from cmdop_appliance.api.cmdop.commands import with_output
from cmdop_appliance.api.exchange import Call, Request
from cmdop_appliance.api.streams import command_events
from cmdop_appliance.auth import new_key, secret_hash
from cmdop_appliance.hub.commands import Commands
from cmdop_appliance.protocol.frames import Output
from cmdop_appliance.protocol.messages import Acknowledge, Dispatch, Spec
from cmdop_appliance.store import api_keys
from tests.support import records
from tests.support.live_hub import BOUND, CALLER, Link, LiveHub, ScriptedAgent, finished, live_hub

LARGE = b"x" * 9000  # a file, not a row


async def started(live: LiveHub, agent: ScriptedAgent) -> tuple[Link, str]:
    """The link of a new machine, and the id of a command that was sent over it."""
    link = await agent.join()
    machine = await agent.machine()
    command = await live.hub.commands.start(CALLER, machine.id, "true", Spec(argv=["true"]))
    await link.expect(Dispatch)
    return link, command.id


async def asked(live: LiveHub) -> Call:
    """A request with a key that the hub knows."""
    secret, key = new_key(), records.api_key()
    await live.hub.store.run(api_keys.insert, key, secret_hash(secret))
    headers = {"authorization": f"Bearer {secret}"}
    request = Request("GET", "/", "", headers, "127.0.0.1", read_body=trio.sleep_forever)
    caller = await live.hub.callers.identify(headers["authorization"], request.peer)
    return Call(live.hub, caller, {}, None, None, request, None)


async def test_an_output_that_cannot_be_read_is_left_out_of_the_record_and_said_to_be(
    tmp_path, caplog
):
    async with live_hub(tmp_path) as live:
        link, command_id = await started(live, ScriptedAgent(live))
        await link.say(Output(command_id, "stdout", 0, LARGE))
        await link.say(Output(command_id, "stderr", 0, b"small"))
        await link.say(finished(command_id, LARGE, b"small"))
        await link.expect(Acknowledge)
        shutil.rmtree(live.hub.outputs._folder)
        view = await with_output(live.hub, await live.command(command_id))
        assert (view.status, view.stdout, view.stdout_bytes) == ("completed", "", len(LARGE))
        assert (view.stdout_truncated, view.stderr, view.stderr_truncated) == (True, "small", False)
        assert "output cannot be read" in caplog.messages


async def test_a_follower_hears_of_an_end_even_if_the_output_still_looks_live(
    tmp_path, autojump_clock: MockClock
):
    async with live_hub(tmp_path) as live:
        agent = ScriptedAgent(live)
        link, command_id = await started(live, agent)
        command = await live.command(command_id)
        commands: Commands = live.hub.commands
        seen = {"stdout": 0, "stderr": 0}

        async def describe(command) -> object:
            return command.status

        events = command_events(await asked(live), command, seen, describe)
        with trio.fail_after(BOUND):
            assert await anext(events) == b": keep-alive\n\n"
            await commands.remove_machine(CALLER, (await agent.machine()).id)
            await link.over.wait()
            live.hub.outputs.begin(command_id)  # left behind
            event = b": keep-alive\n\n"
            while event == b": keep-alive\n\n":
                event = await anext(events)
        await events.aclose()
        assert event.startswith(b"event: end\n")
        assert json.loads(event.split(b"data: ")[1]) == "lost"
