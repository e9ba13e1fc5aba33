"""What people are told, in the forms of what shows it to them."""

import json
import re
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdop_appliance.model import EVENT_TYPES, Preset
from cmdop_appliance.webhooks.presets import check_preset_url, render
from cmdop_appliance.webhooks.targets import parse_url

PRESETS = get_args(Preset)
URLS = {
    "ntfy": "https://ntfy.example/alerts?auth=SECRET",
    "gotify": "https://gotify.example/sub/message?token=SECRET",
    "discord": "https://discord.com/api/webhooks/123/SECRET-token_?thread_id=7",
    "slack": "https://hooks.slack.com/services/T0/B0/SECRET",
    "telegram": "https://api.telegram.org/bot123:SECRET/sendMessage?chat_id=-100200&message_thread_id=7"
    "&disable_notification=true&message_effect_id=5104841245755180586",
}
FAILED = {
    "id": "evt_7",
    "type": "schedule.failed",
    "timestamp": "2026-02-14T10:30:00.000Z",
    "seq": 7,
    "machine_name": "nas",
    "data": {
        "schedule_id": "sched_1",
        "name": "backup",
        "run_id": "run_1",
        "scheduled_at": "2026-02-14T10:00:00.000Z",
        "machine_id": "mach_1",
        "command_id": "cmd_1",
        "status": "failed",
        "reason": None,
        "message": None,
        "exit_code": 1,
        "duration": 1234,
    },
}
ONLINE = FAILED | {
    "type": "machine.online",
    "machine_name": None,
    "data": {"machine_id": "mach_1", "hostname": "nas.lan"},
}
TEXT = (
    "exit code: 1\nduration: 1.2 s\nscheduled at: 2026-02-14T10:00:00.000Z\nmachine: nas\n"
    "machine id: mach_1\nschedule: sched_1\nrun: run_1\n"
    "command: cmd_1\nat: 2026-02-14T10:30:00.000Z\nevent: evt_7"
)
ONLINE_TEXT = "machine id: mach_1\nat: 2026-02-14T10:30:00.000Z\nevent: evt_7"
# The invisible character that keeps a chat from seeing a link.
NAS_LAN = "nas.\u2060lan"


def named(name: str, **data: object) -> dict:
    return FAILED | {"data": FAILED["data"] | {"name": name} | data}


def rendered(preset: str, event: dict) -> dict:
    return json.loads(render(preset, URLS[preset], event).body)


def shown(preset: str, event: dict) -> str:
    """All that a person would read."""
    fields = rendered(preset, event)
    return "\n".join(
        fields[key] for key in ("title", "message", "content", "text") if key in fields
    )


def test_without_a_preset_it_is_the_event_as_compact_json():
    event = FAILED | {"more": "x", "data": {"name": "Büro", "none": None, "list": [1, 2.5, True]}}
    outgoing = render(None, "https://a/b?c", event)
    assert outgoing.url == "https://a/b?c"
    assert outgoing.headers == {"Content-Type": "application/json"}
    assert outgoing.body.decode() == (
        '{"id":"evt_7","type":"schedule.failed","timestamp":"2026-02-14T10:30:00.000Z","seq":7,'
        '"data":{"name":"Büro","none":null,"list":[1,2.5,true]}}'
    )


@pytest.mark.parametrize(
    ("preset", "event", "url", "body"),
    [
        (
            "ntfy", FAILED, "https://ntfy.example/?auth=SECRET",
            {"topic": "alerts", "title": "backup failed on nas", "message": TEXT, "priority": 4,
             "tags": ["warning"]},
        ),
        (
            "ntfy", ONLINE, "https://ntfy.example/?auth=SECRET",
            {"topic": "alerts", "title": f"{NAS_LAN} is online", "message": ONLINE_TEXT,
             "priority": 3, "tags": []},
        ),
        (
            "gotify", FAILED, URLS["gotify"],
            {"title": "backup failed on nas", "message": TEXT, "priority": 8,
             "extras": {"client::display": {"contentType": "text/plain"}}},
        ),
        (
            "gotify", ONLINE, URLS["gotify"],
            {"title": f"{NAS_LAN} is online", "message": ONLINE_TEXT, "priority": 4,
             "extras": {"client::display": {"contentType": "text/plain"}}},
        ),
        (
            "discord", FAILED, URLS["discord"],
            {"content": "**backup failed on nas**\n"
             + TEXT.replace("_", "\\_").replace("-", "\\-"),
             "allowed_mentions": {"parse": []}, "flags": 4},
        ),
        (
            "slack", FAILED, URLS["slack"],
            {"text": f"backup failed on nas\n{TEXT}", "mrkdwn": False, "unfurl_links": False,
             "unfurl_media": False},
        ),
        (
            "telegram", FAILED, "https://api.telegram.org/bot123:SECRET/sendMessage",
            {"message_thread_id": 7, "disable_notification": True,
             "message_effect_id": "5104841245755180586", "chat_id": "-100200",
             "text": f"backup failed on nas\n{TEXT}",
             "link_preview_options": {"is_disabled": True}},
        ),
    ],
)  # fmt: skip
def test_a_preset_says_it_in_the_receivers_own_form(preset, event, url, body):
    outgoing = render(preset, URLS[preset], event)
    assert json.loads(outgoing.body) == body
    assert outgoing.url == url
    assert outgoing.headers == {"Content-Type": "application/json"}
    assert outgoing == render(preset, URLS[preset], event)  # the same bytes at every attempt


@pytest.mark.parametrize(
    ("kind", "machine", "data", "title"),
    [
        ("command.failed", None, {"machine_id": "mach_1"}, "command failed"),
        ("command.failed", "nas", {}, "command failed on nas"),
        ("command.timeout", "nas", {}, "command timed out on nas"),
        ("command.lost", "my_nas", {}, "command was lost on my_nas"),
        ("machine.registered", None, {"name": "nas", "hostname": "nas-2"}, "nas has joined"),
        ("machine.registered", "new", {"name": "nas", "hostname": "nas-2"}, "new has joined"),
        ("machine.offline", None, {"hostname": "nas"}, "nas is offline"),
        ("machine.offline", "nas", {"hostname": "localhost"}, "nas is offline"),
        ("machine.offline", None, {}, "machine is offline"),
        ("machine.changed", None, {"name": "nas", "hostname": "x"}, "nas was changed"),
        ("machine.removed", None, {"name": "nas", "hostname": "x"}, "nas was removed"),
        (
            "session.grace_period", None, {"machine_hostname": "nas"},
            "session lost its connection on nas",
        ),
        ("session.connected", "nas", {"machine_hostname": "x"}, "session connected on nas"),
        ("schedule.missed", None, {"name": "my_backup"}, "my_backup was missed"),
        ("schedule.missed", None, {"name": "x", "missed": 1}, "x was missed"),
        ("schedule.missed", "nas", {"name": "x", "missed": 12}, "x was missed 12 times on nas"),
        (
            "schedule.missed", None, {"name": "x", "missed": 1000, "has_more": True},
            "x was missed at least 1000 times",
        ),
        ("coding_session.started", "nas", {}, "coding session started on nas"),
        ("file.uploaded", None, {}, "file uploaded"),
        ("webhook.disabled", None, {}, "webhook was disabled"),
        ("webhook.test", None, {}, "webhook test"),
        ("schedule.failed", "\0", {"name": "\u202e\n"}, "schedule failed"),
    ],
)  # fmt: skip
def test_a_title_is_short_and_says_what_happened_where(kind, machine, data, title):
    event = FAILED | {"type": kind, "machine_name": machine, "data": data}
    assert rendered("ntfy", event)["title"] == title


def test_what_was_missed_and_which_webhook_was_disabled_can_be_read():
    missed = {"missed": 12, "since": "2026-02-13T10:00:00.000Z"}
    text = shown("ntfy", named("x", **missed))
    assert "\nmissed: 12\nsince: 2026-02-13T10:00:00.000Z\nscheduled at: 2026-" in text
    data = {"webhook_id": "hook_1", "description": "to the ops' phones"}
    text = shown("ntfy", FAILED | {"type": "webhook.disabled", "data": data})
    assert "\ndescription: to the ops' phones\n" in text


@pytest.mark.parametrize(
    ("duration", "text"),
    [(0, "0.0 s"), (59_999, "60.0 s"), (61_000, "0:01:01"), (90_061_000, "1 day, 1:01:01")],
)
def test_a_duration_is_for_people(duration, text):
    assert f"\nduration: {text}\n" in shown("ntfy", named("x", duration=duration))


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_grave_is_told_louder(preset):
    bare = FAILED | {"machine_name": None, "data": {}}
    grave = {
        kind for kind in EVENT_TYPES if rendered("ntfy", bare | {"type": kind})["priority"] > 3
    }
    assert grave == {
        "command.failed", "command.lost", "command.timeout", "command.expired", "schedule.failed",
        "schedule.missed", "machine.offline", "webhook.disabled",
    }  # fmt: skip
    for kind in EVENT_TYPES:
        assert kind.partition(".")[0].replace("_", " ") in shown(preset, bare | {"type": kind})


HOSTILE = (
    "@everyone", "@here", "<@123>", "<@&123>", "<!channel>", "<!here|x>", "<@U024BE7LH>",
    "<https://evil.com|click>", "[click](https://evil.com)", "https://evil.com/x", "//evil.com",
    "evil.com", "www.evil.com", "ＥＶＩＬ．ｃｏｍ", "http：／／evil。com", "user@evil.com",
    "＠everyone",
    "/start", "#tag", "$USD", ":skull:", "tg://x", "**bold**", "__u__", "~~s~~", "||s||", "`code`",
    "```\ncode", "# big", "- item", "> quote", "\\", "\\*", "a\nb: c", "a\r\n\r\nb", "a\u2028b",
    "\u202eevil", "\x1b[2J", "\x00", "a\u200bb", "\ufeff", "&lt;", "&amp;lt;", "<b>x</b>",
    "{\"a\":1}", "'; DROP", "😀" * 300, "ﷺ" * 300, "e\u0301" * 300, "@" * 300, "*" * 300, "<" * 300,
    "a." * 300, "x" * 100_000,
)  # fmt: skip
# What one of the five makes more of than text.
LIVELY = re.compile(
    r"@\w|<[@!#&:/]|#\w|\$[A-Z]|:\w+:|://|\bwww\.\w|(?<=\w)\.(?=com)|(?<!\w)/\w|[\x00-\x09\x0b-\x1f]"
    "|[\u202a-\u202e\u2028\u2029\u200b\ufeff]"
)
OURS = re.compile(r"^(at|event|duration|scheduled at): .*$", re.MULTILINE)


def check_harmless(preset: str, event: dict) -> None:
    text = shown(preset, event)
    if preset == "discord":
        assert len(text.encode("utf-16-le")) // 2 <= 2000
        assert text.startswith("**")
        inside = re.sub(r"\\[\\*_~`|<>\[\]()#-]", "", text.replace("**\n", "\n", 1)[2:])
        assert not re.search(r"[\\*_~`|<>\[\]()#]", inside)
    if preset == "slack":
        assert not re.search("[<>]|&(?!amp;|lt;|gt;)", text)
        text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    if preset == "ntfy":
        assert len(text.encode()) <= 4096
    assert len(text) <= 2000
    if preset != "discord":  # there, what is escaped is judged above
        assert not LIVELY.search(OURS.sub("", text).replace("<", "").replace(">", ""))
    # nobody adds lines, and so fields
    labels = [line.partition(": ")[0] for line in text.split("\n")[1:]]
    assert len(set(labels)) == len(labels) <= 15


@pytest.mark.parametrize("preset", PRESETS)
def test_hostile_names_make_no_mention_no_link_and_no_markup(preset):
    for text in HOSTILE:
        check_harmless(preset, named(text))
        everywhere = dict.fromkeys(("description", "message", "path", "reason", "user_email"), text)
        check_harmless(preset, named(text, **everywhere) | {"machine_name": text})
        check_harmless(preset, ONLINE | {"data": {"hostname": text}})


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=25)
@given(st.lists(st.sampled_from(HOSTILE) | st.text(max_size=20), max_size=6).map("".join))
def test_nor_do_any_others(preset, text):
    check_harmless(preset, named(text, message=text) | {"machine_name": text})


def test_a_harmless_name_stays_as_it_is():
    assert rendered("ntfy", named("Büro (2) – nightly & more"))["title"] == (
        "Büro (2) – nightly & more failed on nas"
    )


def test_wide_forms_are_read_as_what_some_readers_take_them_for():
    title = rendered("ntfy", named("＠all at ＥＶＩＬ．ｃｏｍ"))["title"]
    assert title == "@\u2060all at EVIL.\u2060com failed on nas"


@pytest.mark.parametrize("name", ["x" * 1000, "@" * 1000, "ﷺ" * 1000])
def test_a_long_name_leaves_room_for_what_happened(name):
    assert rendered("ntfy", named(name))["title"].endswith(" failed on nas")


def test_what_is_not_text_or_a_number_is_left_out():
    event = named("x", message={"a": 1}, reason=["b"], path=None, description="")
    assert shown("ntfy", event) == f"x failed on nas\n{TEXT}"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_url_that_fits_the_preset_is_taken(preset):
    assert check_preset_url(preset, parse_url(URLS[preset])) is None


@pytest.mark.parametrize(
    ("preset", "url"),
    [
        (None, "https://a/anything"),
        ("ntfy", "https://ntfy.sh/a-b_C9"),
        ("gotify", "http://gotify:8080/message"),
        ("discord", "https://discord.com/api/v10/webhooks/1/a"),
        ("slack", "https://mattermost.example/hooks/abc"),
        ("telegram", "https://api.telegram.org/bot1:a/sendMessage?chat_id=@channel"),
        ("telegram", "https://api.telegram.org/bot1:a/sendMessage?x=y&chat_id=%40channel&z"),
        ("telegram", "http://bots.example/sub/bot1:a-_/sendMessage?chat_id=1"),
    ],
)
def test_so_are_other_forms_of_it(preset, url):
    assert check_preset_url(preset, parse_url(url)) is None
    render(preset, url, FAILED)


@pytest.mark.parametrize(
    ("preset", "url"),
    [
        ("ntfy", "https://ntfy.sh"),
        ("ntfy", "https://ntfy.sh/"),
        ("ntfy", "https://ntfy.sh/a/b"),
        ("ntfy", "https://ntfy.sh/a,b"),
        ("ntfy", "https://ntfy.sh/" + "a" * 65),
        ("gotify", "https://gotify.example/"),
        ("gotify", "https://gotify.example/messages"),
        ("discord", "https://discord.com/api/webhooks/1"),
        ("discord", "https://discord.com/api/webhooks/1/a/slack"),
        ("slack", "https://hooks.slack.com/"),
        ("telegram", "https://api.telegram.org/bot1:a/sendMessage"),
        ("telegram", "https://api.telegram.org/bot1:a/sendMessage?chat_id="),
        ("telegram", "https://api.telegram.org/bot1:a/sendMessage?x_chat_id=1"),
        ("telegram", "https://api.telegram.org/bot1:a/getUpdates?chat_id=1"),
        ("telegram", "https://api.telegram.org/1:a/sendMessage?chat_id=1"),
    ],
)
def test_one_that_does_not_is_refused_with_an_example(preset, url):
    reason = check_preset_url(preset, parse_url(url))
    assert reason.startswith("must be such as https://")
    assert reason.endswith(f"for {preset}")


@pytest.mark.parametrize("name", ["text", "parse_mode", "%65ntities", "link_preview_options"])
def test_telegrams_text_is_ours_alone(name):
    url = f"https://api.telegram.org/bot1:a/sendMessage?chat_id=1&{name}=x"
    assert check_preset_url("telegram", parse_url(url)).startswith("must not have ")
