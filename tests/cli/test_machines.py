"""`cmdop machines`: how the machines are listed."""

from tests.cli.files_cli import cmdop
from tests.sdk.scripted_hub import answer, scripted_hub

SEEN = "2026-01-01T00:00:00Z"


def _machine(name, status):
    own = {"id": "mach_" + "1" * 26, "name": name, "hostname": name, "status": status}
    return own | {"last_seen": SEEN, "os": "Debian GNU/Linux 12 (bookworm)", "tags": ["web"]}


def test_machines_are_listed_by_name_and_in_a_narrow_window_without_their_ids(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    machines = [_machine("web-" + "x" * 40, "offline"), _machine("nas", "online")]
    with scripted_hub(lambda _: answer(machines)) as hub:
        done = cmdop(hub, "machines", "ls", "-o", "table")
        piped = cmdop(hub, "machines", "ls")
    head, *lines = done.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["nas", lines[1].split()[0]]
    assert head.split()[:2] == ["NAME", "STATUS"]
    assert "ID" not in head.split()
    assert "offline" in lines[1]
    assert all(len(line) <= 80 for line in (head, *lines))
    assert piped.stdout.decode().splitlines()[0].split("\t")[-1] == machines[1]["id"]
