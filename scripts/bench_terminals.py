"""What a key's way there and back takes, beside ssh; and while ten terminals are flooded."""

import json
import os
import secrets
import selectors
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, Ping, Request, TextMessage

from scripts.bench_hub import CMDOP, Hub, appliance, processes_naming, read_answer
from tests.support.ssh import warm_ssh

KEYS = 1000
FLOODED = 10
FLOOD_S = 20.0
_KEYS_FLOODED = 300
_OFFSET_BYTES = 8
_READ_BYTES = 65536
_QUIET = {"stderr": subprocess.DEVNULL}

Report = Callable[..., None]


class Viewer:
    """A viewer of one terminal on a blocking socket: as little of its own as can be."""

    def __init__(self, hub: Hub, terminal_id: str) -> None:
        self.socket = socket.create_connection(hub.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._typed = 0
        target = f"/api/v1/terminals/{terminal_id}/socket"
        authorization = (b"Authorization", f"Bearer {hub.key}".encode())
        self._send(
            Request(
                host="hub",
                target=target,
                subprotocols=["cmdop.terminal.v1"],
                extra_headers=[authorization],
            )
        )
        start = {"type": "start", "offset": None, "writer": secrets.token_hex(16)}
        for event in self._events():
            if type(event).__name__ == "AcceptConnection":
                break
        self._send(TextMessage(json.dumps({**start, "cols": 80, "rows": 24, "mode": "operator"})))

    def type(self, data: bytes) -> None:
        """Send keys."""
        head = self._typed.to_bytes(_OFFSET_BYTES)
        self._typed += len(data)
        self._send(BytesMessage(head + data))

    def output(self) -> Iterator[bytes]:
        """What is written, as it comes."""
        whole = bytearray()
        for event in self._events():
            if isinstance(event, BytesMessage):
                whole += event.data
                if event.message_finished:
                    yield bytes(whole[_OFFSET_BYTES:])
                    whole.clear()

    def _events(self) -> Iterator[object]:
        while True:
            for event in self._ws.events():
                if isinstance(event, Ping):
                    self._send(event.response())
                yield event
            self._ws.receive_data(self.socket.recv(_READ_BYTES) or None)

    def _send(self, event: object) -> None:
        self.socket.sendall(self._ws.send(event))  # type: ignore[arg-type]


def open_terminal(hub: Hub, *argv: str) -> str:
    """The id of a new terminal."""
    with socket.create_connection(hub.address) as connection:
        path = f"/machines/{hub.machine()}/terminals"
        connection.sendall(hub.request("POST", path, {"argv": list(argv)}))
        opened: str = json.loads(read_answer(connection))["data"]["id"]
        return opened


def echo_samples(viewer: Viewer, count: int) -> list[float]:
    """Seconds from a key to its echo, one key at a time, each another than the one before."""
    samples = []
    output = viewer.output()
    for number in range(count):
        key = b"%c" % (ord("a") + number % 26)
        begun = time.perf_counter()
        viewer.type(key)
        while key not in next(output):
            pass
        samples.append(time.perf_counter() - begun)
    return samples


def ssh_echo_samples(ssh: list[str], count: int) -> list[float]:
    """The same through `ssh -tt`."""
    samples = []
    command = [*ssh[:1], "-tt", *ssh[1:], "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **_QUIET) as cat:
        assert cat.stdin is not None
        assert cat.stdout is not None
        sender, reader = cat.stdin.fileno(), cat.stdout.fileno()
        for number in range(count + 20):
            key = b"%c" % (ord("a") + number % 26)
            begun = time.perf_counter()
            os.write(sender, key)
            while key not in os.read(reader, _READ_BYTES):
                pass
            samples.append(time.perf_counter() - begun)
        cat.terminate()
    return samples[20:]  # without those of the start


def connect_echo_samples(hub: Hub, terminal_id: str, count: int) -> list[float]:
    """The same through `cmdop connect`, in a terminal of its own."""
    master, slave = os.openpty()
    environment = {
        **os.environ,
        "CMDOP_URL": f"http://{hub.address[0]}:{hub.address[1]}",
        "CMDOP_API_KEY": hub.key,
        "TERM": "xterm",
    }
    argv = [*CMDOP, "sessions", "attach", terminal_id]
    samples = []
    with subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    ) as client:
        os.close(slave)
        time.sleep(2.0)  # it is raw by then
        with selectors.DefaultSelector() as ready:
            ready.register(master, selectors.EVENT_READ)
            while ready.select(0.2):
                os.read(master, _READ_BYTES)
        for number in range(count):
            key = b"%c" % (ord("a") + number % 26)
            begun = time.perf_counter()
            os.write(master, key)
            while key not in os.read(master, _READ_BYTES):
                pass
            samples.append(time.perf_counter() - begun)
        client.terminate()
    os.close(master)
    return samples


@contextmanager
def flood(hub: Hub) -> Iterator[None]:
    """`yes` in ten terminals: one viewer of each reads, and one more of the first takes nothing."""
    with ExitStack() as stack:
        over = threading.Event()

        def read(viewer: Viewer) -> None:
            with suppress(OSError):
                for _ in viewer.output():
                    if over.is_set():
                        return

        threads = []
        for number in range(FLOODED):
            terminal_id = open_terminal(hub, "yes", "a line that comes again and again")
            viewer = Viewer(hub, terminal_id)
            stack.callback(viewer.socket.close)
            threads.append(threading.Thread(target=read, args=(viewer,), daemon=True))
            if number == 0:
                stalled = Viewer(hub, terminal_id)
                stack.callback(stalled.socket.close)
        for thread in threads:
            thread.start()
        yield
        over.set()


def run(
    report: Report,
    percentile: Callable[[list[float], float], float],
    memory_mb: Callable[[list[int]], float],
) -> None:
    """Print the table."""
    report("what", "figure", "beside", "target")
    with tempfile.TemporaryDirectory(prefix="cmdop-bench-") as name:
        folder = Path(name)
        with appliance(folder) as hub, warm_ssh(folder) as ssh:
            theirs = []
            terminal_id = open_terminal(hub, "cat")
            viewer = Viewer(hub, terminal_id)
            echo_samples(viewer, 50)
            if ssh is not None:
                theirs += ssh_echo_samples(ssh, KEYS // 2)
            ours = echo_samples(viewer, KEYS)
            if ssh is not None:
                theirs += ssh_echo_samples(ssh, KEYS // 2)
            beside = ""
            if theirs:
                floor = percentile(theirs, 0.5)
                report("ssh -tt, key to echo, p50", f"{floor:.2f} ms")
                report("ssh -tt, p99", f"{percentile(theirs, 0.99):.2f} ms")
                beside = f"{percentile(ours, 0.5) / floor:.1f} × ssh"
            report(
                "websocket, key to echo, p50", f"{percentile(ours, 0.5):.2f} ms", beside, "≤ 1.5 ×"
            )
            report("websocket, p99", f"{percentile(ours, 0.99):.2f} ms")
            through = connect_echo_samples(hub, terminal_id, KEYS)
            if theirs:
                beside = f"{percentile(through, 0.5) / floor:.1f} × ssh"
            report("cmdop sessions attach, p50", f"{percentile(through, 0.5):.2f} ms", beside)
            agents = processes_naming(f"--state-dir {hub.data_dir}/local-agent")
            keepers = processes_naming(f"keeper {hub.data_dir}/local-agent")
            before = memory_mb([hub.pid]), memory_mb(agents), memory_mb(keepers)
            with flood(hub):
                time.sleep(FLOOD_S / 4)
                early = memory_mb([hub.pid]), memory_mb(agents), memory_mb(keepers)
                flooded = echo_samples(Viewer(hub, terminal_id), _KEYS_FLOODED)
                time.sleep(FLOOD_S)
                late = memory_mb([hub.pid]), memory_mb(agents), memory_mb(keepers)
            p50, p99 = percentile(flooded, 0.5), percentile(flooded, 0.99)
            report(f"echo while {FLOODED} run `yes`, p50 / p99", f"{p50:.1f} / {p99:.1f} ms")
            for what, *figures in zip(("hub", "agent", "keeper"), before, early, late, strict=True):
                shown = " / ".join(f"{figure:.0f}" for figure in figures)
                report(f"{what}, before / in the flood / {FLOOD_S:.0f} s on", f"{shown} MB")
