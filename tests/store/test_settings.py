"""Single values of the hub."""

from cmdop_appliance.store import settings


async def test_the_first_value_stays(store):
    assert await store.run(settings.get_or_set, "hub_key", "first") == "first"
    assert await store.run(settings.get_or_set, "hub_key", "second") == "first"
    assert await store.run(settings.get_or_set, "other", "second") == "second"
