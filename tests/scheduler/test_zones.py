"""The changes of the zones, as found by asking zoneinfo, and names that are no zones."""

from random import Random

import pytest

from cmdop_appliance.scheduler import zones
from cmdop_appliance.scheduler.cron import CronError, Rule
from tests.support import tzif
from tests.support.cron_oracle import found_changes

# A week of summer in 2000, one in 2040, seconds in 1972, a day left out, two changes in spring.
PARTICULAR = [
    "America/Boa_Vista",
    "Asia/Gaza",
    "Africa/Monrovia",
    "Pacific/Apia",
    "Africa/Casablanca",
]


@pytest.mark.parametrize("name", PARTICULAR)
def test_no_change_of_a_particular_zone_is_overlooked(name):
    assert found_changes(name) == tzif.changes(name)


def test_no_change_of_some_zones_is_overlooked():
    for zone in Random(6).sample(tzif.zones(), 10):
        assert found_changes(zone.names[0]) == zone.changes


def test_a_change_just_before_a_block_is_known_in_it():
    change = next(c for c in tzif.changes("Europe/Berlin") if c.at > 1_000_000_000)
    block = change.at // zones._BLOCK_S + 1
    for at in (change.at, change.at + 3600):
        assert zones.span("Europe/Berlin", at).start == change.at
    later = zones._spans("Europe/Berlin", block)
    assert later[0].start == block * zones._BLOCK_S - zones.SETTLED_S


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Europe/Berln", "'Europe/Berln' is not a known time zone: write Europe/Berlin"),
        ("europe/berlin", "'europe/berlin' is not a known time zone: write Europe/Berlin"),
        ("utc", "'utc' is not a known time zone: write UTC"),
        ("New_York", "'New_York' is not a known time zone: write America/New_York"),
        ("", "'' is not a known time zone: write a name such as Europe/Berlin or UTC"),
        ("+02:00", "'+02:00' is not a known time zone: write"),
        ("../../etc/passwd", "'../../etc/passwd' is not a known time zone: write"),
        ("Europe/\x00", r"'Europe/\x00' is not a known time zone: write"),
        ("Europe/Zürich", r"'Europe/Z\xfcrich' is not a known time zone: write Europe/Zurich"),
        ("x" * 65, "65 characters are no time zone: write a name such as Europe/Berlin or UTC"),
        *(
            (name, f"'{name}' is not a known time zone: write ")
            for name in ("localtime", "Factory", "posixrules", "posix/UTC", "right/UTC")
        ),
    ],
)
def test_an_unknown_zone_is_refused_with_the_next_best(name, reason):
    with pytest.raises(CronError) as refusal:
        Rule.parse("0 3 * * *", name)
    assert str(refusal.value).startswith(reason)
    assert refusal.value.field == "timezone"
