"""Tables for people, lines for pipes, the hub's own records for programs."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from cmdop_appliance.cli.output import show, show_one

ROWS = [
    {"id": "mach_1", "name": "nas", "tags": ["a", "b"], "last_seen": None, "extra": 1},
    {"id": "mach_2", "name": "e\x1bvil\t\n", "tags": [], "last_seen": "2026-01-01T00:00:00Z"},
]
COLUMNS = ["name", "tags", "last_seen"]


def test_a_pipe_gets_one_tab_separated_line_per_row(capsys):
    show(ROWS, COLUMNS, None)
    assert capsys.readouterr().out == ("nas\ta,b\t-\ne\\x1bvil\\t\\n\t-\t2026-01-01T00:00:00Z\n")


def test_a_table_is_aligned_under_its_header(capsys):
    show(ROWS, ["name", "tags"], "table")
    assert capsys.readouterr().out.splitlines() == [
        "NAME          TAGS",
        "nas           a,b",
        "e\\x1bvil\\t\\n  -",
    ]


def test_a_table_fits_the_terminal_and_leaves_ids_and_statuses_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    row = {"id": "cmd_" + "1" * 10, "status": "running", "command": "x" * 200_000}
    show([row], ["id", "status", "command"], "table")
    assert capsys.readouterr().out.splitlines() == [
        "ID              STATUS   COMM…",
        "cmd_1111111111  running  xxxx…",
    ]


def test_a_log_in_a_narrow_terminal_keeps_its_times_and_targets_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    at = (datetime.now(UTC) - timedelta(minutes=12)).isoformat()
    row = {"at": at, "actor": "ci@default", "target": "mach_" + "1" * 26, "details": "x" * 90}
    show([row], ["at", "actor", "target", "details"], "table")
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["AT", "ACTOR", "TARGET"]
    assert line.startswith("12 min ago  ")
    assert row["target"] in line
    assert len(line) == 60


def test_a_narrow_terminal_does_without_what_is_spare(capsys, monkeypatch):
    row = {"id": "cmd_1", "name": "nas", "events": "x" * 20, "url": "y" * 20, "note": "z" * 40}

    def titles(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        spare = ["events", "url"]
        show([row], [*row], "table", spare=spare, last_is_whole=True)
        head, line = capsys.readouterr().out.splitlines()
        assert line.endswith("  " + "z" * 40)
        return head.split()

    assert titles(61) == ["ID", "NAME", "EVENTS", "URL", "NOTE"]
    assert titles(60) == ["ID", "NAME", "URL", "NOTE"]
    assert titles(30) == ["ID", "NAME", "NOTE"]


def test_bytes_have_a_unit_in_a_table_and_none_in_a_pipe(capsys):
    rows = [{"sent_bytes": count} for count in (999, 1000, 1_234_567, 5 * 10**9, 10**12, None)]
    show(rows, ["sent_bytes"], "table")
    shown = ["SENT", "999 B", "1.0 kB", "1.2 MB", "5.0 GB", "1.0 TB", "-"]
    assert capsys.readouterr().out.splitlines() == shown
    show(rows[2:3], ["sent_bytes"], None)
    assert capsys.readouterr().out == "1234567\n"


def test_a_table_is_never_narrower_than_four_characters_a_column(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "5")
    show(ROWS, ["id", "name"], "table")
    assert capsys.readouterr().out.splitlines()[0] == "ID      NAME"


@pytest.mark.parametrize(
    ("offset", "shown"),
    [
        (timedelta(seconds=-3), "3 s ago"),
        (timedelta(minutes=-5), "5 min ago"),
        (timedelta(hours=-7), "7 h ago"),
        (timedelta(days=-40), "40 d ago"),
        (timedelta(hours=2, seconds=9), "in 2 h"),
    ],
)
def test_a_table_shows_how_long_ago_something_was(capsys, offset, shown):
    moment = (datetime.now(UTC) + offset).isoformat()
    show([{"last_seen": moment}], ["last_seen"], "table")
    assert capsys.readouterr().out == f"LAST SEEN\n{shown}\n"


@pytest.mark.parametrize("moment", ["yesterday\x1b", "2026-01-01T00:00:00", None])
def test_what_is_no_time_is_shown_as_it_is(capsys, moment):
    show([{"created_at": moment}], ["created_at"], "table")
    assert capsys.readouterr().out.splitlines()[1] in {"yesterday\\x1b", moment, "-"}


def test_an_empty_table_is_its_header(capsys):
    show([], COLUMNS, "table")
    assert capsys.readouterr().out == "NAME  TAGS  LAST SEEN\n"


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_programs_get_the_records_whole(capsys, form):
    show(ROWS, COLUMNS, form)
    out = capsys.readouterr().out
    assert (json.loads(out) if form == "json" else list(map(json.loads, out.splitlines()))) == ROWS


def test_name_is_the_first_column_alone(capsys):
    show(ROWS, COLUMNS, "name")
    assert capsys.readouterr().out == "nas\ne\\x1bvil\\t\\n\n"


def test_one_record_is_a_line_per_field(capsys):
    show_one({"id": "cmd_1", "stdout": "a\nb", "stderr": "", "env": {"A": "1"}}, None)
    assert capsys.readouterr().out == ('id\tcmd_1\nstdout\ta\\nb\nstderr\t-\nenv\t{"A": "1"}\n')


def test_the_name_of_one_record_is_the_field_that_names_it(capsys):
    show_one({"id": "mach_1", "name": "nas"}, "name", name="name")
    show_one({"id": "cmd_1", "name": "nas"}, "name")
    assert capsys.readouterr().out == "nas\ncmd_1\n"


def test_one_record_is_aligned_on_request(capsys):
    show_one({"id": "cmd_1", "status": "running"}, "table")
    assert capsys.readouterr().out == "id      cmd_1\nstatus  running\n"
