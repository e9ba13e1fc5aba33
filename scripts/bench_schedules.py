"""When rules come due next, beside croniter's own answer to the same."""

import time
from collections.abc import Callable
from datetime import datetime
from zoneinfo import ZoneInfo

from croniter import croniter

from cmdop_appliance.scheduler.cron import Rule
from tests.support.cron_oracle import EXPRESSIONS

TARGET = "≥ 50,000/s"  # trust.md, M7
_ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
_START_MS = 1_767_225_600_000  # 2026-01-01
_OURS = 500  # of each rule in each zone, one after the other
_THEIRS = 20
_ROUNDS = 3  # of each, in turn; the best counts


def run(report: Callable[..., None]) -> None:
    """Chain instants of 40 rules in five zones, by us and by croniter in turn."""
    rules = [(cron, zone) for cron in EXPRESSIONS for zone in _ZONES]
    print(
        f"{len(EXPRESSIONS)} rules in {len(_ZONES)} zones, instants in a chain; best of {_ROUNDS}"
    )
    report("what", "figure", "beside", "target")
    rates = [(_our_rate(rules), _their_rate(rules)) for _ in range(_ROUNDS)]
    ours, theirs = (max(each) for each in zip(*rates, strict=True))
    report("next()", f"{ours:,.0f}/s", f"{ours / theirs:.0f} × croniter", TARGET)
    report("croniter's get_next()", f"{theirs:,.0f}/s")


def _our_rate(rules: list[tuple[str, str]]) -> float:
    taken = 0.0
    for cron, zone in rules:
        rule, at = Rule.parse(cron, zone), _START_MS
        begun = time.perf_counter()
        for _ in range(_OURS):
            at = rule.next(at) or _START_MS
        taken += time.perf_counter() - begun
    return len(rules) * _OURS / taken


def _their_rate(rules: list[tuple[str, str]]) -> float:
    taken = 0.0
    for cron, zone in rules:
        start = datetime.fromtimestamp(_START_MS / 1000, ZoneInfo(zone))
        chain = croniter(cron, start)
        begun = time.perf_counter()
        for _ in range(_THEIRS):
            chain.get_next()
        taken += time.perf_counter() - begun
    return len(rules) * _THEIRS / taken
