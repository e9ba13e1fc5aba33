"""What the hub takes from one key and one address, also behind proxies: contract.md §1."""

import time
from collections.abc import Sequence
from http.client import HTTPConnection

import pytest

from tests.support.appliance import Answer, Hub, running_hub, stopped_agent
from tests.support.fault_proxy import running_proxy

WRONG = "cmdop_apikey_" + "x" * 43
# Our one peer is a proxy that is trusted.
PROXY = '[server]\ntrusted_proxies = ["127.0.0.1", "10.0.0.0/8"]\n'
STRICT = "[auth]\nattempts = 3\n"


def ask(
    hub: Hub, key: str, *forwarded: str, path: str = "/auth/me", source: str = "127.0.0.1"
) -> Answer:
    """A request by way of the web framework, or the hot route where `path` is its."""
    connection = HTTPConnection(*hub.address, timeout=30, source_address=(source, 0))
    body = b"{}" if path == "/commands" else b""
    try:
        connection.putrequest("POST" if body else "GET", f"/api/v1{path}")
        connection.putheader("Authorization", f"Bearer {key}")
        for value in forwarded:
            connection.putheader("X-Forwarded-For", value)
        if body:
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        with connection.getresponse() as answer:
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
    finally:
        connection.close()


def guess(hub: Hub, *forwarded: str, times: int = 3, **where: str) -> None:
    """Wrong keys, each refused as such."""
    for _ in range(times):
        assert ask(hub, WRONG, *forwarded, **where).status == 401


def new_key(hub: Hub) -> str:
    return hub.new_key("machines:read").key


@pytest.fixture(params=["/auth/me", "/commands"], ids=["framework", "hot"])
def path(request) -> str:
    return request.param


# ── rate limits ──────────────────────────────────────────────────────────────────────────────────


def test_by_default_there_is_no_limit_and_no_word_of_one(hub):
    for path in ("/auth/me", "/commands"):
        for _ in range(20):
            answer = ask(hub, hub.api.key, path=path)
            assert answer.status in (200, 422)
            assert not [name for name in answer.headers if "ratelimit" in name]


def limits(answer: Answer) -> tuple[int, int, int]:
    return tuple(
        int(answer.headers[f"x-ratelimit-{name}"]) for name in ("limit", "remaining", "reset")
    )


def test_a_key_has_so_many_requests_a_minute_on_every_way(tmp_path):
    with running_hub(tmp_path, config="[rate_limit]\nrequests_per_minute = 5\n") as hub:
        asked = [ask(hub, hub.api.key, path=p) for p in ("/auth/me", "/commands") * 2]
        assert [limits(answer)[:2] for answer in asked] == [(5, 4), (5, 3), (5, 2), (5, 1)]
        assert [answer.status for answer in asked] == [200, 422, 200, 422]
        assert 0 < limits(asked[0])[2] - time.time() <= 61
        not_found = ask(hub, hub.api.key, path="/machines/mach_x")
        assert (not_found.status, limits(not_found)[:2]) == (404, (5, 0))
        for path in ("/auth/me", "/commands"):
            answer = ask(hub, hub.api.key, path=path)
            assert answer.status == 429
            assert answer.error["code"] == "rate_limited"
            assert answer.error["message"] == "Rate limit exceeded"
            retry_after = answer.error["details"]["retry_after"]
            assert 0 < retry_after <= 60
            assert answer.headers["retry-after"] == str(retry_after)
            assert limits(answer)[:2] == (5, 0)
        # nobody who is not known is counted, or told
        answer = ask(hub, WRONG)
        assert answer.status == 401
        assert not [name for name in answer.headers if "ratelimit" in name]


def test_what_was_limited_was_not_done(tmp_path):
    with running_hub(tmp_path, config="[rate_limit]\nrequests_per_minute = 2\n") as hub:
        statuses = [
            hub.api.call("POST", "/api-keys", {"name": f"k{n}", "scopes": ["admin"]}).status
            for n in range(4)
        ]
        assert statuses == [201, 201, 429, 429]


# ── lockout ──────────────────────────────────────────────────────────────────────────────────────


def test_a_guesser_is_locked_out_and_the_owner_is_not(tmp_path, path):
    with running_hub(tmp_path, config=STRICT) as hub:
        fresh, there = new_key(hub), "127.0.0.2"
        ask(hub, hub.api.key, path=path, source=there)  # it was good from there
        guess(hub, path=path, source=there)
        answers = [ask(hub, key, path=path, source=there) for key in (WRONG, fresh)]
        for answer in answers:
            assert (answer.status, answer.error["code"]) == (429, "rate_limited")
            assert answer.error["details"] == {"retry_after": 900}
            assert answer.headers["retry-after"] == "900"
        assert answers[0].error == answers[1].error
        assert ask(hub, hub.api.key, path=path, source=there).status in (200, 422)
        assert ask(hub, fresh, path=path, source="127.0.0.3").status in (200, 403)
        entries = [e for e in hub.api.get("/audit") if e["action"] == "peer.locked_out"]
        assert [entry["target"] for entry in entries] == [there]
        assert hub.log.read_text().count("address locked out") == 1
        assert WRONG not in hub.log.read_text()


def test_nobody_escapes_a_lockout_by_a_header_that_is_not_believed(tmp_path, path):
    """The peer is none of the trusted proxies: who it says it is does not count."""
    config = '[server]\ntrusted_proxies = ["10.0.0.0/8", "127.0.0.1"]\n' + STRICT
    with running_hub(tmp_path, config=config) as hub:
        fresh = new_key(hub)
        for number in range(3):
            claims = f"198.51.100.{number}", "127.0.0.1"
            guess(hub, *claims, times=1, path=path, source="127.0.0.2")
        for claim in ("198.51.100.9", "127.0.0.1", "10.0.0.1", "::1", "garbage", ""):
            assert ask(hub, fresh, claim, path=path, source="127.0.0.2").status == 429
        assert ask(hub, fresh, path=path).status in (200, 403)


def test_nobody_locks_another_out_by_a_header_that_is_not_believed(tmp_path, path):
    with running_hub(tmp_path, config=STRICT) as hub:
        guess(hub, "198.51.100.1", path=path, source="127.0.0.2")
        fresh = new_key(hub)
        assert ask(hub, fresh, "198.51.100.1", path=path).status in (200, 403)
        assert ask(hub, fresh, path=path, source="127.0.0.2").status == 429


def _claims() -> Sequence[object]:
    attacker = "203.0.113.66"
    return [
        pytest.param([f"127.0.0.1, {attacker}"], id="127.0.0.1"),
        pytest.param([f"10.0.0.1, {attacker}, 10.0.0.2"], id="behind two proxies"),
        pytest.param(["198.51.100.1", attacker], id="two headers"),
        pytest.param([f"garbage, {attacker}"], id="garbage"),
        pytest.param([f"\xe4\x01, ,;{attacker}x, {attacker}"], id="binary"),
        pytest.param([f"::1, ::ffff:{attacker}"], id="mapped"),
    ]


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory):
    with running_hub(tmp_path_factory.mktemp("proxied"), config=PROXY + STRICT) as hub:
        attacker = "203.0.113.66"
        guess(hub, attacker)
        yield hub


@pytest.mark.parametrize("claims", _claims())
def test_behind_a_trusted_proxy_the_client_is_locked_out_whatever_it_claims(
    behind_proxy, path, claims
):
    assert ask(behind_proxy, new_key(behind_proxy), *claims, path=path).status == 429


@pytest.mark.parametrize("claims", [["198.51.100.1"], ["203.0.113.66, 198.51.100.2"], []])
def test_behind_a_trusted_proxy_others_are_not(behind_proxy, path, claims):
    answer = ask(behind_proxy, new_key(behind_proxy), *claims, path=path)
    assert answer.status in (200, 403)


def test_garbage_from_a_trusted_proxy_counts_as_the_proxy(tmp_path, path):
    config = '[server]\ntrusted_proxies = ["127.0.0.2"]\n' + STRICT
    with running_hub(tmp_path, config=config) as hub:
        for claim in ("unknown", "1.2.3.4:5", "999.0.0.1"):
            guess(hub, f"198.51.100.1, {claim}", times=1, path=path, source="127.0.0.2")
        (entry,) = (e for e in hub.api.get("/audit") if e["action"] == "peer.locked_out")
        assert entry["target"] == "127.0.0.2"


def test_a_network_of_ipv6_behind_a_proxy_is_one_guesser(tmp_path, path):
    with running_hub(tmp_path, config=PROXY + STRICT) as hub:
        for number in range(3):
            guess(hub, f"2001:db8::{number:x}", times=1, path=path)
        fresh = new_key(hub)
        assert ask(hub, fresh, "2001:db8::ffff", path=path).status == 429
        assert ask(hub, fresh, "2001:db8:0:1::1", path=path).status in (200, 403)


# ── agents ───────────────────────────────────────────────────────────────────────────────────────


def test_wrong_enrolment_tokens_lock_out_and_a_good_one_joins_afterwards(tmp_path):
    config = "[auth]\nattempts = 2\nlockout_ms = 3000\n"
    with running_hub(tmp_path, config=config) as hub, running_proxy(hub.address) as proxy:
        proxy.source = "127.0.0.2"
        used = hub.api.post("/enrollment-tokens")
        hub.api.delete(f"/enrollment-tokens/{used['id']}")
        for number in range(2):
            with stopped_agent(tmp_path, f"wrong-{number}") as agent:
                agent.begin(CMDOP_SERVER_URL=proxy.url, CMDOP_JOIN_KEY=used["token"])
                assert agent.wait_exit() == 2
        with stopped_agent(tmp_path, "patient") as agent:
            agent.join(hub, url=proxy.url)  # it tries until it may
            assert "too many wrong" in hub.log.read_text()
            assert hub.api.get(f"/machines/{agent.machine_id}")["name"] == "patient"
