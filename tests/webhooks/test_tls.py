"""HTTPS: the name in the URL is the one that the certificate must be for."""

import ssl

import pytest
import trio

from cmdop_appliance.webhooks.dialling import tls_context
from tests.support.authority import DAY, NOW, Authority
from tests.webhooks.peers import Names, answering, receiver, sender

LOOPBACK = ("127.0.0.0/8", "::1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def trusting(authority):
    return tls_context(str(authority.file))


@pytest.fixture
def names():
    return Names(hook_example=[["127.0.0.1"]], other_example=[["127.0.0.1"]])


async def post(mine, url):
    with trio.fail_after(10):
        return await mine.post(url, {}, b"{}")


@pytest.mark.parametrize("name", ["hook.example", "HOOK.Example", "hook.example."])
async def test_a_certificate_for_the_name_is_trusted_and_the_name_is_named(
    authority, trusting, names, name
):
    context = authority.server("hook.example")
    named = []
    context.sni_callback = lambda _, server_name, __: named.append(server_name)
    async with receiver(answering(204), tls=context) as listener:
        mine = sender(*LOOPBACK, tls=trusting, resolve=names)
        attempt = await post(mine, f"https://{name}:{listener.port}/")
    assert attempt.error is None
    assert attempt.address == "127.0.0.1"
    assert named == ["hook.example"]


@pytest.mark.parametrize(("host", "listens"), [("127.0.0.1", None), ("0x7f.1", None), ("[::1]", 6)])
async def test_a_certificate_for_an_address_is_trusted(authority, trusting, host, listens):
    context = authority.server("127.0.0.1", "::1")
    where = "::1" if listens else "127.0.0.1"
    async with receiver(answering(204), where, context) as listener:
        mine = sender(*LOOPBACK, tls=trusting)
        attempt = await post(mine, f"https://{host}:{listener.port}/")
    assert attempt.error is None


@pytest.mark.parametrize(
    ("url_host", "until", "reason"),
    [
        ("hook.example", NOW - DAY, "certificate has expired: it must be renewed"),
        ("other.example", NOW + DAY, "is not valid for 'other.example': use a name that it is for"),
        ("127.0.0.1", NOW + DAY, "is not valid for '127.0.0.1': use a name or address that it is"),
    ],
)
async def test_a_certificate_that_does_not_fit_is_refused_with_what_to_do(
    authority, trusting, names, url_host, until, reason
):
    context = authority.server("hook.example", until=until)
    async with receiver(answering(204), tls=context) as listener:
        mine = sender(*LOOPBACK, tls=trusting, resolve=names)
        attempt = await post(mine, f"https://{url_host}:{listener.port}/")
        with trio.fail_after(10):
            await listener.gone.wait()
    assert "its certificate is refused: " in attempt.error
    assert reason in attempt.error
    assert listener.requests == []


async def test_an_authority_that_nobody_named_is_not_trusted(authority, names):
    async with receiver(answering(204), tls=authority.server("hook.example")) as listener:
        mine = sender(*LOOPBACK, resolve=names)
        attempt = await post(mine, f"https://hook.example:{listener.port}/")
    assert attempt.error.endswith(
        "unable to get local issuer certificate: name its authority's file in [webhooks] ca_file"
    )
    assert listener.requests == []


async def test_an_authority_of_ones_own_stands_beside_the_systems(authority, trusting):
    assert len(trusting.get_ca_certs()) == 1 + len(tls_context("").get_ca_certs())
    assert trusting.check_hostname
    assert trusting.verify_mode == ssl.CERT_REQUIRED
    assert trusting.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_authorities_are_read_when_the_first_is_needed(authority, tmp_path):
    gone = sender(*LOOPBACK, tls=None, ca_file=str(tmp_path / "gone.pem"))
    mine = sender(*LOOPBACK, tls=None, ca_file=str(authority.file))
    async with receiver(answering(204), tls=authority.server("127.0.0.1")) as listener:
        url = f"https://127.0.0.1:{listener.port}/"
        assert "[webhooks] ca_file: No such file" in (await post(gone, url)).error
        assert (await post(mine, url)).error is None


async def plain(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 400 BANNER\r\n\r\n")


async def farewell(stream: trio.SocketStream) -> None:
    await stream.send_eof()


async def silence(stream: trio.abc.Stream) -> None:
    pass


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (plain, "the TLS handshake failed (WRONG_VERSION_NUMBER): does it speak HTTPS there?"),
        (farewell, "it closed the connection in the TLS handshake"),
        (silence, "the TLS handshake took more than 15 s"),
    ],
)
async def test_what_does_not_speak_tls_is_left(trusting, behave, reason, autojump_clock):
    left = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await behave(stream)
        while await stream.receive_some(65536):
            pass
        left.set()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        port = listeners[0].socket.getsockname()[1]
        attempt = await sender(*LOOPBACK, tls=trusting).post(f"https://127.0.0.1:{port}/", {}, b"")
        with trio.fail_after(10):
            await left.wait()
        nursery.cancel_scope.cancel()
    assert reason in attempt.error
    assert "BANNER" not in attempt.error
