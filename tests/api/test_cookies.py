"""The cookie's two names, and what a browser is told about it."""

import pytest

from cmdop_appliance.api.cookies import cookie_header, cookie_in


@pytest.mark.parametrize(
    ("sent", "is_secure", "found"),
    [
        ("cmdop=abc", False, "abc"),
        ("theme=dark; cmdop=abc;x=y", False, "abc"),
        ("cmdop=a=b", False, "a=b"),
        ("__Host-cmdop=abc", True, "abc"),
        ("cmdop=forged; __Host-cmdop=abc", True, "abc"),
        ("cmdop=forged", True, None),
        ("__Host-cmdop=abc", False, None),
        ("cmdop=", False, None),
        ("cmdop", False, None),
        ("xcmdop=abc", False, None),
        ("CMDOP=abc", False, None),
        ("", False, None),
    ],
)
def test_only_the_cookie_of_its_way_counts(sent, is_secure, found):
    assert cookie_in({"cookie": sent}, is_secure=is_secure) == found


def test_no_script_and_no_other_site_gets_the_cookie():
    plain = cookie_header("abc", 60, is_secure=False)["Set-Cookie"]
    assert plain == "cmdop=abc; Max-Age=60; Path=/; HttpOnly; SameSite=Strict"
    secure = cookie_header("abc", 60, is_secure=True)["Set-Cookie"]
    assert secure == "__Host-cmdop=abc; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Strict"
