"""Access tokens: what is in one, and what is none."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.auth import new_key
from cmdop_appliance.errors import Unauthorized
from cmdop_appliance.hub.access_tokens import AccessTokens, Shown

TOKENS = AccessTokens(b"s" * 32)
KEY = new_key()
TOKEN = TOKENS.issue(KEY, 2**40)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
def test_a_token_shows_its_key_and_its_time(scheme):
    assert TOKENS.shown(f"{scheme} {TOKEN} ") == Shown(KEY, 2**40)


def test_a_key_shows_itself():
    assert TOKENS.shown(f"Bearer {KEY}") == Shown(KEY, None)


def test_no_two_tokens_are_alike_and_none_tells_of_its_key():
    assert TOKENS.issue(KEY, 2**40) != TOKEN
    random = base64.urlsafe_b64decode(f"{TOKEN.removeprefix('cmdop_token_')}=")
    secret = KEY.removeprefix("cmdop_apikey_")
    for part in (secret.encode(), base64.urlsafe_b64decode(f"{secret}=")):
        assert part[:8] not in random
    assert secret[:8] not in TOKEN
    assert KEY not in repr(TOKENS.shown(f"Bearer {TOKEN}"))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}A",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN.replace('cmdop_token_', 'cmdop_apikey_')}",
        f"Bearer {AccessTokens(b't' * 32).issue(KEY, 2**40)}",
        "Bearer cmdop_token_" + "A" * 123,
    ],
)
def test_what_is_no_token_of_this_hub_is_unauthorized(header):
    with pytest.raises(Unauthorized) as caught:
        TOKENS.shown(header)
    assert TOKEN not in caught.value.message + caught.value.hint


@given(st.data())
def test_a_token_in_which_anything_is_changed_is_none(data):
    place = data.draw(st.integers(len("cmdop_token_"), len(TOKEN) - 2))
    other = data.draw(st.characters(codec="ascii", categories=("L", "N")))
    if other != TOKEN[place]:
        with pytest.raises(Unauthorized):
            TOKENS.shown(f"Bearer {TOKEN[:place]}{other}{TOKEN[place + 1 :]}")
