"""Bodies of webhooks: our own JSON, and messages for people in the forms of what shows them.

Names, paths and texts in an event come from machines and their users. In a message each stands in
one line, short, and with an invisible character where a chat would see a mention, a link, a
command, a hashtag or an emoji's name; what is left of markup is escaped where there is any.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl

import msgspec

from cmdop_appliance.webhooks.targets import Target, parse_url

# A title has at most two names, so that with its text it is half of what Discord takes (2000, of
# which escapes may be half), and in UTF-8 less than what ntfy does not make a file of (4096 bytes).
# Telegram and Slack take more.
_NAME_CHARS: Final = 80
_VALUE_CHARS: Final = 200
_TEXT_CHARS: Final = 780

_APART: Final = "\u2060"  # word joiner: has no width, breaks no line, and belongs to no link
_JOINTS: Final = re.compile(r"[@#$:/.。](?=\S)")
_DISCORD_MARKUP: Final = re.compile(r"[\\*_~`|<>\[\]()#-]")
_SLACK_MARKUP: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})

# The second half of an event's type, where it says too little by itself.
_VERBS: Final = {
    "changed": "was changed",
    "client_attached": "has a new client",
    "client_detached": "lost a client",
    "disabled": "was disabled",
    "grace_period": "lost its connection",
    "lost": "was lost",
    "missed": "was missed",
    "offline": "is offline",
    "online": "is online",
    "registered": "has joined",
    "removed": "was removed",
    "skipped": "was skipped",
    "timeout": "timed out",
}
_GRAVE: Final = ("disabled", "expired", "failed", "lost", "missed", "offline", "timeout")
# Of an event's data, what a message has: (as it is called there, the field).
_LINES: Final = (
    ("message", "message"),
    ("description", "description"),
    ("reason", "reason"),
    ("exit code", "exit_code"),
    ("duration", "duration"),
    ("missed", "missed"),
    ("since", "since"),
    ("scheduled at", "scheduled_at"),
    ("path", "path"),
    ("by", "user_email"),
    ("machine", "machine_name"),
    ("machine id", "machine_id"),
    ("schedule", "schedule_id"),
    ("run", "run_id"),
    ("command", "command_id"),
    ("session", "session_id"),
    ("webhook", "webhook_id"),
)
_TIMES: Final = ("since", "scheduled_at")  # ours, and no text from outside
# A preset's path and query, and an example of the whole.
_URLS: Final = {
    "ntfy": (re.compile(r"/[-_A-Za-z0-9]{1,64}(\?.*)?"), "https://ntfy.sh/TOPIC"),
    "gotify": (
        re.compile(r"(/.*)?/message(\?.*)?"),
        "https://gotify.example.com/message?token=TOKEN",
    ),
    "discord": (
        re.compile(r"/api(/v[0-9]+)?/webhooks/[0-9]+/[A-Za-z0-9_-]+(\?.*)?"),
        "https://discord.com/api/webhooks/ID/TOKEN",
    ),
    "slack": (re.compile(r"/[^?]+(\?.*)?"), "https://hooks.slack.com/services/ID/ID/TOKEN"),
    "telegram": (
        re.compile(
            r".*/bot[0-9]+:[A-Za-z0-9_-]+/sendMessage"
            r"\?(.*&)?chat_id=(-?[0-9]+|(@|%40)[A-Za-z0-9_]+)(&.*)?"
        ),
        "https://api.telegram.org/botTOKEN/sendMessage?chat_id=ID",
    ),
}
# What of Telegram's parameters decides what is shown, and so is none for a URL; see `_telegram`.
_TELEGRAM_TEXT: Final = ("text", "parse_mode", "entities", "link_preview_options")
_JSON_WORD: Final = re.compile(r"true|false|-?(?:0|[1-9][0-9]{0,14})")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as the receiver wants it."""

    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Message:
    title: str
    text: str
    is_grave: bool


def render(preset: str | None, url: str, event: Mapping[str, Any]) -> Outgoing:
    """The request that tells of an event: the same bytes whenever it is rendered.

    `event` has `id`, `type`, `timestamp`, `seq` and `data`, and may have the `machine_name` that
    people know its machine by; `url` passed `check_preset_url`.
    """
    content: Mapping[str, Any] = {
        key: event[key] for key in ("id", "type", "timestamp", "seq", "data")
    }
    if preset is not None:
        url, content = _FORMS[preset](url, _message(event))
    headers = {"Content-Type": "application/json"}
    return Outgoing(url, headers, msgspec.json.encode(content))


def check_preset_url(preset: str | None, target: Target) -> str | None:
    """Why this is no URL of such a receiver; None: it is. Says nothing about where it leads."""
    if preset is None:
        return None
    form, example = _URLS[preset]
    if not form.fullmatch(target.path):
        return f"must be such as {example} for {preset}"
    if preset == "telegram":
        names = [name for name, _ in parse_qsl(target.path.partition("?")[2])]
        if taken := next((name for name in _TELEGRAM_TEXT if name in names), None):
            return f"must not have {taken}: the hub decides what the text is"
    return None


def _ntfy(url: str, message: _Message) -> tuple[str, dict[str, Any]]:
    # Published as JSON to the server's root: in headers, titles would have to be ASCII.
    target = parse_url(url)
    topic, mark, query = target.path[1:].partition("?")
    return f"{target.origin}/{mark}{query}", {
        "topic": topic,
        "title": message.title,
        "message": message.text,
        "priority": 4 if message.is_grave else 3,  # of 1 to 5
        "tags": ["warning"] if message.is_grave else [],
    }


def _gotify(url: str, message: _Message) -> tuple[str, dict[str, Any]]:
    return url, {
        "title": message.title,
        "message": message.text,
        "priority": 8 if message.is_grave else 4,  # from 4 on it sounds, from 8 on it pops up
        "extras": {"client::display": {"contentType": "text/plain"}},
    }


def _discord(url: str, message: _Message) -> tuple[str, dict[str, Any]]:
    title, text = (_DISCORD_MARKUP.sub(r"\\\g<0>", it) for it in (message.title, message.text))
    return url, {
        "content": f"**{title}**\n{text}",
        "allowed_mentions": {"parse": []},
        "flags": 4,  # SUPPRESS_EMBEDS
    }


def _slack(url: str, message: _Message) -> tuple[str, dict[str, Any]]:
    return url, {
        "text": f"{message.title}\n{message.text}".translate(_SLACK_MARKUP),
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
    }


def _telegram(url: str, message: _Message) -> tuple[str, dict[str, Any]]:
    # Of parameters in both, the query's are not read: all are in the body, as what they are there.
    target = parse_url(url)
    path, _, query = target.path.partition("?")
    given = {name: values[0] for name, values in parse_qs(query).items()}
    return f"{target.origin}{path}", {
        **{
            name: json.loads(value) if _JSON_WORD.fullmatch(value) else value
            for name, value in given.items()
        },
        "chat_id": given["chat_id"],
        "text": f"{message.title}\n{message.text}",
        "link_preview_options": {"is_disabled": True},
    }


_FORMS: Final[dict[str, Callable[[str, _Message], tuple[str, dict[str, Any]]]]] = {
    "ntfy": _ntfy,
    "gotify": _gotify,
    "discord": _discord,
    "slack": _slack,
    "telegram": _telegram,
}


def _message(event: Mapping[str, Any]) -> _Message:
    values = {**event["data"], "machine_name": event.get("machine_name")}
    lines = [
        f"{label}: {_shown(field, values[field])}"
        for label, field in _LINES
        if isinstance(values.get(field), str | int | float) and values[field] != ""
    ]
    lines += [f"at: {event['timestamp']}", f"event: {event['id']}"]
    return _Message(
        title=_title(event),
        text="\n".join(lines)[:_TEXT_CHARS],
        is_grave=event["type"].rpartition(".")[2] in _GRAVE,
    )


def _title(event: Mapping[str, Any]) -> str:
    """Such as `backup failed on nas`."""
    kind, data = event["type"], event["data"]
    noun, _, verb = kind.partition(".")
    happened = _VERBS.get(verb, verb.replace("_", " "))
    if data.get("missed", 1) != 1:
        happened += f" {'at least ' if data.get('has_more') else ''}{data['missed']} times"
    name, host = data.get("name"), data.get("machine_hostname") or data.get("hostname")
    if noun == "machine":
        name, host = event.get("machine_name") or name or host, None
    else:
        host = event.get("machine_name") or host
    subject = _tame(name or "", _NAME_CHARS) or noun.replace("_", " ")
    where = _tame(host or "", _NAME_CHARS)
    return f"{subject} {happened} on {where}" if where else f"{subject} {happened}"


def _shown(field: str, value: str | float) -> str:
    if field in _TIMES:
        return str(value)
    if field == "duration" and not isinstance(value, str):
        return f"{value / 1000:.1f} s" if value < 60_000 else str(timedelta(seconds=value // 1000))
    return _tame(str(value), _VALUE_CHARS)


def _tame(text: str, chars: int) -> str:
    """A text from outside, in one line of at most `chars`, and nothing but text in it."""
    # Compatibility forms first: a wide @ or dot is one for some readers.
    plain = unicodedata.normalize("NFKC", text[:chars])
    line = " ".join("".join(char if char.isprintable() else " " for char in plain).split())
    return _JOINTS.sub(rf"\g<0>{_APART}", line)[:chars]
