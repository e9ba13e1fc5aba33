"""A store that is tried: whatever is done to it, it can be as it was."""

import pytest

from cmdop_appliance.errors import StartupError
from cmdop_appliance.store import migrate, settings, trial
from cmdop_appliance.store.engine import DATABASE_FILE, open_store

LATER = "CREATE TABLE later (id TEXT PRIMARY KEY);\n"


@pytest.fixture
async def closed(tmp_path):
    """A data directory whose store holds something."""
    async with open_store(tmp_path) as store:
        await store.run(settings.get_or_set, "name", "before")
        assert not trial.is_closed(tmp_path)
    assert trial.is_closed(tmp_path)
    return tmp_path


async def tried(place, monkeypatch) -> None:
    """A later release opens the store there, and writes more than is kept in a log otherwise."""
    scripts = {**migrate._scripts(), 9000: LATER}
    with monkeypatch.context() as later:
        later.setattr(migrate, "_scripts", lambda: scripts)
        async with open_store(place, is_trial=True) as store:
            for number in range(40):
                await store.run(settings.get_or_set, f"x{number}", "y" * 500_000)
            assert await store.run(settings.get_or_set, "name", "?") == "before"


async def test_what_a_trial_did_is_taken_back_to_the_byte(closed, monkeypatch):
    before = (closed / DATABASE_FILE).read_bytes()
    await tried(closed, monkeypatch)
    assert not trial.is_closed(closed)
    assert (closed / DATABASE_FILE).read_bytes() == before
    with pytest.raises(StartupError, match="schema 9000"):
        async with open_store(closed, is_trial=True):
            pytest.fail("the log is not read")
    trial.take_back(closed)
    assert trial.is_closed(closed)
    assert (closed / DATABASE_FILE).read_bytes() == before
    async with open_store(closed) as store:
        assert await store.run(settings.get_or_set, "x1", "none") == "none"


async def test_what_a_trial_did_stays_if_nobody_takes_it_back(closed, monkeypatch):
    await tried(closed, monkeypatch)
    scripts = {**migrate._scripts(), 9000: LATER}
    monkeypatch.setattr(migrate, "_scripts", lambda: scripts)
    async with open_store(closed) as store:
        assert await store.run(settings.get_or_set, "x1", "none") == "y" * 500_000
    assert trial.is_closed(closed)
