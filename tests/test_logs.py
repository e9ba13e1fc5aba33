"""The log: one JSON object a line, whatever is in it."""

import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_appliance.logs import JsonLines, log_to_stderr


def record(message: str, *args: object, exc_info=None, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("cmdop.x", logging.WARNING, __file__, 1, message, args, exc_info)
    vars(made).update(extra)
    return made


def written(made: logging.LogRecord) -> dict[str, object]:
    line = JsonLines().format(made)
    assert "\n" not in line
    assert line.isascii()
    return json.loads(line)


def test_a_line_has_time_level_logger_message_and_what_was_added():
    made = record("machine %s", "connected", machine_id="mach_1", count=2)
    made.created = 1.5
    assert written(made) == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "warning",
        "logger": "cmdop.x",
        "message": "machine connected",
        "machine_id": "mach_1",
        "count": 2,
    }


@given(st.text(alphabet=st.characters(), max_size=50))
def test_no_text_can_forge_a_second_line_or_a_field(text: str):
    line = written(record("said %s", text, why=text))
    assert line["message"] == f"said {text}"
    assert line["why"] == text
    assert set(line) == {"time", "level", "logger", "message", "why"}


def test_a_traceback_is_one_field():
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        line = written(record("failed", exc_info=sys.exc_info()))
    assert "ZeroDivisionError: division by zero" in line["traceback"]


def test_a_value_that_json_does_not_know_is_written_as_text():
    assert written(record("x", path=ValueError("y")))["path"] == "y"


@pytest.fixture
def own_logging():
    """Gives the process its logging back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def test_only_the_level_and_above_are_written_and_libraries_less(own_logging, capsys):
    log_to_stderr("info")
    logging.getLogger("cmdop.test").debug("no")
    logging.getLogger("cmdop.test").info("yes")
    logging.getLogger("trio-websocket").info("no")
    logging.getLogger("hypercorn.error").info("no")
    out, err = capsys.readouterr()
    assert out == ""
    assert [json.loads(line)["message"] for line in err.splitlines()] == ["yes"]
