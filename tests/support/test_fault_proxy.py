"""The proxy does what its faults say: a torture by a proxy that lets all through proves nothing."""

import socket
import struct
import threading
from contextlib import contextmanager

import pytest

from tests.support.appliance import wait_for
from tests.support.fault_proxy import Faults, running_proxy

PATIENCE_S = 10


@contextmanager
def _echo():
    """The address of a server that sends back what it gets, and how its connections ended."""
    ends = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
                ends.append("close")
            except ConnectionError:
                ends.append("reset")

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=[connection], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname(), ends
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.fixture
def echo():
    with _echo() as (address, ends):
        yield address, ends


@pytest.fixture
def proxy(echo):
    with running_proxy(echo[0], seed=7) as proxy:
        yield proxy


def _dial(proxy):
    connection = socket.create_connection(proxy.address, timeout=PATIENCE_S)
    connection.settimeout(PATIENCE_S)
    return connection


def _all(connection):
    """Everything until the end, and how that came."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        return data, "reset"
    return data, "close"


def _send(connection, data):
    """As far as it gets; the other side may end it meanwhile."""
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_without_faults_every_byte_and_both_ends_pass(proxy):
    data = bytes(range(256)) * 4096
    with _dial(proxy) as connection:
        sender = threading.Thread(target=_send, args=[connection, data])
        sender.start()
        assert _all(connection) == (data, "close")
        sender.join()


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_connection_is_cut_after_so_many_bytes_on_both_sides(proxy, echo, how):
    proxy.faults = Faults(cut_after_bytes=(1000, 1000), how=how)
    with _dial(proxy) as connection:
        connection.sendall(bytes(5000))
        assert _all(connection) == (b"", how)
    wait_for(lambda: echo[1] == [how], "the other side was told")
    assert proxy.cuts == 1


def test_a_connection_is_cut_after_a_while_and_the_next_one_is_new(proxy):
    proxy.faults = Faults(cut_after_s=(0.001, 0.02))
    for number in range(5):
        with _dial(proxy) as connection:
            assert _all(connection)[0] == b""
        assert proxy.cuts == proxy.connections == number + 1


def test_the_same_seed_draws_the_same_faults():
    def bytes_passed(seed):
        passed = []
        listener = socket.create_server(("127.0.0.1", 0))
        with listener, running_proxy(listener.getsockname(), seed) as proxy:
            proxy.faults = Faults(cut_after_bytes=(1, 50_000), how="close")
            for _ in range(5):
                with _dial(proxy) as connection:
                    _send(connection, bytes(60_000))
                    peer, _ = listener.accept()
                    with peer:
                        passed.append(len(_all(peer)[0]))
        return passed

    first = bytes_passed("a")
    assert len(set(first)) > 1
    assert bytes_passed("a") == first
    assert bytes_passed("b") != first


def test_a_frozen_connection_stays_open_and_carries_nothing_until_it_is_thawed(proxy, echo):
    with _dial(proxy) as connection:
        connection.sendall(b"before")
        assert connection.recv(100) == b"before"
        proxy.freeze()
        connection.sendall(b"after")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        assert echo[1] == []
        proxy.thaw()
        connection.settimeout(PATIENCE_S)
        assert connection.recv(100) == b"after"


def test_dribbled_bytes_arrive_in_order_and_never_many_at_once(echo):
    pieces = []
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, running_proxy(listener.getsockname(), seed=1) as proxy:
        proxy.faults = Faults(dribble_bytes=3, delay_s=(0.001, 0.002))
        with _dial(proxy) as connection:
            connection.sendall(b"0123456789")
            connection.shutdown(socket.SHUT_WR)
            peer, _ = listener.accept()
            with peer:
                while piece := peer.recv(100):
                    pieces.append(piece)
    assert b"".join(pieces) == b"0123456789"
    assert len(pieces) > 1


def test_a_replay_sends_the_bytes_of_an_earlier_client_again(proxy):
    with _dial(proxy) as connection:
        connection.sendall(b"an order")
        assert connection.recv(100) == b"an order"
    assert proxy.replay() == b"an order"


def test_nobody_behind_the_proxy_is_a_reset():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    with (
        running_proxy(address) as proxy,
        pytest.raises(ConnectionResetError),
        _dial(proxy) as connection,
    ):
        connection.recv(100)


def test_a_client_that_is_reset_is_gone_for_the_server_too(proxy, echo):
    _, ends = echo
    with _dial(proxy) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: ends, "the server hears of it", PATIENCE_S)
