"""`cmdop dashboard`: a link that signs a browser in, on standard output and nowhere else."""

import re

import pytest

from tests.support.appliance import Api, running_hub, wait_for

OURS = {"Sec-Fetch-Site": "same-origin"}


def opened(hub, link: str):
    """Who a browser is that opens this link."""
    url, _, token = link.partition("/sign-in#")
    made = Api(hub.api.url, "").call("POST", "/sign-ins", {"link": token}, headers=OURS)
    return url, made


@pytest.mark.parametrize("name", ["dashboard", "open"])
def test_the_link_signs_a_browser_in_as_the_key_of_the_command_line(hub, command_line, name):
    key = hub.new_key("machines:read")
    code, printed, said = command_line(hub.api.url, key.key, name)
    assert (code, printed.count("\n")) == (0, 1)
    assert "10 minutes" in said
    assert "good on the hub's own machine only" in said
    url, made = opened(hub, printed.strip())
    assert (url, made.data["permissions"]) == (hub.api.url, ["machines:read"])
    assert opened(hub, printed.strip())[1].status == 401


def test_the_banner_has_one_for_the_admin_and_the_public_address(tmp_path, command_line):
    config = '[server]\npublic_url = "https://hub.example"\n'
    with running_hub(tmp_path, config=config) as hub:
        wait_for(lambda: "Ctrl-C" in hub.out.read_text(), "the whole banner is printed")
        banner = hub.out.read_text()
        (link,) = re.findall(r"^  sign in    (\S+)$", banner, re.MULTILINE)
        url, made = opened(hub, link)
        assert (url, made.data["permissions"]) == ("https://hub.example", ["admin"])
        assert "https://hub.example" in banner.partition("  join ")[2]
        _, printed, said = command_line(hub.api.url, hub.api.key, "dashboard", "-q")
        assert printed.startswith("https://hub.example/sign-in#cmdop_link_")
        assert said == ""
        assert link.partition("#")[2] not in hub.log.read_text()
