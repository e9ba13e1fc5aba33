"""Which version is the later one."""

import pytest

from cmdop_appliance import __version__
from cmdop_appliance.release.numbers import order_of


def test_versions_come_in_their_order():
    ordered = [
        *("0.0.0", "0.1.0", "0.1.9rc2", "0.1.9", "0.1.10rc1", "0.1.10rc10", "0.1.10"),
        *("0.2.0", "1.0.0rc1", "1.0.0", "9.0.0", "10.0.0", "999999.999999.999999"),
    ]
    assert sorted(ordered, key=order_of) == ordered
    assert len({order_of(version) for version in ordered}) == len(ordered)


def test_this_program_has_a_version():
    assert order_of(__version__) > order_of("0.0.0")


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.2", "1.2.3.4", "v1.2.3", "1.2.3-4", "1.2.3rc", "1.2.3\n", "../1.2.3", "١.2.3"],
)
def test_what_is_no_version_has_no_place_among_them(text):
    with pytest.raises(ValueError, match="no version"):
        order_of(text)
