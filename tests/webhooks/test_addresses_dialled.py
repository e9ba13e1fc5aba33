"""What is dialled: never an address that must not be, however it is written or resolved."""

import pytest
import trio

from cmdop_appliance.webhooks.sending import Sender
from tests.support.spellings import (
    LOOPBACK_V4,
    NEVER_V4,
    NEVER_V6,
    PRIVATE_V4,
    PRIVATE_V6,
    PUBLIC,
    broken,
    hiding_v4,
    of_v4,
    of_v6,
)
from tests.webhooks.peers import Names, answering, receiver, sender

OK = answering(204)
ALL = ("0.0.0.0/0", "::/0", "127.0.0.0/8", "::1")
V4 = LOOPBACK_V4 + PRIVATE_V4 + NEVER_V4
V6 = (*NEVER_V6, *PRIVATE_V6, "::1")
HIDDEN = [hidden for address in V4 for hidden in hiding_v4(address)]
# Of these, none is dialled by default.
FORBIDDEN_HOSTS = [
    *(host for address in V4 for host in of_v4(address)),
    *(host for address in V6 for host in of_v6(address)),
    *(f"[{hidden}]" for hidden in HIDDEN),
    *broken("127.0.0.1"),
]
# Of these, none is dialled whatever is allowed.
NEVER_HOSTS = [
    *(host for address in NEVER_V4 for host in of_v4(address)),
    *(host for address in NEVER_V6 for host in of_v6(address)),
    *(f"[{hidden}]" for hidden in HIDDEN),
    *broken("127.0.0.1"),
]
PUBLIC_V4 = PUBLIC[0]


@pytest.fixture
async def home():
    """Two listeners that nobody may reach."""
    async with receiver(OK) as v4, receiver(OK, "::1") as v6:
        yield v4, v6


async def post(mine: Sender, url: str):
    return await mine.post(url, {"Content-Type": "application/json"}, b"{}")


@pytest.mark.parametrize(("networks", "hosts"), [((), FORBIDDEN_HOSTS), (ALL, NEVER_HOSTS)])
async def test_no_spelling_of_a_forbidden_address_is_dialled(home, dials, networks, hosts):
    assert len(hosts) > 200
    names = Names()
    mine = sender(*networks, resolve=names)
    for host in hosts:
        for listener in home:
            attempt = await post(mine, f"http://{host}:{listener.port}/")
            assert attempt.error, host
            assert attempt.address is None, host
    assert dials.seen == []
    assert names.asked == []
    assert [listener.connections for listener in home] == [0, 0]


@pytest.mark.parametrize(
    ("networks", "addresses"),
    [((), [*V4, *V6, *HIDDEN]), (ALL, [*NEVER_V4, *NEVER_V6, *HIDDEN])],
)
async def test_no_name_that_stands_for_one_is_dialled(home, dials, networks, addresses):
    names = Names()
    mine = sender(*networks, resolve=names)
    for address in [*addresses, "fe80::1%lo", "::1%1", "localhost", "127.1"]:
        names.answers["evil.example"] = [[address]]
        for listener in home:
            attempt = await post(mine, f"http://evil.example:{listener.port}/")
            assert address in attempt.error
            assert attempt.address is None
    assert dials.seen == []
    assert [listener.connections for listener in home] == [0, 0]


async def test_every_spelling_of_an_allowed_address_is_dialled(dials):
    mine = sender("127.0.0.0/8", "::1", resolve=Names())
    hosts = of_v4("127.0.0.1")
    async with receiver(OK) as listener:
        for host in hosts:
            assert (await post(mine, f"http://{host}:{listener.port}/")).error is None, host
        assert listener.connections == len(hosts)
    async with receiver(OK, "::1") as listener:
        for host in ("[::1]", "[0:0:0:0:0:0:0:1]", "[::0.0.0.1]", "[0000::0001]"):
            assert (await post(mine, f"http://{host}:{listener.port}/")).error is None, host
        assert listener.connections == 4
    assert set(dials.seen) == {"127.0.0.1", "::1"}


async def test_a_name_that_changes_its_address_is_judged_at_every_attempt(home, dials):
    listener = home[0]
    dials.leads[PUBLIC_V4] = listener.port
    names = Names(rebind_example=[[PUBLIC_V4], ["127.0.0.1"], ["::1"], ["169.254.169.254"]])
    mine = sender(resolve=names)
    attempts = [await post(mine, f"http://rebind.example:{listener.port}/") for _ in range(4)]

    assert [attempt.error is None for attempt in attempts] == [True, False, False, False]
    assert dials.seen == [PUBLIC_V4]
    assert listener.connections == 1
    # one question an attempt: what was judged is what is dialled
    assert len(names.asked) == 4


async def test_of_a_mixed_answer_only_what_is_allowed_is_dialled(home, dials):
    dials.leads[PUBLIC_V4] = 1  # nobody listens there
    dials.leads["8.8.8.8"] = home[0].port
    answer = ["127.0.0.1", "::1", PUBLIC_V4, "10.0.0.1", "fe80::1", "8.8.8.8", "192.168.1.1"]
    mine = sender("192.168.1.0/24", resolve=Names(mixed_example=[answer]))
    attempt = await post(mine, "http://mixed.example/")

    assert attempt.error is None
    assert attempt.address == "8.8.8.8"
    assert dials.seen == [PUBLIC_V4, "8.8.8.8"]


async def test_an_answer_with_nothing_allowed_says_why(dials):
    names = Names(evil_example=[["127.0.0.1", "10.0.0.1"]], empty_example=[[]])
    mine = sender(resolve=names)
    attempt = await post(mine, "http://evil.example:8080/SECRET")
    assert attempt.error == (
        "http://evil.example:8080: not dialled: 127.0.0.1 is a loopback address: add it to"
        " [webhooks] allow_networks; 10.0.0.1 is in a private network: add it to [webhooks]"
        " allow_networks"
    )
    attempt = await post(mine, "http://empty.example/")
    assert attempt.error == "http://empty.example: not dialled: it has no address"
    assert dials.seen == []


async def test_of_many_addresses_only_some_are_dialled(dials):
    many = [f"8.8.{number // 256}.{number % 256}" for number in range(1000)]
    dials.leads = dict.fromkeys(many, 1)
    mine = sender(resolve=Names(many_example=[many]))
    attempt = await post(mine, "http://many.example/")
    assert "cannot be reached: 8.8.0.0: connection refused; 8.8.0.1: " in attempt.error
    assert len(dials.seen) == 6


async def test_of_endless_answers_of_a_name_server_only_the_first_are_judged(dials):
    answer = ["127.0.0.1"] * 100_000 + [PUBLIC_V4]
    mine = sender(resolve=Names(many_example=[answer]))
    attempt = await post(mine, "http://many.example/")
    assert "not dialled" in attempt.error
    assert len(attempt.error) < 1000
    assert dials.seen == []


async def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    dials,
    autojump_clock,
):
    async with receiver(OK) as listener:
        dials.leads = {"2a00::1": None, PUBLIC_V4: listener.port}
        mine = sender(resolve=Names(slow_example=[["2a00::1", PUBLIC_V4]]))
        attempt = await post(mine, "http://slow.example/")
    assert attempt.error is None
    assert dials.seen == ["2a00::1", PUBLIC_V4]


async def test_an_address_that_never_answers_is_given_up_in_time(dials, autojump_clock):
    dials.leads[PUBLIC_V4] = None
    mine = sender(resolve=Names(silent_example=[[PUBLIC_V4]]))
    attempt = await post(mine, "https://silent.example/")
    assert attempt.error == f"https://silent.example: connecting to {PUBLIC_V4} took more than 15 s"
    assert attempt.excerpt is None
    assert attempt.address == PUBLIC_V4
    assert attempt.duration_ms == 15_000


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(home, dials, status):
    for listener, host in zip(home, ("127.0.0.1", "[::1]"), strict=True):
        where = f"http://{host}:{listener.port}/"
        async with receiver(
            answering(status, Location=where, Refresh=f"0; {where}")
        ) as redirecting:
            dials.leads[PUBLIC_V4] = redirecting.port
            mine = sender(resolve=Names(moved_example=[[PUBLIC_V4]]))
            attempt = await post(mine, "http://moved.example/")
        assert attempt.status == status
        assert attempt.error == (
            f"http://moved.example: it answered {status}: redirects are not followed"
        )
    assert set(dials.seen) == {PUBLIC_V4}
    assert [listener.connections for listener in home] == [0, 0]


async def test_no_proxy_of_the_environment_is_used(home, dials, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{home[1].port}")
    dials.leads[PUBLIC_V4] = home[0].port
    mine = sender(resolve=Names(a_example=[[PUBLIC_V4]]))
    assert (await post(mine, "http://a.example/")).error is None
    assert dials.seen == [PUBLIC_V4]


async def test_a_connection_serves_one_attempt(dials):
    mine = sender("127.0.0.1")
    async with receiver(answering(200, Connection="keep-alive", Set_Cookie="a=b")) as listener:
        for _ in range(3):
            assert (await post(mine, f"http://127.0.0.1:{listener.port}/")).error is None
            with trio.fail_after(5):
                await listener.gone.wait()
        assert listener.connections == 3
        assert not [request for request in listener.requests if b"ookie" in request]
