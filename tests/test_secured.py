"""TLS at the listener: who is let in, how, and what stays whole when either side ends."""

import ssl
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from cmdop_appliance.certificates import own_certificate
from cmdop_appliance.front import Tls
from cmdop_appliance.protocol.handshake import binding_of
from cmdop_appliance.secured import SecuredStream
from tests.test_front import AGENT, BOUND, GET, front, read_all, read_exactly


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return own_certificate(tmp_path_factory.mktemp("hub") / "tls", set())


@pytest.fixture
def tls(made):
    return Tls(made.context, binding_of(made.der), ssl.DER_cert_to_PEM_cert(made.der))


def trusting(tls) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=tls.certificate)


@asynccontextmanager
async def dialled(door, context):
    plain = await trio.open_tcp_stream("127.0.0.1", door.port)
    async with trio.SSLStream(
        plain, context, server_hostname="localhost", https_compatible=True
    ) as stream:
        yield stream


@pytest.mark.parametrize(("sent", "served_by"), [(GET, b"http:"), (AGENT, b"agent:")])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_connection_goes_to_its_handler_with_every_byte(tls, sent, served_by, version):
    context = trusting(tls)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with front(tls=tls) as door, dialled(door, context) as stream:
        with trio.fail_after(BOUND):
            await stream.send_all(sent)
            assert await read_exactly(stream, len(served_by + sent)) == served_by + sent
            assert stream.selected_alpn_protocol() == "http/1.1"
            large = bytes(range(256)) * 4096
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, large)
                assert await read_exactly(stream, len(large)) == large


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_tls_of_yesterday_is_refused(tls):
    context = trusting(tls)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with front(tls=tls) as door, dialled(door, context) as stream:
        with trio.fail_after(BOUND), pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()


async def test_plain_http_is_told_that_the_port_speaks_tls(tls):
    async with front(tls=tls) as door:
        with trio.fail_after(BOUND):
            async with await door.connect(GET) as stream:
                answer = await read_all(stream)
                assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
                assert answer.endswith(b"\r\n\r\nthis port speaks TLS: ask for https://\n")


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x00\x05hello", b"\x16" * 5000])
async def test_half_a_handshake_and_a_broken_one_are_closed_and_forgotten(tls, sent, caplog):
    async with front(tls=tls, head_timeout_s=0.2) as door:
        with trio.fail_after(BOUND):
            async with await door.connect(sent) as stream:
                await read_all(stream)
                await door.until_waiting(0)
    assert not caplog.records


async def test_a_handshake_without_a_request_is_closed_at_the_deadline(tls):
    async with front(tls=tls, head_timeout_s=0.2) as door, dialled(door, trusting(tls)) as stream:
        with trio.fail_after(BOUND):
            await stream.do_handshake()
            assert await read_all(stream) == b""


async def test_a_new_certificate_is_shown_to_new_connections_and_spares_the_old(tls, tmp_path):
    newer = own_certificate(tmp_path / "tls", set())
    async with front(tls=tls) as door, dialled(door, trusting(tls)) as old:
        with trio.fail_after(BOUND):
            await old.send_all(GET)
            await read_exactly(old, len(b"http:" + GET))
            door.front.tls = Tls(newer.context, b"", ssl.DER_cert_to_PEM_cert(newer.der))
            async with dialled(door, trusting(door.front.tls)) as new:
                await new.send_all(GET)
                assert await read_exactly(new, 5) == b"http:"
            await old.send_all(b"still here")
            assert await read_exactly(old, 10) == b"still here"


# ── the stream ───────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def pair(tls):
    """The hub's end, and a client's."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            plain = await trio.testing.open_stream_to_socket_listener(listener)
            ours = SecuredStream(await listener.accept(), tls.context, tls.binding)
            theirs = trio.SSLStream(plain, trusting(tls), server_hostname="localhost")
            nursery.start_soon(theirs.do_handshake)
            with trio.fail_after(BOUND):
                await ours.shake_hands()
                await theirs.send_all(b"hello")  # which waits for its own end of the handshake
                assert await ours.receive_some() == b"hello"
                yield ours, theirs
            await trio.aclose_forcefully(theirs)
            await ours.aclose()


async def test_an_end_leaves_the_other_direction_open_until_the_peer_has_gone(tls):
    async with pair(tls) as (ours, theirs):
        await ours.send_all(b"the answer")
        await ours.send_eof()
        assert await read_all(theirs) == b"the answer"  # and it is known to be whole
        await theirs.transport_stream.send_all(b"of which nobody asks what it is")
        assert await ours.receive_some()
        await theirs.transport_stream.send_eof()
        while await ours.receive_some():
            pass


async def test_a_peer_that_breaks_off_is_an_end_and_one_that_talks_rubbish_a_break(tls):
    async with pair(tls) as (ours, theirs):
        await theirs.transport_stream.send_eof()
        assert await ours.receive_some() == b""
    async with pair(tls) as (ours, theirs):
        await theirs.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(trio.BrokenResourceError):
            await ours.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")


async def test_a_send_that_is_cut_short_ends_the_connection(tls):
    async with pair(tls) as (ours, _):
        with trio.move_on_after(0.05):
            await ours.send_all(bytes(50_000_000))
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")
