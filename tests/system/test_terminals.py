"""Real programs on a machine's terminal, through the hub's websocket, as a person sees them."""

import shutil
from pathlib import Path
from random import Random

import pytest

from tests.support.appliance import wait_for
from tests.support.typist import typist
from tests.torture.parts import Stage
from tests.torture.terminals_kills import TERMINALS_KILLS

ESCAPE = "\x1b"


def program(name: str) -> str:
    """Where a program is; without it the test is skipped, and says so."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"NOT TESTED: there is no {name} here")
    return path


@pytest.fixture
def opened(api, machine):
    """Opens terminals; those that are left at the end are ended."""
    ids = []

    def open_terminal(*argv: str, **fields: object) -> str:
        record = api.post(f"/machines/{machine}/terminals", argv=list(argv), **fields)
        assert record["status"] == "running", record
        ids.append(record["id"])
        return str(record["id"])

    yield open_terminal
    for terminal_id in ids:
        answer = api.call("DELETE", f"/terminals/{terminal_id}")
        assert answer.status in (200, 409), answer


def test_vim_edits_and_writes_a_file_and_ends_with_its_exit_code(api, opened, tmp_path):
    file = tmp_path / "poem.txt"
    terminal_id = opened(program("vim"), "-u", "NONE", "-N", "-n", str(file))
    with typist(api, terminal_id) as person:
        person.wait_screen("~")
        person.type("ione\rtwo" + ESCAPE)
        person.wait_screen(lambda text: text.startswith("one\ntwo\n~"))
        person.type(":w\r")
        person.wait_screen("written")
        assert file.read_text() == "one\ntwo\n"
        person.type(":cq 3\r")
        end = person.wait_end()
    assert (end["end"], end["exit_code"]) == ("exited", 3)
    record = api.get(f"/terminals/{terminal_id}")
    assert (record["status"], record["exit_code"]) == ("ended", 3)


def test_less_pages_and_a_smaller_window_changes_the_page(api, opened, tmp_path):
    text = tmp_path / "lines"
    text.write_text("".join(f"line {number}\n" for number in range(1, 101)))
    with typist(api, opened(program("less"), str(text), cols=60, rows=10), cols=60, rows=10) as one:
        one.wait_screen(lambda shown: shown.splitlines()[:9] == [f"line {n}" for n in range(1, 10)])
        one.type(" ")
        one.wait_screen(lambda shown: shown.splitlines()[0] == "line 10")
        one.resize(60, 6)
        # less itself loses what is typed while it draws.
        one.wait_screen(
            lambda shown: shown.splitlines()[:5] == [f"line {n}" for n in range(10, 15)]
        )
        one.type("g")
        one.wait_screen(lambda shown: shown.splitlines()[:5] == [f"line {n}" for n in range(1, 6)])
        one.type("q")
        assert one.wait_end()["exit_code"] == 0


def test_top_draws_itself_anew_for_the_smallest_of_two_operators(api, opened):
    terminal_id = opened(program("top"), "-d", "0.5")
    with typist(api, terminal_id, cols=120, rows=40) as large:
        large.wait_screen("PID")
        with typist(api, terminal_id, cols=70, rows=20) as small:
            small.wait_screen("PID")
            smaller = {"type": "resize", "cols": 70, "rows": 20}
            wait_for(lambda: smaller in large.said, "the larger one hears of the size")
            small.type("q")
            assert large.wait_end()["exit_code"] == 0


def test_python_is_typed_to_and_answers(api, opened):
    with typist(api, opened(program("python3"), "-q")) as person:
        person.wait_screen(">>>")
        person.type("6 * 7\r")
        person.wait_screen("\n42\n")
        person.type("import os; os.get_terminal_size().columns\r")
        person.wait_screen("\n80\n")
        person.type("exit(5)\r")
        assert person.wait_end()["exit_code"] == 5


def test_a_shell_has_job_control_and_knows_who_opened_it(api, opened):
    with typist(api, opened("bash", "--norc", "--noprofile", "-i", env={"PS1": "$ "})) as person:
        person.wait_screen("$")
        person.type("echo as $CMDOP_OPERATOR; sleep 1000\r")
        person.wait_screen("\nas admin@default")
        person.type("\x1a")  # Ctrl-Z
        person.wait_screen("Stopped")
        person.type("kill -KILL %1; wait; tty\r")
        person.wait_screen("/dev/pts/")
        person.type("exit 4\r")
        assert person.wait_end()["exit_code"] == 4


def test_what_is_typed_while_hub_and_agent_are_dead_arrives_once(tmp_path):
    """The short form of scripts/torture --only terminals-kills."""
    program("vim")
    with TERMINALS_KILLS.stage(Stage(tmp_path / "stage", "1", print)) as case:
        case(0, Random(7))


def test_an_observer_sees_and_cannot_type(api, opened):
    terminal_id = opened("cat")
    with (
        typist(api, terminal_id) as person,
        typist(api, terminal_id, mode="observer") as other,
    ):
        other.type("not mine\r")
        assert other.wait_said("error")["code"] == "forbidden"
        person.type("mine\r")
        other.wait_screen("mine\nmine")
        assert "not mine" not in person.text


def test_ending_a_terminal_ends_what_runs_in_it(api, opened, tmp_path):
    marker = tmp_path / "pid"
    terminal_id = opened("bash", "--norc", "-ic", f"echo $$ > {marker}; sleep 1000 & sleep 1000")
    wait_for(lambda: marker.exists() and marker.read_text().strip(), "it runs")
    api.delete(f"/terminals/{terminal_id}")
    record = wait_for(
        lambda: r if (r := api.get(f"/terminals/{terminal_id}"))["status"] == "ended" else None,
        "it has ended",
    )
    assert record["end"] == "cancelled"
    pid = int(marker.read_text())
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "its shell is gone")
