"""What a person gets to see of a refusal."""

import pytest

from cmdop_appliance.cli.failures import as_failure
from cmdop_appliance.sdk import Conflict, Forbidden, InvalidRequest, Unauthorized


@pytest.mark.parametrize("kind", [Forbidden, Conflict, InvalidRequest])
def test_the_hubs_hint_is_shown(kind):
    shown = as_failure(kind(400, "some_code", "in words", {"a": 1}, hint="do this"))
    assert (shown.message, shown.hint) == ("in words", "do this")


def test_where_the_hub_gives_no_hint_the_command_line_has_its_own():
    assert as_failure(Forbidden(403, "forbidden", "no")).hint.startswith("cmdop auth status")


def test_a_wrong_key_is_hinted_at_in_words_of_the_command_line():
    error = Unauthorized(401, "unauthorized", "no", hint="send it as `Authorization: Bearer …`")
    assert "CMDOP_API_KEY" in as_failure(error).hint


@pytest.mark.parametrize(
    ("message", "details", "shown"),
    [
        ("Validation failed", {"cwd": "is empty", "n": 1}, "Validation failed: cwd: is empty"),
        ("query parameter n: is odd", {"n": "is odd"}, "query parameter n: is odd"),
        ("no", {}, "no"),
    ],
)
def test_the_reasons_of_fields_are_shown_once(message, details, shown):
    failure = as_failure(InvalidRequest(422, "validation_failed", message, details))
    assert (failure.message, failure.hint) == (shown, "")
