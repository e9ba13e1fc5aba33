"""Rules held against a walk from minute to minute. scripts/torture --only cron does all of it."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cron_oracle import EXPRESSIONS, around, compare, draw_expression, walk
from tests.support.tzif import changes_between

CHANGES = changes_between(2000, 2100)


def test_known_rules_around_some_changes():
    for zone, change in Random(8).sample(CHANGES, 8):
        minutes = walk(zone, *around(change.at))
        for cron in EXPRESSIONS:
            compare(cron, zone, minutes)


@settings(max_examples=40)
@given(st.randoms(use_true_random=False), st.sampled_from(CHANGES))
def test_any_rule_around_any_change(dice: Random, place):
    zone, change = place
    compare(draw_expression(dice), zone, walk(zone, *around(change.at)))
