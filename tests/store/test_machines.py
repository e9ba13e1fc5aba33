"""Machines: who they are, and what removing one takes along."""

import apsw
import msgspec
import pytest

from cmdop_appliance.auth import Reach
from cmdop_appliance.errors import Forbidden, MachineNotFound
from cmdop_appliance.store import machines, sessions
from cmdop_appliance.store.listing import Paging
from tests.support.records import FACTS, NOW, REACH, WORKSPACE, connected, joined, machine


async def listed(store, **filters) -> list[str]:
    paging = filters.pop("paging", Paging())
    page = await store.run(machines.page, REACH, paging, **filters)
    assert page.total == len(page.items)
    return [one.name for one in page.items]


async def test_a_machine_is_read_as_it_joined(store):
    made = await joined(store, name="döt", tags=["a", "b"])
    assert await store.run(machines.get, REACH, made.id) == made
    assert await store.run(machines.by_key, made.public_key) == made


async def test_two_machines_never_hold_one_key(store):
    made = await joined(store)
    with pytest.raises(apsw.ConstraintError):
        await store.run(machines.insert, machine(public_key=made.public_key), "enr_x")


async def test_a_connection_brings_new_facts_and_a_greater_epoch(store):
    made = await joined(store)
    facts = msgspec.structs.replace(FACTS, hostname="renamed")
    epochs = [
        await store.run(machines.next_epoch, made.id, facts=facts, ip="::2", now_ms=NOW + 5)
        for _ in range(3)
    ]
    assert epochs == [1, 2, 3]
    found = await store.run(machines.get, REACH, made.id)
    assert (found.facts, found.ip, found.last_seen_ms) == (facts, "::2", NOW + 5)
    assert found.name == made.name  # a label that people gave stays


async def test_a_clone_is_flagged(store):
    made = await joined(store)
    await store.run(machines.flag_clone, made.id, NOW + 5)
    assert (await store.run(machines.get, REACH, made.id)).clone_seen_ms == NOW + 5


async def test_a_removed_machine_is_listed_no_more_and_no_connection_speaks_for_it(store):
    made, _, _ = await connected(store)
    other, _, _ = await connected(store)
    await store.run(machines.remove, REACH, made.id, NOW + 9)
    assert await listed(store) == [other.name]
    assert await store.run(machines.epoch_of, made.id) is None


async def test_a_removed_machine_is_known_by_its_key_alone(store):
    made = await joined(store)
    assert await store.run(machines.removed_by_key, made.public_key) is None
    await store.run(machines.remove, REACH, made.id, NOW)
    assert await store.run(machines.removed_by_key, made.public_key) == made.id
    assert await store.run(machines.by_key, made.public_key) is None
    with pytest.raises(MachineNotFound):
        await store.run(machines.get, REACH, made.id)
    with pytest.raises(MachineNotFound):
        await store.run(machines.remove, REACH, made.id, NOW)


async def test_a_machine_of_another_workspace_is_not_found(store):
    made = await joined(store)
    with pytest.raises(MachineNotFound):
        await store.run(machines.get, Reach("ws_other"), made.id)
    with pytest.raises(MachineNotFound):
        await store.run(machines.remove, Reach("ws_other"), made.id, NOW)
    assert await store.run(machines.get, REACH, made.id) == made


async def test_a_machine_is_online_while_it_has_a_live_session(store):
    _, session_id, epoch = await connected(store, name="live")
    await joined(store, name="never")
    pending = await joined(store, name="pending")
    await store.run(sessions.connect, pending, facts=FACTS, ip="::1", now_ms=NOW)
    assert await listed(store, status="online") == ["live"]
    assert set(await listed(store, status="offline")) == {"never", "pending"}
    await store.run(sessions.lose, session_id, epoch, now_ms=NOW, grace_until_ms=NOW)
    assert await listed(store, status="online") == ["live"]  # it may be back any moment
    await store.run(sessions.end_expired, NOW + 1)
    assert await listed(store, status="online") == []


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("WEB", {"web-1", "Web_2"}),
        ("b_", {"Web_2"}),
        ("100%", {"100%"}),
        ("%", {"100%"}),
        ("back\\", {"back\\slash"}),
        ("host-of", {"web-1", "Web_2", "100%", "back\\slash"}),
        ("", {"web-1", "Web_2", "100%", "back\\slash"}),
        ("nobody", set()),
        ("' OR 1=1 --", set()),
    ],
)
async def test_a_search_finds_a_part_of_name_or_hostname_in_any_case(store, search, found):
    facts = msgspec.structs.replace(FACTS, hostname="host-of-all")
    for name in ("web-1", "Web_2", "100%", "back\\slash"):
        await joined(store, name=name, facts=facts)
    assert set(await listed(store, search=search)) == found


async def test_machines_can_be_put_in_every_order(store):
    for name, created_ms, last_seen_ms in (("b", NOW, NOW + 9), ("a", NOW + 1, NOW)):
        await joined(store, name=name, created_ms=created_ms, last_seen_ms=last_seen_ms)
    for sort, names in {
        "-created_at": ["a", "b"],
        "created_at": ["b", "a"],
        "name": ["a", "b"],
        "-last_seen": ["b", "a"],
    }.items():
        assert await listed(store, paging=Paging(sort=sort)) == names


async def test_tags_select_the_machines_that_have_all_of_them(store):
    for name, tags in (("a", ["web"]), ("b", ["web", "db"]), ("c", ["we_"]), ("d", ["website"])):
        await joined(store, name=name, tags=tags)
    by_name = Paging(sort="name")
    assert await listed(store, paging=by_name, tags=["web"]) == ["a", "b"]
    assert await listed(store, paging=by_name, tags=["web", "db"]) == ["b"]
    assert await listed(store, paging=by_name, tags=["we_"]) == ["c"]
    assert await listed(store, paging=by_name, tags=["none"]) == []


async def test_a_tag_is_of_its_case_and_the_search_of_any_in_every_language(store):
    await joined(store, name="DÖNER", tags=["Web"])
    assert await listed(store, tags=["web"]) == []
    assert await listed(store, tags=["Web"]) == ["DÖNER"]
    assert await listed(store, search="döner") == ["DÖNER"]


# ── changes ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_machine_is_found_by_its_new_name_and_tags_alone(store):
    made = await joined(store, name="old", tags=["a", "b"])
    edited = await store.run(machines.edit, REACH, made.id, name="New", tags=["c", "a", "c"])
    assert (edited.name, edited.tags) == ("New", ["c", "a"])
    assert await store.run(machines.get, REACH, made.id) == edited
    assert await listed(store, search="new") == ["New"]
    assert await listed(store, search="old") == []
    assert await listed(store, tags=["c", "a"]) == ["New"]
    assert await listed(store, tags=["b"]) == []
    few = Reach(WORKSPACE, ("c",))
    assert await store.run(machines.get, few, made.id) == edited
    with pytest.raises(MachineNotFound):
        await store.run(machines.get, Reach(WORKSPACE, ("b",)), made.id)


async def test_what_is_not_to_be_changed_stays(store):
    made = await joined(store, name="n", tags=["a"])
    assert await store.run(machines.edit, REACH, made.id, name=None, tags=None) == made
    assert (await store.run(machines.edit, REACH, made.id, name="m", tags=None)).tags == ["a"]
    assert (await store.run(machines.edit, REACH, made.id, name=None, tags=[])).name == "m"
    assert await listed(store, tags=["a"]) == []


async def test_a_new_hostname_is_searched_beside_the_name_that_people_gave(store):
    made = await joined(store, name="first")
    await store.run(machines.edit, REACH, made.id, name="given", tags=None)
    facts = msgspec.structs.replace(FACTS, hostname="Moved")
    await store.run(machines.next_epoch, made.id, facts=facts, ip="::1", now_ms=NOW)
    assert await listed(store, search="given moved") == ["given"]
    assert await listed(store, search="web-1") == []


async def test_a_key_keeps_the_tags_that_it_is_restricted_to(store):
    made = await joined(store, tags=["a", "b"])
    few = Reach(WORKSPACE, ("a",))
    with pytest.raises(Forbidden) as caught:
        await store.run(machines.edit, few, made.id, name="new", tags=["b"])
    assert caught.value.details == {"tags": ["a"]}
    assert await store.run(machines.get, REACH, made.id) == made
    assert (await store.run(machines.edit, few, made.id, name=None, tags=["c", "a"])).tags == [
        "c",
        "a",
    ]
    with pytest.raises(MachineNotFound):
        await store.run(machines.edit, Reach(WORKSPACE, ("b",)), made.id, name="x", tags=None)
