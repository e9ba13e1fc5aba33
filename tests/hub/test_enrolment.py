"""Who may connect: a key that is known, or a token that is good."""

from dataclasses import replace

import msgspec
import pytest
import trio

from cmdop_appliance.errors import NotFound
from cmdop_appliance.identity import Identity, is_signed_by
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.handshake import EnrolmentToken, revocation_transcript
from cmdop_appliance.protocol.messages import Hello, Revoked
from cmdop_appliance.store import enrolments, machines
from cmdop_appliance.store.listing import Paging
from tests.support.live_hub import CALLER, LiveHub, ScriptedAgent, live_hub
from tests.support.records import FACTS, NOW, REACH, WORKSPACE


async def machines_of(live: LiveHub) -> int:
    return (await live.hub.store.run(machines.page, REACH, Paging())).total


async def uses_of(live: LiveHub) -> list[int]:
    page = await live.hub.store.run(enrolments.page, REACH, Paging())
    return [token.uses for token in page.items]


async def refusal(agent: ScriptedAgent, **changes) -> tuple[Close, str]:
    link = agent.dial()
    await link.prove(await link.greet(), **changes)
    return await link.closed()


async def test_a_machine_joins_with_a_token_and_then_needs_none(live, agent):
    link = agent.dial()
    await link.prove(await link.greet(), token=await live.token(), name="my name")
    welcome = await link.welcomed()
    machine = await agent.machine()
    assert machine.id == welcome.machine_id
    assert (machine.name, machine.facts, machine.tags) == ("my name", FACTS, ["prod"])
    assert machine.ip == "192.0.2.7"
    await link.cut()
    again = agent.dial()
    await again.prove(await again.greet())
    assert (await again.welcomed()).machine_id == machine.id


async def test_a_machine_without_a_name_is_called_by_its_hostname(live, agent):
    await agent.join()
    assert (await agent.machine()).name == FACTS.hostname


async def test_a_machine_without_a_name_and_a_hostname_is_called_by_its_id(live, agent):
    link, facts = agent.dial(), msgspec.structs.replace(FACTS, hostname="")
    await link.prove(await link.greet(), token=await live.token(), facts=facts)
    await link.welcomed()
    machine = await agent.machine()
    assert machine.name == machine.id


async def test_a_used_token_is_refused(live, agent):
    token = await live.token()
    await agent.connect(token=token)
    code, reason = await refusal(ScriptedAgent(live), token=token)
    assert code is Close.REFUSED
    assert "used up" in reason
    assert await machines_of(live) == 1


async def test_the_same_machine_with_the_same_token_is_the_same_join(live, agent):
    token = await live.token(max_uses=2)
    for _ in range(3):
        link = await agent.connect(token=token)
        await link.cut()
    assert await machines_of(live) == 1
    assert await uses_of(live) == [1]


async def test_two_joins_of_one_machine_at_once_are_one(live, agent):
    token = await live.token(max_uses=2)
    links = [agent.dial() for _ in range(2)]
    challenges = [await link.greet() for link in links]
    async with trio.open_nursery() as nursery:
        for link, challenge in zip(links, challenges, strict=True):
            nursery.start_soon(lambda link=link, c=challenge: link.prove(c, token=token))
    for link in links:
        await link.welcomed()
    assert await machines_of(live) == 1
    assert await uses_of(live) == [1]


@pytest.mark.parametrize("inline", [True, False])
async def test_of_many_machines_with_one_token_only_one_joins(tmp_path, inline):
    async with live_hub(tmp_path, inline=inline) as live:
        token = await live.token()
        outcomes = []

        async def join() -> None:
            link = ScriptedAgent(live).dial()
            await link.prove(await link.greet(), token=token)
            try:
                await link.welcomed()
                outcomes.append("joined")
            except trio.EndOfChannel:
                outcomes.append("refused")

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(join)
        assert outcomes.count("joined") == 1
        assert await machines_of(live) == 1


async def test_an_expired_token_is_refused(live, agent):
    code, reason = await refusal(agent, token=await live.token(ttl_ms=0))
    assert (code, "expired" in reason) == (Close.REFUSED, True)


async def test_a_token_does_not_outlive_the_key_that_made_it(live):
    now_ms = live.hub.clock.now_ms()
    short, long, endless = (
        replace(CALLER, expires_ms=expires_ms)
        for expires_ms in (now_ms + 30_000, now_ms + 3_600_000, None)
    )
    for caller, is_cut in ((short, True), (long, False), (endless, False)):
        made, _ = await live.hub.enrolments.issue(WORKSPACE, 60_000, 1, [], None, caller)
        assert made.expires_ms == (short.expires_ms if is_cut else made.created_ms + 60_000)


async def test_a_revoked_token_is_refused(live, agent):
    enrolment, token = await live.hub.enrolments.issue(WORKSPACE, 60_000, 1, [])
    await live.hub.store.run(enrolments.delete, REACH, enrolment.id)
    assert (await refusal(agent, token=token))[0] is Close.REFUSED
    with pytest.raises(NotFound):
        await live.hub.store.run(enrolments.delete, REACH, enrolment.id)


async def test_a_token_of_another_hub_is_refused(live, agent):
    foreign = str(EnrolmentToken(b"s" * 24, Identity.generate().public_key))
    assert (await refusal(agent, token=foreign))[0] is Close.REFUSED


async def test_what_is_no_token_is_blamed_on_the_agent(live, agent):
    code, reason = await refusal(agent, token="cmdop_enroll_x")
    assert code is Close.PROTOCOL
    assert "not an enrolment token" in reason


async def test_an_unknown_key_without_a_token_is_refused(live, agent):
    code, reason = await refusal(agent)
    assert code is Close.UNKNOWN
    assert "token" in reason


@pytest.mark.parametrize("wrong", ["another key", "another nonce", "noise"])
async def test_a_signature_that_does_not_match_is_refused_and_uses_no_token(live, agent, wrong):
    other = Identity.generate()
    changes = {
        "another key": {"public_key": other.public_key},
        "another nonce": {"signature": agent.identity.sign(b"anything else")},
        "noise": {"signature": b"\0" * 64},
    }[wrong]
    code, _ = await refusal(agent, token=await live.token(), **changes)
    assert code is Close.REFUSED
    assert await machines_of(live) == 0
    assert await uses_of(live) == [0]


async def test_a_proof_cannot_be_used_again(live, agent):
    await agent.join()
    seen = agent.dial()
    challenge = await seen.greet()
    await seen.prove(challenge)
    await seen.welcomed()
    replay = agent.dial()
    await replay.greet()
    await replay.prove(challenge)  # signed for the other connection
    assert (await replay.closed())[0] is Close.REFUSED


async def test_another_version_of_the_protocol_is_refused(live, agent):
    link = agent.dial()
    await link.say(Hello(version=2, nonce=b"n" * 32))
    code, reason = await link.closed()
    assert (code, reason) == (Close.VERSION, "protocol 2 is not spoken here")


async def test_a_removed_machine_is_told_so_and_can_verify_it(live, agent):
    await (await agent.join()).cut()
    machine = await agent.machine()
    await live.hub.store.run(machines.remove, REACH, machine.id, NOW)
    for token in (None, await live.token()):  # nor does a new token help
        link = agent.dial()
        await link.prove(await link.greet(), token=token)
        revoked = await link.expect(Revoked)
        assert revoked.machine_id == machine.id
        transcript = revocation_transcript(link.nonce, machine.id)
        assert is_signed_by(live.hub.identity.public_key, revoked.signature, transcript)
        assert (await link.closed())[0] is Close.REMOVED


async def test_who_does_not_finish_the_handshake_is_cut_off(live, agent, autojump_clock):
    silent, slow = agent.dial(), agent.dial()
    await slow.greet()
    for link in (silent, slow):
        code, reason = await link.closed()
        assert (code, reason) == (Close.SILENT, "no handshake within 10 s")


async def test_the_hub_keeps_its_key_over_a_restart(tmp_path):
    keys = []
    for _ in range(2):
        async with live_hub(tmp_path) as live:
            keys.append(live.hub.identity.public_key)
    assert keys[0] == keys[1]
