"""The table of routes on Quart."""

import pytest

from cmdop_appliance.api.app import make_app
from tests.support.live_hub import live_hub


async def test_no_start_of_a_hub_makes_what_makes_urls(tmp_path):
    async with live_hub(tmp_path) as live:
        for rule in make_app(live.hub)._others.url_map.iter_rules():
            with pytest.raises(NotImplementedError):
                rule.build(dict.fromkeys(rule.arguments, "x"))
