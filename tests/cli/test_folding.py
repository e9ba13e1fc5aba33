"""What many machines said, as one person reads it."""

import pytest

from cmdop_appliance.cli.folding import Outcome, fold, prefixed
from cmdop_appliance.cli.risks import is_risky

SAME = "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n"
OTHER = SAME.replace("two", "2")


def test_equal_outputs_are_shown_once_and_others_as_what_differs():
    outcomes = [Outcome("c", "", OTHER), *(Outcome(name, "", SAME) for name in "ba")]
    assert list(fold(outcomes)) == [
        "=== 2 machines: a, b",
        *SAME.splitlines(),
        "=== 1 machine: c (beside that of the 2 machines)",
        *("@@ -1,5 +1,5 @@", " one", "-two", "+2", " three", " four", " five"),
    ]


def test_a_difference_that_is_longer_than_the_output_is_not_shown():
    outcomes = [Outcome("a", "", SAME), Outcome("b", "", SAME), Outcome("c", "exit 2", "no\n")]
    assert list(fold(outcomes))[-2:] == ["=== 1 machine: c: exit 2", "no"]


def test_without_two_that_agree_nothing_is_compared():
    shown = list(fold([Outcome("a", "", SAME), Outcome("b", "", OTHER)]))
    first, second = SAME.splitlines(), OTHER.splitlines()
    assert shown == ["=== 1 machine: a", *first, "=== 1 machine: b", *second]


@pytest.mark.parametrize("differs", [{"said": "exit 1"}, {"fingerprint": "2"}])
def test_machines_that_differ_in_how_they_ended_or_in_what_is_not_shown_stay_apart(differs):
    usual = {"said": "", "text": "x", "fingerprint": "1"}
    shown = list(fold([Outcome("a", **usual), Outcome("b", **{**usual, **differs})]))
    assert [line for line in shown if line.startswith("===")][1].startswith("=== 1 machine: b")


def test_what_machines_say_cannot_reach_the_terminal():
    hostile = Outcome("n\x1b[2J", "e\x07", "a\tb\x1b]0;x\x07\r\n")
    assert list(fold([hostile])) == ["=== 1 machine: n\\x1b[2J: e\\x07", "a\tb\\x1b]0;x\\x07\\r"]
    assert list(prefixed("n\x1b", "a\x1b\n\nb")) == ["n\\x1b: a\\x1b", "n\\x1b: ", "n\\x1b: b"]


def test_long_outputs_are_not_compared_line_by_line():
    long = "".join(f"{number}\n" for number in range(2001))
    shown = list(fold([*(Outcome(name, "", long) for name in "ab"), Outcome("c", "", long + "x")]))
    assert shown.count("2000") == 2


@pytest.mark.parametrize(
    "command",
    [
        *("rm -rf /srv/x", "cd / && rm -v -f x", "sudo rm x -r", "mkfs.ext4 /dev/sda"),
        *("dd if=/dev/zero of=/dev/sda", "reboot", "/sbin/poweroff -f", "echo x > /dev/sda"),
        *("psql -c 'drop table users'", "chmod -R 777 /", "wipefs -a /dev/sdb"),
    ],
)
def test_what_one_regrets_is_recognised(command):
    assert is_risky(command)


@pytest.mark.parametrize(
    "command",
    [
        *("uname -a", "ls -rf", "rm x", "df -h > /dev/null", "dd if=/dev/sda | wc -c", "form -r"),
        *("echo x >/dev/stderr", "systemctl restart nginx", "cat /var/run/reboot-required"),
    ],
)
def test_what_harms_nobody_is_not(command):
    assert not is_risky(command)
