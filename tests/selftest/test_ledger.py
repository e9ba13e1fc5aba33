"""A part of the self test: what counts as broken, and when it ends."""

import pytest
import trio

from cmdop_appliance.sdk import ConnectionFailed
from cmdop_appliance.selftest.ledger import BrokenPromiseError, Part


def test_a_case_is_repeated_until_the_time_is_up_and_tried_once_at_least():
    part = Part("x")
    part.repeat(lambda: None, 0.0)
    assert part.cases == 1
    part.repeat(lambda: None, 0.01)
    assert part.cases > 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BrokenPromiseError("2 are lost"), "2 are lost"),
        (ConnectionFailed("the hub is not there"), "the hub is not there"),
        (trio.TooSlowError(), "it hangs"),
    ],
)
def test_what_breaks_a_promise_ends_the_part_and_is_told(error, said):
    def fail() -> None:
        raise error

    part = Part("x")
    with part.judging():
        part.repeat(fail, 60.0)
    assert (part.cases, part.failures) == (1, [said])


def test_a_bug_of_the_test_itself_is_no_broken_promise():
    part = Part("x")
    with pytest.raises(ZeroDivisionError), part.judging():
        part.repeat(lambda: 1 / 0, 60.0)
