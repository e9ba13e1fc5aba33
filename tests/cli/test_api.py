"""Calls without a command of their own, machines for Ansible, and other names for the same."""

import json

import pytest

from tests.cli.files_cli import cmdop
from tests.sdk.scripted_hub import Asked, answer, scripted_hub

MACHINE = {
    "id": "mach_1",
    "name": "nas",
    "hostname": "nas.lan",
    "os": "Debian",
    "status": "online",
    "tags": ["web-app", "prod"],
}


def _hub():
    def script(asked: Asked):
        if asked.method == "PATCH":
            return answer(MACHINE | json.loads(asked.body))
        return answer([MACHINE])

    return scripted_hub(script)


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        (["GET", "/machines?limit=5"], ("GET", "/api/v1/machines", "limit=5", b"")),
        (["get", "machines"], ("GET", "/api/v1/machines", "", b"")),
        (["POST", "/x", "-d", '{"a": null, "b": 1}'], ("POST", "/api/v1/x", "", b'{"b": 1}')),
        (["PATCH", "/api/x", "-d", "-"], ("PATCH", "/api/x", "", b'{"a": 2}')),
    ],
)
def test_any_call_can_be_made(args, asked):
    with _hub() as hub:
        done = cmdop(hub, "api", *args, stdin=b'{"a": 2}')
    (made,) = hub.asked
    assert (made.method, made.path, made.query, made.body) == asked
    assert json.loads(done.stdout)["meta"] == {}


@pytest.mark.parametrize("body", ["{", "[]", "[" * 100_000])
def test_a_body_that_is_no_object_is_not_sent(body):
    with _hub() as hub:
        done = cmdop(hub, "api", "POST", "/x", "-d", body)
    assert (done.returncode, hub.asked) == (2, [])


def test_ansible_gets_groups_and_what_is_known_of_each_machine():
    facts = {
        "ansible_host": "nas.lan",
        "cmdop_id": "mach_1",
        "cmdop_os": {"__ansible_unsafe": "Debian"},
        "cmdop_status": "online",
        "cmdop_tags": [{"__ansible_unsafe": tag} for tag in ("web-app", "prod")],
    }
    with _hub() as hub:
        assert json.loads(cmdop(hub, "inventory", "--list").stdout) == {
            **{group: {"hosts": ["nas"]} for group in ("online", "tag_web_app", "tag_prod")},
            "_meta": {"hostvars": {"nas": facts}},
        }
        assert json.loads(cmdop(hub, "inventory", "--host", "nas").stdout) == facts
        assert cmdop(hub, "inventory", "--host", "none").returncode == 3
        assert cmdop(hub, "inventory").returncode == 2


@pytest.mark.parametrize(
    "text", ["{{ lookup('pipe', 'id') }}", "{%x%}", "-oProxyCommand=id", "a b"]
)
def test_nothing_that_a_machine_says_is_a_template_or_an_option_for_ansible(text):
    hostile = MACHINE | {"name": text, "hostname": text, "os": text, "tags": [text]}
    with scripted_hub(lambda _: answer([hostile])) as hub:
        listed = json.loads(cmdop(hub, "inventory", "--list").stdout)
    facts = listed.pop("_meta")["hostvars"]
    assert all(group == {"hosts": ["mach_1"]} for group in listed.values())
    plain = {"__ansible_unsafe": text}
    status = {"cmdop_id": "mach_1", "cmdop_status": "online"}
    assert facts == {"mach_1": {"cmdop_os": plain, "cmdop_tags": [plain], **status}}


def test_no_machine_takes_the_place_of_another_by_its_name():
    rogue = MACHINE | {"id": "mach_2", "hostname": "evil.lan"}
    with scripted_hub(lambda _: answer([MACHINE, rogue])) as hub:
        facts = json.loads(cmdop(hub, "inventory", "--list").stdout)["_meta"]["hostvars"]
    assert {name: each["ansible_host"] for name, each in facts.items()} == {
        "mach_1": "nas.lan",
        "mach_2": "evil.lan",
    }


@pytest.mark.parametrize(
    ("args", "body"),
    [
        (["rename", "nas", "storage"], {"name": "storage"}),
        (["label", "nas", "new", "prod"], {"tags": ["web-app", "prod", "new"]}),
        (["label", "nas", "--remove", "prod,none"], {"tags": ["web-app"]}),
    ],
)
def test_a_machine_is_renamed_and_labelled(args, body):
    with _hub() as hub:
        assert cmdop(hub, "machines", *args).returncode == 0
    assert json.loads(hub.asked[-1].body) == body


def test_a_label_that_says_nothing_changes_nothing():
    with _hub() as hub:
        assert cmdop(hub, "machines", "label", "nas").returncode == 2
    assert hub.asked == []


def test_keys_are_listed_under_their_own_name_too():
    with scripted_hub(lambda _: answer([{"id": "key_1"}])) as hub:
        assert cmdop(hub, "keys", "ls", "-o", "name").stdout == b"key_1\n"
