"""API keys, scopes, callers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.auth import (
    GRANTABLE,
    Caller,
    Scope,
    new_key,
    presented_key,
    secret_hash,
    shown_prefix,
)
from cmdop_appliance.errors import Forbidden, Unauthorized


def caller(*scopes: str, name: str = "ci") -> Caller:
    return Caller("key_1", name, "ws_default", "default", frozenset(scopes))


def test_a_scope_allows_itself_and_nothing_else():
    reader = caller(Scope.MACHINES_READ)
    assert [scope for scope in GRANTABLE if reader.allows(scope)] == [Scope.MACHINES_READ]


def test_admin_allows_everything():
    assert all(caller(Scope.ADMIN).allows(scope) for scope in Scope)


def test_a_key_without_scopes_may_only_what_any_key_may():
    nobody = caller()
    assert nobody.allows(Scope.ANY_KEY)
    assert not any(nobody.allows(scope) for scope in GRANTABLE)


def test_classes_of_routes_are_granted_to_nobody():
    assert not {Scope.ANY_KEY, Scope.PUBLIC} & set(GRANTABLE)
    assert len(GRANTABLE) == 12  # contract.md §1, and the hub's own metrics


def test_one_of_several_scopes_is_enough_and_the_first_is_named():
    caller(Scope.SESSIONS_READ).require(Scope.MACHINES_READ, Scope.SESSIONS_READ)
    with pytest.raises(Forbidden) as caught:
        caller(Scope.SESSIONS_READ).require(Scope.COMMANDS_EXECUTE, Scope.ADMIN)
    assert caught.value.message == "Token lacks required permission: commands:execute"
    assert caught.value.details == {"required_permission": "commands:execute"}


def test_a_new_key_is_long_random_and_accepted():
    key, other = new_key(), new_key()
    assert key != other
    assert presented_key(f"Bearer {key}") == key
    assert len(key) == len("cmdop_apikey_") + 43  # 256 bits, base64


def test_what_is_shown_of_a_key_tells_little_of_it():
    key = new_key()
    shown = shown_prefix(key)
    assert key.startswith(shown)
    assert len(shown) == len("cmdop_apikey_") + 6


def test_what_is_kept_of_a_secret_is_its_hash():
    key = new_key()
    assert secret_hash(key) == secret_hash(key.encode())
    assert secret_hash("abc").startswith("ba7816bf8f01cfea")  # FIPS 180-2
    assert key not in secret_hash(key)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(scheme: str):
    key = new_key()
    assert presented_key(f"{scheme}  {key} ") == key


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic " + "A" * 43,
        "Bearer sk_" + "A" * 43,
        "Bearer cmdop_apikey_",
        "Bearer cmdop_apikey_" + "A" * 42,
        "Bearer cmdop_apikey_" + "A" * 44,
        "Bearer cmdop_apikey_" + "A" * 42 + "é",
        "Bearer cmdop_apikey_" + "A" * 20 + " " + "A" * 22,
        "cmdop_apikey_" + "A" * 43,
        "Bearer cmdop_apikey_" + "A" * 43 + "\0",
    ],
)
def test_what_cannot_be_a_key_of_ours_is_unauthorized(header: str | None):
    with pytest.raises(Unauthorized) as caught:
        presented_key(header)
    assert "A" * 20 not in caught.value.message + caught.value.hint


@given(st.text())
def test_any_header_is_a_key_or_unauthorized(header: str):
    try:
        key = presented_key(header)
    except Unauthorized:
        return
    assert key.isascii()


@given(st.text())
def test_a_caller_is_called_by_something_that_looks_like_an_address(name: str):
    local, at, domain = caller(name=name).email.rpartition("@")
    assert (at, domain) == ("@", "default")
    assert local.isascii()
    assert not set(local) & set("@\n\0 <>\"'")
