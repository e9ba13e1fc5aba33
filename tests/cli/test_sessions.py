"""`cmdop sessions`: what runs in terminals, found again and ended."""

import json

import pytest

from tests.cli.window import window
from tests.sdk.scripted_hub import answer, scripted_hub
from tests.support.appliance import wait_for

MACHINES = [{"id": "mach_1", "name": "nas"}]


def _terminal(name, **fields):
    usual = {
        "id": f"term_{name}",
        "kind": "terminal",
        "name": name,
        "machine_id": "mach_1",
        "status": "running",
        "cols": 80,
        "rows": 24,
        "agent": None,
        "user_email": "ann@default",
        "waiting": False,
        "ending": False,
        "viewers": {"operators": 1, "observers": 2},
        "created_at": "2030-01-01T00:00:00Z",
        "end": None,
        "exit_code": None,
        "signal": None,
        "error": None,
    }
    return {**usual, **fields}


def _hub(*terminals):
    def script(asked):
        match asked.path.removeprefix("/api/v1"):
            case "/machines":
                return answer(MACHINES)
            case "/terminals":
                status = [w[7:] for w in asked.query.split("&") if w.startswith("status=")]
                return answer([t for t in terminals if not status or t["status"] in status])
        return answer({"code": "terminal_not_found", "message": "no such terminal"}, status=404)

    return scripted_hub(script)


LISTED = [
    _terminal("main", cols=120, rows=40),
    _terminal("claude-1", kind="coding_session", agent="claude", waiting=True),
    _terminal("going", ending=True),
    _terminal("gone", waiting=True, stale_since="2030-01-01T00:00:00Z"),
    _terminal("\x1b[2Jnew", status="starting", machine_id="mach_2"),
    _terminal("done", status="ended", end="exited", exit_code=3),
    _terminal("dead", status="ended", end="lost", error={"code": "rebooted", "message": "…"}),
    _terminal("idle", status="ended", end="idle"),
]


def test_a_list_says_what_runs_what_it_is_and_whom_it_waits_for(command_line):
    with _hub(*LISTED) as hub:
        code, out, err = command_line(hub.url, "k", "sessions", "ls")
    assert (code, err) == (0, "")
    rows = [line.split("\t")[:-1] for line in out.splitlines()]
    assert rows == [
        ["\\x1b[2Jnew", "terminal", "mach_2", "starting", "ann@default", "3", "80x24"],
        ["main", "terminal", "nas", "running", "ann@default", "3", "120x40"],
        ["claude-1", "claude", "nas", "waiting", "ann@default", "3", "80x24"],
        ["going", "terminal", "nas", "ending", "ann@default", "3", "80x24"],
        ["gone", "terminal", "nas", "away", "ann@default", "3", "80x24"],
    ]


def test_a_list_of_all_has_those_that_ended_and_how(command_line):
    with _hub(*LISTED) as hub:
        code, out, _ = command_line(hub.url, "k", "sessions", "ls", "--all")
    assert code == 0
    states = {line.split("\t")[0]: line.split("\t")[3] for line in out.splitlines()}
    assert len(states) == len(LISTED)
    ended = {name: states[name] for name in ("done", "dead", "idle")}
    assert ended == {"done": "exited 3", "dead": "lost: rebooted", "idle": "idle"}


def test_a_list_is_filtered_and_given_to_programs_as_it_is(command_line):
    args = ["sessions", "ls", "--machine", "nas", "--kind", "coding"]
    with _hub(*LISTED) as hub:
        code, out, _ = command_line(hub.url, "k", *args, "-o", "jsonl")
        named = command_line(hub.url, "k", *args, "-o", "name")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()][1] == LISTED[0]
    assert named[1] == "\\x1b[2Jnew\nmain\nclaude-1\ngoing\ngone\n"
    asked = [one.query for one in hub.asked if one.path == "/api/v1/terminals"]
    assert all(query.startswith("machine_id=mach_1&kind=coding_session") for query in asked)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mai", 'session "mai" fits 2 sessions: main (term_main), maize (term_maize)'),
        ("mian", 'session "mian" not found'),
        ("done", 'session "done" not found'),
    ],
)
def test_who_is_meant_must_be_clear(command_line, name, said):
    with _hub(*LISTED, _terminal("maize")) as hub:
        code, out, err = command_line(hub.url, "k", "sessions", "end", name)
    assert (code, out) in ((2, ""), (3, ""))
    assert said.removeprefix("session ") in err
    assert "DELETE" not in [one.method for one in hub.asked]


def test_one_is_found_by_the_beginning_of_its_name_attached_to_and_ended(desk, command_line):
    machine = desk.agent.machine_id
    desk.hub.api.post(f"/machines/{machine}/terminals", name="lengthy", argv=["cat"])
    with window("sessions", "attach", "leng", **desk.environ) as one:
        one.type("abc\r")
        one.wait("abc\nabc")
        ended = command_line(desk.hub.api.url, desk.hub.api.key, "sessions", "end", "lengthy")
        assert ended[:2] == (0, "")
        assert ended[2] in ("ending lengthy\n", "lengthy has ended\n")
        assert one.wait_exit() == 255
        one.wait("lengthy on nas was ended")
    wait_for(lambda: not desk.running(), "it has ended")
