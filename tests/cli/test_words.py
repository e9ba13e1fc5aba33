"""What stands behind `--`."""

import pytest

from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.words import shell_text, variables


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ((), ("df -h | sort",), "df -h | sort"),
        ((), ("echo", "a b", "$HOME"), "echo 'a b' '$HOME'"),
        (("uptime",), None, "uptime"),
    ],
)
def test_one_word_is_shell_text_and_several_are_one_command(before, after, text):
    assert shell_text(before, after, "cmdop …") == text


@pytest.mark.parametrize(
    ("before", "after"), [((), ()), ((), None), (("git",), ("x",)), ((), ("\udcff",))]
)
def test_a_command_that_is_missing_split_or_not_text_is_refused(before, after):
    with pytest.raises(Failure):
        shell_text(before, after, "cmdop …")


@pytest.mark.parametrize("assignment", ["A", "=1", ""])
def test_a_variable_without_a_name_or_a_value_is_refused(assignment):
    with pytest.raises(Failure, match="NAME=VALUE"):
        variables((assignment,))
