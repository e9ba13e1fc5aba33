"""Which machine a word means."""

import pytest

from cmdop_appliance.cli.failures import NOT_FOUND, USAGE, Failure
from cmdop_appliance.cli.targets import pick

A, B, C, D = "mach_01A", "mach_01B", "mach_02C", "mach_02D"


def _machine(machine_id, name, hostname):
    return {"id": machine_id, "name": name, "hostname": hostname}


MACHINES = [
    _machine(A, "nas", "box"),
    _machine(B, "nas-2", "nas"),
    _machine(C, "web", "alpha"),
    _machine(D, "web", "beta"),
]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (A, A),
        ("nas", A),  # a name goes before another machine's host name, and before a longer name
        ("nas-", B),
        ("box", A),
        ("b", None),
        ("bo", A),
        ("beta", D),
        ("alp", C),
        ("mach_02D", D),
        ("web", None),
        ("mach_0", None),
    ],
)
def test_the_nearest_way_to_name_a_machine_decides(wanted, expected):
    if expected:
        assert pick(wanted, MACHINES)["id"] == expected
        return
    with pytest.raises(Failure) as caught:
        pick(wanted, MACHINES)
    assert caught.value.exit_code == USAGE
    assert "machines:" in caught.value.message


def test_an_ambiguous_word_lists_the_candidates_with_their_ids():
    with pytest.raises(Failure, match=rf"web \({C}\), web \({D}\)"):
        pick("web", MACHINES)


def test_a_long_list_of_candidates_is_cut():
    many = [_machine(f"mach_{n}", f"n{n}", "h") for n in range(9)]
    with pytest.raises(Failure, match="fits 9 machines") as caught:
        pick("n", many)
    assert caught.value.message.count("(mach_") == 5


@pytest.mark.parametrize(
    ("wanted", "meant"), [("nsa", "nas"), ("wbe", "web"), ("zzz", ""), ("", "")]
)
def test_an_unknown_word_is_answered_with_the_nearest_name(wanted, meant):
    with pytest.raises(Failure, match="not found") as caught:
        pick(wanted, MACHINES)
    assert (caught.value.exit_code, caught.value.did_you_mean) == (NOT_FOUND, meant)


def test_without_any_machine_the_hint_is_to_add_one():
    with pytest.raises(Failure) as caught:
        pick("nas", [])
    assert "machines add" in caught.value.hint
