"""What a firing looks up, of one that is due among thousands that are not."""

import re

import pytest

from cmdop_appliance.store import firings
from cmdop_appliance.store.engine import open_store
from tests.support import records


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path, inline=True) as store:
        yield store


@pytest.mark.parametrize("look", [firings.members_due, firings.open_due])
async def test_the_rest_is_found_from_the_schedules_that_are_due(store, look):
    seen: list[str] = []
    store._writer.exec_trace = lambda _cursor, sql, _parameters: seen.append(sql) or True

    def plan(tx) -> list[str]:
        look(tx, records.schedule("mach"))
        (sql,) = [sql for sql in seen if "schedule" in sql]
        nothing = dict.fromkeys(re.findall(r"(?<!:):(\w+)", sql))
        return [row[3] for row in tx._connection.execute(f"EXPLAIN QUERY PLAN {sql}", nothing)]

    steps = await store.run(lambda tx: plan(tx))
    assert not [step for step in steps if step.startswith("SCAN")]
    first = [step for step in steps if step.startswith("SEARCH schedule ")]
    assert first
    assert all("schedule_due" in step for step in first)
