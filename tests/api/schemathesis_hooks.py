"""What schemathesis does to a request before it sends it: see schemathesis.toml."""

import os
from itertools import count

import schemathesis

_MACHINE, _SCHEDULE = os.environ["FUZZ_MACHINE"], os.environ["FUZZ_SCHEDULE"]
# The run needs them to the end: the key it asks with, and what is asked about.
_KEPT = {os.environ["FUZZ_KEY_ID"], _MACHINE, _SCHEDULE}
# What is there, by the beginning of its path: of what it makes up, nothing is.
_THERE = {
    "/api/v1/machines/{id}": _MACHINE,
    "/api/admin/machines/{id}": _MACHINE,
    "/api/v1/sessions/{id}": os.environ["FUZZ_SESSION"],
    "/api/v1/commands/batch/{id}": os.environ["FUZZ_BATCH"],
    "/api/v1/schedules/{id}": _SCHEDULE,
    "/docs/{file}": "start.js",
    "/dl/{file}": "join.sh",
}
_requests = count()


@schemathesis.hook
def before_call(context, case, kwargs):
    """Ask mostly about what is there, seldom twice the same; delete nothing that is needed."""
    number = next(_requests)
    if number % 4:
        for beginning, there in _THERE.items():
            if f"{case.path}/".startswith(f"{beginning}/"):
                case.path_parameters = dict.fromkeys(case.path_parameters, there)
        if isinstance(case.body, dict):
            case.body |= _about_a_machine(case.body) | _by_a_rule(case.body)
        key = (case.headers or {}).get("Idempotency-Key")
        if isinstance(key, str) and key.strip() and len(key) < 180:
            case.headers["Idempotency-Key"] = f"{key.strip()}-{number}"
    parameters = case.path_parameters or {}
    if case.method == "DELETE" and _KEPT & set(parameters.values()):
        case.path_parameters = dict.fromkeys(parameters, "of_nobody")


def _about_a_machine(body):
    if _is_text(body.get("machine_id")):
        return {"machine_id": _MACHINE}
    ids = body.get("machine_ids")
    if isinstance(ids, list) and 0 < len(ids) < 1000 and all(map(_is_text, ids)):
        return {"machine_ids": [*ids, _MACHINE]}
    return {}


def _by_a_rule(body):
    good = {"cron": "0 0 29 2 *", "timezone": "UTC"}
    return {name: value for name, value in good.items() if _is_text(body.get(name))}


def _is_text(value):
    return isinstance(value, str) and value and "\0" not in value


@schemathesis.hook
def map_body(context, body):
    """Write whole numbers as such: 1.0 is one for JSON Schema, for most readers it is none."""
    return _whole(body)


def _whole(value):
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value
