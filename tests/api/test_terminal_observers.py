"""Whoever may only look at a machine looks at its terminals, too, and does nothing there."""

from pathlib import Path

import pytest

from tests.api.contract_table import error_of
from tests.api.onlookers import mark, new_terminal, refusals
from tests.support.appliance import Agent, Api, Hub, wait_for
from tests.support.typist import Typist, typist


@pytest.fixture
def shell(hub: Hub, agent: Agent):
    """A terminal in which a shell says what is typed, and how large it is."""
    script = "stty -echo; echo ready; while read line; do stty size; eval $line; done"
    terminal_id = new_terminal(hub, agent.machine_id, "sh", "-c", script)
    yield terminal_id
    hub.api.call("DELETE", f"/terminals/{terminal_id}")


def closed_with(api: Api, terminal_id: str, mode: str) -> int | None:
    """The code with which a socket is closed."""
    with typist(api, terminal_id, mode=mode) as person:
        return person.close_code


def test_a_key_that_may_only_read_looks_at_a_terminal_and_does_not_type(hub, reader, place, shell):
    assert closed_with(reader, shell, "operator") == 4403
    assert len(refusals(hub, reader)) == 1
    marker = mark(place)
    with typist(reader, shell, mode="observer", cols=40, rows=10) as person:
        types_nothing(hub, person, shell, marker)
    assert len(refusals(hub, reader)) == 3


def test_an_attached_observer_looks_at_a_terminal_and_does_not_type(hub, onlooker, place, shell):
    assert closed_with(onlooker, shell, "operator") == 4403
    marker = mark(place)
    with typist(onlooker, shell, mode="observer", cols=40, rows=10) as person:
        types_nothing(hub, person, shell, marker)
    assert refusals(hub, onlooker)


def types_nothing(hub: Hub, person: Typist, terminal_id: str, marker: Path) -> None:
    """What an observer types and how large its window is has no effect, and it is told so."""
    person.wait_screen("ready")
    person.type(f"touch {marker}\n")
    person.resize(41, 11)
    wait_for(lambda: [m["type"] for m in person.said].count("error") == 2, "both are refused")
    assert {m["code"] for m in person.said if m["type"] == "error"} == {"forbidden"}
    with typist(hub.api, terminal_id, cols=90, rows=20) as other:
        other.type("echo typed\n")
        person.wait_screen("typed")
        assert "20 90" in other.wait_screen("typed")
    assert not marker.exists()


@pytest.mark.parametrize("who", ["reader", "onlooker"])
def test_an_observer_gets_a_ticket_to_look_and_none_to_type(hub, request, shell, who):
    api = request.getfixturevalue(who)
    path = f"/terminals/{shell}/tickets"
    for body in ({}, {"mode": "operator"}):
        error_of(api.call("POST", path, body), 403, "forbidden")
    assert api.post(path, mode="observer")["mode"] == "observer"
    assert len(refusals(hub, api)) == 2
