"""What an agent is told when it comes while something happens."""

import json
import select
import socket

from cmdop_appliance.agent.keeper.link import Agent
from cmdop_appliance.agent.keeper.records import Record

TAKEN = {"event": "taken", "id": "term_1", "writer": "w", "offset": 1}


def read(agent: Agent, epoll: select.epoll, peer: socket.socket) -> list[str]:
    """The names of the events, until there are no more."""
    peer.setblocking(False)
    received = b""
    while not received.endswith(b'"ready"}\n'):
        for _, happened in epoll.poll(0):
            assert list(agent.lines(happened)) == []
        received += peer.recv(1_000_000)
    return [json.loads(line)["event"] for line in received.splitlines()]


def test_who_comes_is_told_every_record_and_nothing_else_before_it_is_ready():
    records = {f"cmd_{n}": Record(id=f"cmd_{n}", state="refused") for n in range(2000)}
    gone = []
    with select.epoll() as epoll:
        agent = Agent(epoll, records, gone.append)
        agent.tell_now(TAKEN)  # nobody is there
        ours, peer = socket.socketpair()
        with peer:
            agent.connect(ours, {"event": "hello"})
            agent.tell_now(TAKEN)
            agent.tell_of("cmd_0", "is told as a record")
            told = read(agent, epoll, peer)
            assert told == ["hello", *["record"] * 2001, "ready"]
            agent.tell_now(TAKEN)
            assert json.loads(peer.recv(1000)) == TAKEN
            agent.tell_of("cmd_0", "as it is")
            assert peer.recv(1000) == b"as it is\n"
        assert agent.is_connected
        assert list(agent.lines(select.EPOLLIN)) == []
        assert not agent.is_connected
    assert gone == [""]


def test_who_does_not_ask_for_terminals_is_told_nothing_of_them():
    records = {
        "cmd_1": Record(id="cmd_1", state="running"),
        "term_1": Record(id="term_1", state="running", is_terminal=True),
    }
    with select.epoll() as epoll:
        agent = Agent(epoll, records, lambda _reason: None)
        agent.tell_terminals()  # nobody is there
        ours, peer = socket.socketpair()
        with peer:
            agent.connect(ours, {"event": "hello"})
            agent.tell_of("term_1", "is not for it")
            assert read(agent, epoll, peer) == ["hello", "record", "ready"]
            agent.tell_terminals()
            assert read(agent, epoll, peer) == ["record", "ready"]
            agent.tell_of("term_1", "as it is")
            assert peer.recv(1000) == b"as it is\n"
            agent.drop("")
