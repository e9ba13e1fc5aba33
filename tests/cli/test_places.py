"""How people write where a file is."""

import pytest

from cmdop_appliance.cli.failures import Failure
from cmdop_appliance.cli.places import (
    Remote,
    below,
    name_of,
    named_place,
    read_place,
    remote_place,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nas:/etc/hosts", ("nas", "/etc/hosts")),
        ("nas:etc/hosts", ("nas", "etc/hosts")),
        ("nas:", ("nas", ".")),
        ("nas:~", ("nas", ".")),
        ("nas:~/", ("nas", ".")),
        ("nas:~/a/~/b", ("nas", "a/~/b")),
        ("nas:~user", ("nas", "~user")),
        ("nas:a:b", ("nas", "a:b")),
        ("*:/x", ("*", "/x")),
        ("tag:web:/x", ("tag:web", "/x")),
        ("tag:a,b:", ("tag:a,b", ".")),
        ("tag::/x", ("tag:", "/x")),
        ("tag:/x", ("tag", "/x")),  # a machine of that name
        ("tag:x", ("tag", "x")),
        ("tag:a/b:c", ("tag", "a/b:c")),
        ("./a:b", None),
        ("/a:b", None),
        (":a", None),
        ("a", None),
        ("-", None),
        ("", None),
    ],
)
def test_what_stands_before_the_first_colon_is_a_machine_unless_a_slash_does(text, expected):
    assert read_place(text) == (Remote(*expected) if expected else None)


def test_what_must_be_on_a_machine_says_how_that_is_written():
    with pytest.raises(Failure) as caught:
        remote_place("/etc/hosts")
    assert caught.value.hint == "write MACHINE:PATH"


@pytest.mark.parametrize(
    "path", ["", ".", "..", "/", "//", "~", "~/", "./", "/a/.", "/a/..", "/a/../", "a/./"]
)
def test_what_is_to_leave_its_place_has_a_name(path):
    with pytest.raises(Failure) as caught:
        named_place(f"nas:{path}")
    assert caught.value.exit_code == 2
    assert f'"nas:{path}"' in caught.value.message
    assert named_place(f"nas:{path}/b").path.endswith("b")


@pytest.mark.parametrize(
    ("path", "name"), [("/a/b", "b"), ("a/", "a"), (".", ""), ("a/..", ""), ("/", ""), ("a/.", "")]
)
def test_the_last_part_of_a_path_is_its_name(path, name):
    assert name_of(path) == name


def test_a_path_below_the_home_counts_from_it():
    assert below(".", "a") == "a"
    assert below("/", "a") == "/a"
