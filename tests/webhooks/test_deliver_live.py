"""What happens on machines reaches real receivers, which check it with the reference library."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from cmdop_appliance.addresses import Networks
from cmdop_appliance.model import Delivery, Webhook
from cmdop_appliance.protocol.messages import Dispatch, Started
from cmdop_appliance.store import deliveries, outbox, webhooks
from cmdop_appliance.store.listing import Paging
from cmdop_appliance.webhooks.backoff import RETRY_S
from cmdop_appliance.webhooks.deliver import Deliverer
from cmdop_appliance.webhooks.sending import Sender
from cmdop_appliance.webhooks.signing import new_webhook_secret
from tests.support import records
from tests.support.clocks import StepClock
from tests.support.live_hub import LiveHub, ScriptedAgent, finished, live_hub, start
from tests.support.records import REACH
from tests.support.webhook_receiver import Arrival, Receiver, running_receiver


@asynccontextmanager
async def delivering(live: LiveHub) -> AsyncIterator[None]:
    """The hub sends its webhooks within the block."""
    hub, sender = live.hub, Sender(Networks(["127.0.0.1"]))
    deliverer = Deliverer(
        hub.store, hub.bus, hub.clock, sender, hub.webhook_attempts, share=lambda: 0.5
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliverer.run)
        yield
        nursery.cancel_scope.cancel()


async def hook(live: LiveHub, receiver: Receiver, path: str, **fields) -> Webhook:
    made = records.webhook(url=receiver.url + path, secret=new_webhook_secret(), **fields)
    receiver.expect(path, made.secret)
    await live.hub.store.run(webhooks.insert, made)
    return made


async def arrivals(receiver: Receiver, path: str, number: int) -> list[Arrival]:
    return await trio.to_thread.run_sync(receiver.wait_for, path, number)


async def the_only(live: LiveHub, webhook: Webhook) -> Delivery:
    """The delivery of a webhook that was entered only one."""
    page = await live.hub.store.run(deliveries.page, REACH, webhook.id, Paging())
    (delivery,) = page.items
    return delivery


async def test_events_of_machines_sessions_and_commands_reach_who_asked_for_them(tmp_path):
    with running_receiver() as receiver:
        async with live_hub(tmp_path, inline=False) as live, delivering(live):
            kinds = {
                "/machines": ["machine.registered", "machine.online"],
                "/sessions": ["session.created", "session.connected"],
                "/commands": ["command.started", "command.completed"],
            }
            for path, events in kinds.items():
                await hook(live, receiver, path, events=events)
            await hook(live, receiver, "/all", events=["*"])
            agent = ScriptedAgent(live)
            link = await agent.join()
            command_id = await start(live, agent)
            await link.expect(Dispatch)
            await link.say(Started(id=command_id, started_ms=live.hub.clock.now_ms()))
            await link.say(finished(command_id, started_ms=live.hub.clock.now_ms(), duration_ms=1))
            told = {path: await arrivals(receiver, path, 2) for path in kinds}
            heard = Counter(each.event["type"] for each in await arrivals(receiver, "/all", 6))
            machine = await agent.machine()
    for path, events in kinds.items():
        assert sorted(each.event["type"] for each in told[path]) == sorted(events)
    assert heard == Counter(kind for events in kinds.values() for kind in events)
    assert [each.event["type"] for each in told["/commands"]] == kinds["/commands"]  # in order
    for each in told["/commands"]:
        assert each.event["data"]["command_id"] == command_id
    for each in told["/machines"]:
        assert each.event["data"]["machine_id"] == machine.id


async def test_what_fails_is_signed_anew_and_says_the_same(tmp_path):
    clock = StepClock()
    replies = [500, "reset", 302, 200]
    with running_receiver(lambda *_: replies.pop(0), clock.now_ms) as receiver:
        async with live_hub(tmp_path, clock=clock, inline=False) as live, delivering(live):
            webhook = await hook(live, receiver, "/a")
            with live.hub.bus.subscribe(outbox.SUBJECT) as news:
                await live.hub.store.run(outbox.enter, records.event(created_ms=clock.ms), "{}")
                for number in range(1, 5):
                    while (delivery := await the_only(live, webhook)).tried < number:
                        await news.next()
                    if number < 4:
                        assert delivery.next_attempt_ms == clock.ms + RETRY_S[number - 1] * 1000
                        clock.ms = delivery.next_attempt_ms
                        live.hub.bus.publish(outbox.SUBJECT, None)
            assert live.hub.webhook_attempts == {"failed": 3, "delivered": 1}
        assert len({each.body for each in receiver.at("/a")}) == 1
    assert delivery.status == "delivered"
    statuses = [each.response_status for each in reversed(delivery.tries)]
    assert statuses == [500, None, 302, 200]
