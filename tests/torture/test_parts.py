"""The ledger of the torture: what passed, what failed, and what could not be tried here."""

from contextlib import contextmanager

from tests.torture.parts import NotTriedError, Part, print_ledger, run_part


def _case(number, dice):
    if number == 1:
        raise AssertionError("on purpose")
    if number == 2:
        raise NotTriedError("not on this machine")


@contextmanager
def _stage(stage):
    yield _case


def _run(numbers, place, said):
    return run_part(Part("part", 4, 1.0, _stage), numbers, 7, 1, place, said.append)


def test_what_passes_is_good(tmp_path):
    outcome = _run([0, 3], tmp_path, [])
    assert (outcome.passed, outcome.failures, outcome.untried) == (2, [], 0)
    assert outcome.is_good


def test_a_failure_is_told_with_the_line_that_repeats_it(tmp_path):
    said = []
    outcome = _run([0, 1, 3], tmp_path, said)
    assert (outcome.passed, outcome.untried, outcome.is_good) == (2, 0, False)
    print_ledger([outcome], said.append)
    assert "repeat: scripts/torture --only part --seed 7 --case 1" in said


def test_what_cannot_be_tried_here_is_not_passed(tmp_path):
    said = []
    outcome = _run([0, 2, 3], tmp_path, said)
    assert (outcome.passed, outcome.failures, outcome.untried) == (2, [], 1)
    assert not outcome.is_good
    assert "part: case 2 NOT TRIED: not on this machine" in said
