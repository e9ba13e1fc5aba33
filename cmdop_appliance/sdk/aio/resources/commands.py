"""Commands: run, start, batch, cancel, and their output as it comes."""

from base64 import b64decode
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Unpack, cast

from cmdop_appliance.sdk.aio.resources.resource import (
    PAGE_ITEMS,
    Resource,
    json_object,
    path_to,
)
from cmdop_appliance.sdk.errors import UnexpectedAnswer
from cmdop_appliance.sdk.sse import ServerSentEvent
from cmdop_appliance.sdk.types import (
    Batch,
    Command,
    CommandOptions,
    Ended,
    Gap,
    Output,
    StartedCommand,
)

_API_NAMES: Final = {"timeout_ms": "timeout", "queue_timeout_ms": "queue_timeout"}


class Commands(Resource):
    """Executions on machines."""

    async def run(
        self, machine_id: str, command: str, **options: Unpack[CommandOptions]
    ) -> Command:
        """Run shell text on a machine and wait for its end; without a timeout it has 30 s.

        A record that is still open when this returns says that its machine went away, or is
        waited for: the command runs on, or will.

        Raises:
            NotFound: no such machine.
            Conflict: the machine is offline, and `queue` is not set.
        """
        body = {"machine_id": machine_id, "command": command}
        return cast("Command", await self._post("/commands", body, options, waits=True))

    async def start(
        self, machine_id: str, command: str, **options: Unpack[CommandOptions]
    ) -> StartedCommand:
        """Start shell text on a machine and return at once; it is recorded when this returns.

        Raises: as `run`.
        """
        body = {"machine_id": machine_id, "command": command}
        return cast("StartedCommand", await self._post("/commands/async", body, options))

    async def batch(
        self,
        machine_ids: Sequence[str],
        command: str,
        *,
        concurrency: int | str | None = None,
        canary: bool | int | None = None,
        max_errors: int | str | None = None,
        wait: bool = True,
        **options: Unpack[CommandOptions],
    ) -> Batch:
        """Run shell text on many machines; by machine id the commands, or why there is none.

        `concurrency` commands are under way at a time, `canary` (True: one) must complete before
        the others begin, and after more than `max_errors` errors the rest is skipped. Numbers of
        machines may be shares, such as "25%". Not `wait`: the answer is what was recorded.
        """
        body = {
            "machine_ids": [*machine_ids],
            "command": command,
            "concurrency": concurrency,
            "canary": canary,
            "max_errors": max_errors,
        }
        return await self._post("/commands/batch", body, options, query=_waiting(wait), waits=wait)

    async def get_batch(self, batch_id: str) -> Batch:
        """A batch as it stands; its id is the `batch_id` of its commands.

        Raises:
            NotFound: no such batch.
        """
        return await self._answer("GET", path_to("commands/batch", batch_id))

    async def resume_batch(
        self, batch_id: str, *, wait: bool = True, idempotency_key: str | None = None
    ) -> Batch:
        """Run what a batch skipped, as a new batch in the same waves.

        Raises:
            NotFound: no such batch.
            Conflict: nothing of it was skipped.
        """
        return await self._answer(
            "POST",
            path_to("commands/batch", batch_id) + "/resume",
            query=_waiting(wait),
            idempotency_key=idempotency_key,
            waits=wait,
        )

    async def _post(
        self,
        path: str,
        body: Mapping[str, object],
        options: CommandOptions,
        *,
        query: Mapping[str, object] | None = None,
        waits: bool = False,
    ) -> dict[str, Any]:
        fields = {_API_NAMES.get(name, name): value for name, value in options.items()}
        key = fields.pop("idempotency_key", None)
        return await self._answer(
            "POST",
            path,
            query=query,
            body={**body, **fields},
            idempotency_key=cast("str | None", key),
            waits=waits,
        )

    async def get(self, command_id: str) -> Command:
        """One command with at most 1 MiB of each output."""
        return cast("Command", await self._answer("GET", path_to("commands", command_id)))

    def list(
        self,
        *,
        machine_id: str | None = None,
        status: str | None = None,
        batch_id: str | None = None,
        page_items: int = PAGE_ITEMS,
    ) -> AsyncIterator[Command]:
        """All commands, newest first, page by page."""
        query = {"machine_id": machine_id, "status": status, "batch_id": batch_id}
        return self._pages("/commands", query, page_items)

    async def cancel(self, command_id: str) -> None:
        """Record that the command shall end: SIGTERM to all of it, SIGKILL 10 s later.

        One that was not sent to its machine ends at once, and never starts.

        Raises:
            Conflict: it has ended already.
        """
        await self._transport.request("DELETE", path_to("commands", command_id))

    async def stream(self, command_id: str) -> AsyncGenerator[Output | Gap | Ended]:
        """Every byte of the command's output from its first, then `Ended`.

        A `Gap` stands for what the hub did not keep of a stream that is longer than its cap.

        A broken connection is made again and goes on at the same byte, so a restart of the hub is
        not noticed. The command itself runs on, whatever happens here.

        Raises:
            NotFound: no such command.
            ConnectionFailed: the hub stayed away for too long.
        """
        async with aclosing(self._follow(path_to("commands", command_id) + "/stream")) as events:
            async for event in events:
                match event.name:
                    case "stdout":
                        yield Output("stdout", _output_bytes(event))
                    case "stderr":
                        yield Output("stderr", _output_bytes(event))
                    case "gap":
                        yield _gap(event)
                    case "end":
                        yield Ended(cast("Command", json_object(event)))
                        return


def _waiting(wait: bool) -> dict[str, object]:
    return {"wait": None if wait else "false"}


def _gap(event: ServerSentEvent) -> Gap:
    match json_object(event):
        case {"stream": "stdout" | "stderr" as stream, "from": int(first), "to": int(end)}:
            return Gap(stream, end - first)
    raise UnexpectedAnswer("the hub sent an event gap without its stream and bytes")


def _output_bytes(event: ServerSentEvent) -> bytes:
    try:
        return b64decode(json_object(event)["data"], validate=True)
    except (KeyError, TypeError, ValueError) as exc:
        raise UnexpectedAnswer(f"the hub sent an event {event.name} without base64 data") from exc
