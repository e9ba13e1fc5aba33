"""An agent talks to its hub alone, whoever is between them: trust.md, row 19."""

import base64
import ssl
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import trio

from cmdop_appliance.agent import link
from cmdop_appliance.agent.enrolment import enrolment_of
from cmdop_appliance.agent.link import LinkLost, open_link
from cmdop_appliance.agent.state import Membership, locked_state
from cmdop_appliance.certificates import own_certificate
from cmdop_appliance.errors import StartupError
from cmdop_appliance.protocol.closing import Close
from cmdop_appliance.protocol.handshake import EnrolmentToken, binding_of
from cmdop_appliance.protocol.messages import Hello
from tests.support.agents import QUICK, running_agent
from tests.support.authority import Authority
from tests.support.hub_peer import PATIENCE_S, running_hub

HOST = "localhost"
PACE = replace(QUICK, handshake_s=2)


class Shown:
    """A certificate that somebody shows."""

    def __init__(self, context: ssl.SSLContext, der: bytes) -> None:
        self.context = context
        self.binding = binding_of(der)


@pytest.fixture
def own(tmp_path):
    """The hub's, which it has made itself."""
    made = own_certificate(tmp_path / "tls", set())
    return Shown(made.context, made.der)


@pytest.fixture
def authority(tmp_path, monkeypatch):
    """One that this system trusts."""
    place = tmp_path / "authority"
    place.mkdir()
    found = Authority(place)
    monkeypatch.setenv("SSL_CERT_FILE", str(found.file))
    link._context.cache_clear()
    yield found
    link._context.cache_clear()


def vouched(authority, *names):
    """What it has given to the holder of these names."""
    context = authority.server(*names)
    text = (authority.file.parent / f"{names[0]}.pem").read_text()
    der = base64.b64decode(text.rpartition("BEGIN CERTIFICATE-----")[2].partition("-----")[0])
    return Shown(context, der)


class Between:
    """Who passes on what an agent says, in TLS of its own."""

    def __init__(self, shown: Shown, to_port: int, *, by_tls: bool) -> None:
        self.dialled = 0
        self.turned_away = trio.Event()  # an agent has not finished TLS
        self._shown = shown
        self._to = to_port
        self._by_tls = by_tls

    async def serve(self, plain: trio.SocketStream) -> None:
        self.dialled += 1
        near = trio.SSLStream(plain, self._shown.context, server_side=True, https_compatible=True)
        try:
            await near.do_handshake()
        except trio.BrokenResourceError:
            self.turned_away.set()
            return
        far: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", self._to)
        if self._by_tls:
            blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            blind.check_hostname = False
            blind.verify_mode = ssl.CERT_NONE
            far = trio.SSLStream(far, blind, https_compatible=True)
        async with far, trio.open_nursery() as nursery:

            async def pump(source, sink) -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    async for data in source:
                        await sink.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(pump, near, far)
            await pump(far, near)


@asynccontextmanager
async def standing_between(shown, hub, *, by_tls):
    """Somebody there, and the address by which an agent that means `hub` finds them."""
    between = Between(shown, hub.port, by_tls=by_tls)
    async with trio.open_nursery() as nursery:
        (listener, *_) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, between.serve, [listener])
        hub.url = f"https://{HOST}:{listener.socket.getsockname()[1]}"
        yield between
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def agent_of(tmp_path, hub):
    async with running_agent(tmp_path / "agent", hub, pace=PACE):
        yield


async def is_refused(hub) -> None:
    """The next agent hears a challenge, and ends the connection without a proof."""
    peer = await hub.dialled()
    await peer.challenge()
    assert await peer.expect_end() in (Close.PROTOCOL, 1000)
    assert peer.prove is None
    assert {type(item) for item in peer.heard} == {Hello}


# ── the hub ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_certificate_for_which_nobody_vouches_is_good_if_the_hub_signs_it(tmp_path, own):
    async with running_hub(own.context, own.binding) as hub, agent_of(tmp_path, hub):
        peer = await hub.accept()
        assert peer.prove.token == hub.token


async def test_the_hub_may_show_another_certificate_at_any_time(tmp_path, own, authority):
    other = own_certificate(tmp_path / "other", set())
    certificates = [own, Shown(other.context, other.der), vouched(authority, "any.example")]
    async with running_hub(own.context, own.binding) as hub:
        port = hub.port
        async with agent_of(tmp_path, hub):
            await (await hub.accept()).cut()
    for shown in certificates:
        async with (
            running_hub(shown.context, shown.binding, port) as hub,
            running_agent(tmp_path / "agent", hub, pace=PACE, join=False),
        ):
            assert (await hub.accept()).prove.token is None


# ── somebody between them ────────────────────────────────────────────────────────────────────────


async def test_who_shows_a_certificate_of_their_own_learns_nothing(tmp_path, own):
    stranger = own_certificate(tmp_path / "stranger", set())
    shown = Shown(stranger.context, stranger.der)
    async with (
        running_hub(own.context, own.binding) as hub,
        standing_between(shown, hub, by_tls=True),
        agent_of(tmp_path, hub),
    ):
        await is_refused(hub)
        await is_refused(hub)  # and it is tried again, in the same way


async def test_nor_does_who_has_one_from_an_authority_that_the_system_trusts(
    tmp_path, own, authority
):
    async with (
        running_hub(own.context, own.binding) as hub,
        standing_between(vouched(authority, HOST), hub, by_tls=True),
        agent_of(tmp_path, hub),
    ):
        await is_refused(hub)
        await is_refused(hub)


async def test_nor_another_hub_that_is_genuine(tmp_path, own):
    async with running_hub(own.context, own.binding, seed=b"\3" * 32) as other:
        assert other.token  # of the first hub: its key is not the one of this
        async with agent_of(tmp_path, other):
            await is_refused(other)
            await is_refused(other)


async def test_nor_who_ends_tls_before_a_hub_of_plain_http_with_a_certificate_of_their_own(
    tmp_path, own, authority
):
    async with (
        running_hub() as hub,
        standing_between(own, hub, by_tls=False) as between,
        agent_of(tmp_path, hub),
    ):
        await is_refused(hub)
        with trio.fail_after(PATIENCE_S):
            await between.turned_away.wait()  # no authority vouches for it
        await is_refused(hub)


async def test_nor_with_one_for_another_name(tmp_path, authority):
    async with (
        running_hub() as hub,
        standing_between(vouched(authority, "evil.example"), hub, by_tls=False) as between,
        agent_of(tmp_path, hub),
    ):
        await is_refused(hub)
        with trio.fail_after(PATIENCE_S):
            await between.turned_away.wait()
        await is_refused(hub)


async def test_a_proxy_for_whose_name_an_authority_vouches_may_end_tls(tmp_path, authority):
    async with (
        running_hub() as hub,
        standing_between(vouched(authority, HOST), hub, by_tls=False) as between,
        agent_of(tmp_path, hub),
    ):
        await is_refused(hub)  # whom it did not ask for a name
        peer = await hub.accept()
        assert peer.prove.token == hub.token
        dialled = between.dialled
        await peer.cut()
        await hub.accept()  # which way worked is remembered
        assert between.dialled == dialled + 1


async def test_a_port_that_speaks_no_tls_gets_nothing_that_is_not_tls(tmp_path):
    heard = []
    enough = trio.Event()

    async def listen(stream):
        heard.append(bytes(await stream.receive_some(1)))
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        if len(heard) > 2:
            enough.set()

    async with running_hub() as hub, trio.open_nursery() as nursery:
        (listener, *_) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, listen, [listener])
        hub.url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with agent_of(tmp_path, hub):
            with trio.fail_after(PATIENCE_S):
                await enough.wait()
        nursery.cancel_scope.cancel()
    assert set(heard) == {b"\x16"}


async def test_a_link_that_cannot_speak_tls_is_lost_and_says_why():
    async def listen(stream):
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        (listener, *_) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, listen, [listener])
        url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
        with trio.fail_after(PATIENCE_S), pytest.raises(LinkLost, match=r"^no TLS: "):
            async with open_link(url, PACE):
                pass
        nursery.cancel_scope.cancel()


# ── plain HTTP ───────────────────────────────────────────────────────────────────────────────────

KEY = b"k" * 32
TOKEN = str(EnrolmentToken(b"s" * 24, KEY))


@pytest.fixture
def state(tmp_path):
    with locked_state(tmp_path / "agent") as state:
        state.make_identity()
        yield state


@pytest.mark.parametrize("url", ["http://192.0.2.1:3006", "http://hub.lan", "http://[fe80::1]"])
def test_plain_http_to_another_machine_has_to_be_said_and_is_remembered(state, url):
    with pytest.raises(StartupError, match="is plain HTTP") as caught:
        enrolment_of(state, url, TOKEN, None)
    assert "--plain-http" in caught.value.hint
    assert url.replace("http:", "https:") in caught.value.hint
    enrolled = enrolment_of(state, url, TOKEN, None, plain_http=True)
    state.join(Membership(url, KEY, "mach_1", enrolled.plain_http))
    state.identity, state.membership = state._read()
    assert enrolment_of(state, None, None, None).plain_http


def test_a_machine_that_joined_by_tls_is_not_moved_to_plain_http(state):
    state.join(Membership("https://hub.lan", KEY, "mach_1"))
    with pytest.raises(StartupError, match="is plain HTTP"):
        enrolment_of(state, "http://hub.lan", None, None)
    assert enrolment_of(state, None, None, None).url == "https://hub.lan"


@pytest.mark.parametrize("url", ["http://127.0.0.1:3006", "http://localhost", "http://[::1]:1"])
def test_plain_http_that_leaves_no_machine_needs_no_leave(state, url):
    assert enrolment_of(state, url, TOKEN, None).url == url
