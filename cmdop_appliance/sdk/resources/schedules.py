# Made from sdk/aio/resources/schedules.py by scripts/fix: change it there.
"""Schedules: commands that the hub starts by a rule."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final, Unpack, cast

from cmdop_appliance.sdk.resources.resource import PAGE_ITEMS, Resource, path_to, require_known
from cmdop_appliance.sdk.schedule_types import (
    RulePreview,
    RunNow,
    Schedule,
    ScheduleChanges,
    ScheduleOptions,
    ScheduleRun,
)

_API_NAMES: Final = {"timeout_ms": "timeout", "misfire_window_ms": "misfire_window"}


class Schedules(Resource):
    """Commands that the hub starts by a rule."""

    def list(
        self, *, machine_id: str | None = None, enabled: bool | None = None
    ) -> Iterator[Schedule]:
        """All schedules, newest first, page by page.

        `machine_id`: only those that run on this machine. `enabled`: only those whose rule counts,
        or only the others.
        """
        shown = None if enabled is None else str(enabled).lower()
        return self._pages("/schedules", {"machine_id": machine_id, "enabled": shown})

    def get(self, schedule_id: str) -> Schedule:
        """One schedule."""
        return cast("Schedule", self._answer("GET", path_to("schedules", schedule_id)))

    def create(
        self,
        name: str,
        command: str,
        cron: str,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """A new schedule: it runs `command` as shell text whenever `cron` comes due.

        One of `machine_id`, `machine_ids` and `tags` must say where. What is missing or None is
        left to the hub.

        Raises:
            InvalidRequest: the rule, the zone or another field is wrong; `details` names it.
            NotFound: no such machine.
            TypeError: there is no such option.
        """
        require_known(options, ScheduleOptions.__optional_keys__)
        body = {"name": name, "command": command, "cron": cron, **_fields(options)}
        return cast(
            "Schedule",
            self._answer("POST", "/schedules", body=body, idempotency_key=idempotency_key),
        )

    def update(self, schedule_id: str, **changes: Unpack[ScheduleChanges]) -> Schedule:
        """The schedule with these changes; what is missing stays as it is.

        None takes off a `timeout_ms`, `cwd` or `user`. What of `notify` is missing stays, too.
        With another rule, or enabled again, it begins anew: nothing is made up for.

        Raises: as `create`, and NotFound also when there is no such schedule.
        """
        require_known(changes, ScheduleChanges.__optional_keys__)
        path = path_to("schedules", schedule_id)
        return cast("Schedule", self._answer("PATCH", path, body=_fields(changes)))

    def delete(self, schedule_id: str) -> None:
        """Forget the schedule; a command of it that runs goes on, one that waits has ended."""
        self._transport.request("DELETE", path_to("schedules", schedule_id))

    def run(self, schedule_id: str, *, idempotency_key: str | None = None) -> RunNow:
        """Start it now, also when it is disabled.

        Raises:
            Conflict: its machine is offline.
        """
        path = path_to("schedules", schedule_id) + "/run"
        return cast("RunNow", self._answer("POST", path, idempotency_key=idempotency_key))

    def history(
        self,
        schedule_id: str,
        *,
        since: datetime | None = None,
        page_items: int = PAGE_ITEMS,
    ) -> Iterator[ScheduleRun]:
        """Its runs, newest first, page by page: each firing on each machine, and why where
        nothing ran.

        `since` needs its zone.
        """
        path = path_to("schedules", schedule_id) + "/history"
        query = {"since": since.isoformat() if since else None}
        return self._pages(path, query, page_items)

    def preview(self, schedule_id: str, *, count: int | None = None) -> RulePreview:
        """Its rule in words, and its next `count` instants, at most 1000; None: five."""
        path = path_to("schedules", schedule_id) + "/preview"
        return cast("RulePreview", self._answer("GET", path, query={"count": count}))

    def preview_rule(
        self, cron: str, *, timezone: str = "UTC", count: int | None = None
    ) -> RulePreview:
        """The same of a rule that nothing has yet; `count`: see `preview`.

        Raises:
            InvalidRequest: the rule or the zone is wrong; the message says how.
        """
        body = {"cron": cron, "timezone": timezone, "count": count}
        return cast("RulePreview", self._answer("POST", "/schedules/preview", body=body))


def _fields(options: Mapping[str, object]) -> dict[str, object]:
    return {_API_NAMES.get(name, name): value for name, value in options.items()}
