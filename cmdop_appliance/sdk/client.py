"""The synchronous client: the public HTTP API as Python calls."""

import json
from base64 import b64decode
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, Final, Literal, Self, Unpack, cast
from urllib.parse import quote

from cmdop_appliance.sdk.errors import Away, CmdopError, ServerError, Silent, UnexpectedAnswer
from cmdop_appliance.sdk.sse import Event, EventParser
from cmdop_appliance.sdk.transport import STOPPING, TIMEOUT_S, Transport
from cmdop_appliance.sdk.types import (
    APIKey,
    AuditEntry,
    AuditProof,
    Batch,
    Caller,
    Command,
    CommandOptions,
    Ended,
    EnrollmentToken,
    Gap,
    Happening,
    Machine,
    MachineStatus,
    Metrics,
    Missed,
    NewWorkspace,
    Output,
    Session,
    StartedCommand,
    Workspace,
)

PAGE_ITEMS: Final = 100  # the most the hub gives at once (contract, Lists)
# The hub sends a comment every 15 s; three missed mean that the connection is dead.
STREAM_IDLE_S: Final = 45.0
_API_NAMES: Final = {"timeout_ms": "timeout", "queue_timeout_ms": "queue_timeout"}


class Client:
    """One hub, as one API key sees it. Use it in a `with` block, or call `close()`."""

    def __init__(self, base_url: str, api_key: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """`timeout_s`: how long a hub is waited for that says nothing, or that was there and went.

        Raises:
            CmdopError: the URL or the key cannot be one.
        """
        self._open(Transport(base_url, api_key, timeout_s=timeout_s))

    def _open(self, transport: Transport) -> None:
        self._transport = transport
        self.machines = Machines(transport)
        self.sessions = Sessions(transport)
        self.commands = Commands(transport)
        self.events = Events(transport)
        self.keys = Keys(transport)
        self.workspaces = Workspaces(transport)
        self.enrollment_tokens = EnrollmentTokens(transport)
        self.audit = Audit(transport)

    def copy(self) -> "Client":
        """A client of the same hub for another thread, with a connection of its own."""
        twin = object.__new__(Client)
        twin._open(self._transport.copy())
        return twin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection to the hub."""
        self._transport.close()

    def me(self) -> Caller:
        """Who the hub takes the key for, and what it allows."""
        return cast("Caller", _data(self._transport.request("GET", "/auth/me")))


class _Resource:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _pages(
        self, path: str, query: Mapping[str, object], page_items: int = PAGE_ITEMS
    ) -> Iterator[Any]:
        offset = 0
        while True:
            page = {**query, "limit": page_items, "offset": offset}
            answer = self._transport.request("GET", path, query=page)
            items = answer.get("data")
            if not isinstance(items, list):
                raise UnexpectedAnswer(f"the hub answered {path} without a list")
            yield from items
            offset += len(items)
            if not items or not answer.get("meta", {}).get("has_more"):
                return

    def _follow(
        self, path: str, query: Mapping[str, object] | None = None, position: str = ""
    ) -> Generator[Event]:
        """Server-sent events behind `position`, for ever; a broken connection is made again.

        Raises:
            ConnectionFailed: the hub stayed away for too long.
        """
        patience = self._transport.patience()
        while True:
            broken: CmdopError = Away("the hub broke off the stream")
            idle_s = 0.0
            try:
                with closing(self._events(path, query, position)) as events:
                    for event in events:
                        patience.renew()
                        position = event.id or position
                        yield event
            except Away as exc:
                broken = exc
            except Silent as exc:
                broken, idle_s = exc, STREAM_IDLE_S
            except ServerError as exc:
                if exc.status != STOPPING:
                    raise
                broken = exc
            patience.pause(broken, idle_s)

    def _events(
        self, path: str, query: Mapping[str, object] | None, position: str
    ) -> Generator[Event]:
        headers = {"Accept": "text/event-stream"}
        if position:
            headers["Last-Event-ID"] = position
        parser = EventParser()
        with self._transport.stream(
            path, query=query, idle_timeout_s=STREAM_IDLE_S, headers=headers
        ) as pieces:
            for piece in pieces:
                yield from parser.feed(piece)


class Machines(_Resource):
    """The managed computers."""

    def list(
        self,
        *,
        status: Literal["online", "offline"] | None = None,
        tags: Sequence[str] = (),
        search: str | None = None,
    ) -> Iterator[Machine]:
        """All machines, newest first, page by page. `tags`: those that have every one of them."""
        query = {"status": status, "tags": ",".join(tags) or None, "search": search}
        return self._pages("/machines", query)

    def get(self, machine_id: str) -> Machine:
        """One machine with all the facts it reported."""
        return cast("Machine", _data(self._transport.request("GET", _path("machines", machine_id))))

    def status(self, machine_id: str) -> MachineStatus:
        """How the machine is now: its link, and its last sample."""
        path = _path("machines", machine_id) + "/status"
        return cast("MachineStatus", _data(self._transport.request("GET", path)))

    def metrics(
        self,
        machine_id: str,
        *,
        from_: datetime | None = None,
        to: datetime | None = None,
        step_ms: int | None = None,
    ) -> Metrics:
        """The load of the machine over time, by default of the last hour.

        It is kept by the minute for two days, by 15 minutes for sixty. Times need their zone.

        Raises:
            InvalidRequest: `step_ms` is finer than what is kept, or makes more than 1000 points.
        """
        query = {
            "from": from_.isoformat() if from_ else None,
            "to": to.isoformat() if to else None,
            "step": step_ms,
        }
        path = _path("machines", machine_id) + "/metrics"
        return cast("Metrics", _data(self._transport.request("GET", path, query=query)))

    def edit(
        self, machine_id: str, *, name: str | None = None, tags: Sequence[str] | None = None
    ) -> Machine:
        """The machine with another name, or with these tags and no others; None: as before."""
        body = {"name": name, "tags": None if tags is None else [*tags]}
        path = _path("machines", machine_id)
        return cast("Machine", _data(self._transport.request("PATCH", path, body=body)))

    def delete(self, machine_id: str) -> None:
        """Forget the machine: its credential is revoked and its connection cut."""
        self._transport.request("DELETE", _path("machines", machine_id))


class Sessions(_Resource):
    """The connections of the machines."""

    def list(
        self, *, status: str | None = None, machine_id: str | None = None
    ) -> Iterator[Session]:
        """All sessions, newest first, page by page."""
        return self._pages("/sessions", {"status": status, "machine_id": machine_id})

    def get(self, session_id: str) -> Session:
        """One session with its attached clients."""
        return cast("Session", _data(self._transport.request("GET", _path("sessions", session_id))))


class Commands(_Resource):
    """Executions on machines."""

    def run(self, machine_id: str, command: str, **options: Unpack[CommandOptions]) -> Command:
        """Run shell text on a machine and wait for its end; without a timeout it has 30 s.

        A record that is still open when this returns says that its machine went away, or is
        waited for: the command runs on, or will.

        Raises:
            NotFound: no such machine.
            Conflict: the machine is offline, and `queue` is not set.
        """
        body = {"machine_id": machine_id, "command": command}
        return cast("Command", self._post("/commands", body, options, waits=True))

    def start(
        self, machine_id: str, command: str, **options: Unpack[CommandOptions]
    ) -> StartedCommand:
        """Start shell text on a machine and return at once; it is recorded when this returns.

        Raises: as `run`.
        """
        body = {"machine_id": machine_id, "command": command}
        return cast("StartedCommand", self._post("/commands/async", body, options))

    def batch(
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
        return self._post("/commands/batch", body, options, query=_waiting(wait), waits=wait)

    def get_batch(self, batch_id: str) -> Batch:
        """A batch as it stands; its id is the `batch_id` of its commands.

        Raises:
            NotFound: no such batch.
        """
        return _data(self._transport.request("GET", _path("commands/batch", batch_id)))

    def resume_batch(
        self, batch_id: str, *, wait: bool = True, idempotency_key: str | None = None
    ) -> Batch:
        """Run what a batch skipped, as a new batch in the same waves.

        Raises:
            NotFound: no such batch.
            Conflict: nothing of it was skipped.
        """
        answer = self._transport.request(
            "POST",
            _path("commands/batch", batch_id) + "/resume",
            query=_waiting(wait),
            idempotency_key=idempotency_key,
            waits=wait,
        )
        return _data(answer)

    def _post(
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
        return _data(
            self._transport.request(
                "POST",
                path,
                query=query,
                body={**body, **fields},
                idempotency_key=cast("str | None", key),
                waits=waits,
            )
        )

    def get(self, command_id: str) -> Command:
        """One command with at most 1 MiB of each output."""
        return cast("Command", _data(self._transport.request("GET", _path("commands", command_id))))

    def list(
        self,
        *,
        machine_id: str | None = None,
        status: str | None = None,
        batch_id: str | None = None,
        page_items: int = PAGE_ITEMS,
    ) -> Iterator[Command]:
        """All commands, newest first, page by page."""
        query = {"machine_id": machine_id, "status": status, "batch_id": batch_id}
        return self._pages("/commands", query, page_items)

    def cancel(self, command_id: str) -> None:
        """Record that the command shall end: SIGTERM to all of it, SIGKILL 10 s later.

        One that was not sent to its machine ends at once, and never starts.

        Raises:
            Conflict: it has ended already.
        """
        self._transport.request("DELETE", _path("commands", command_id))

    def stream(self, command_id: str) -> Iterator[Output | Gap | Ended]:
        """Every byte of the command's output from its first, then `Ended`.

        A `Gap` stands for what the hub did not keep of a stream that is longer than its cap.

        A broken connection is made again and goes on at the same byte, so a restart of the hub is
        not noticed. The command itself runs on, whatever happens here.

        Raises:
            NotFound: no such command.
            ConnectionFailed: the hub stayed away for too long.
        """
        with closing(self._follow(_path("commands", command_id) + "/stream")) as events:
            for event in events:
                match event.name:
                    case "stdout":
                        yield Output("stdout", _output_bytes(event))
                    case "stderr":
                        yield Output("stderr", _output_bytes(event))
                    case "gap":
                        yield _gap(event)
                    case "end":
                        yield Ended(cast("Command", _json_object(event)))
                        return


class Keys(_Resource):
    """API keys."""

    def create(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        expires_in_days: int | None = None,
        tags: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> APIKey:
        """A new key; its secret is in `key`, here and never again.

        With `tags` it is good only for machines that have all of them.
        """
        body = {
            "name": name,
            "scopes": [*scopes],
            "expires_in_days": expires_in_days,
            "tags": [*tags] or None,
        }
        answer = self._transport.request(
            "POST", "/api-keys", body=body, idempotency_key=idempotency_key
        )
        return cast("APIKey", _data(answer))

    def get(self, key_id: str) -> APIKey:
        """One key, without its secret."""
        return cast("APIKey", _data(self._transport.request("GET", _path("api-keys", key_id))))

    def list(self) -> Iterator[APIKey]:
        """All keys, without their secrets."""
        return self._pages("/api-keys", {})

    def revoke(self, key_id: str) -> None:
        """The key is worth nothing from now on."""
        self._transport.request("DELETE", _path("api-keys", key_id))


class Workspaces(_Resource):
    """Owners of machines and keys that know nothing of each other."""

    def create(self, namespace: str, *, idempotency_key: str | None = None) -> NewWorkspace:
        """A new workspace with its first admin key, whose secret is here and never again.

        Raises:
            Conflict: there is one of this namespace.
        """
        answer = self._transport.request(
            "POST", "/workspaces", body={"namespace": namespace}, idempotency_key=idempotency_key
        )
        return cast("NewWorkspace", _data(answer))

    def list(self) -> Iterator[Workspace]:
        """All workspaces of the hub."""
        return self._pages("/workspaces", {})


class EnrollmentTokens(_Resource):
    """Tokens that let machines join."""

    def create(
        self,
        *,
        ttl_ms: int | None = None,
        max_uses: int | None = None,
        tags: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> EnrollmentToken:
        """A new token; its secret is in `token`, here and never again."""
        body = {"ttl": ttl_ms, "max_uses": max_uses, "tags": [*tags] or None}
        answer = self._transport.request(
            "POST", "/enrollment-tokens", body=body, idempotency_key=idempotency_key
        )
        return cast("EnrollmentToken", _data(answer))


class Events(_Resource):
    """What happens, as it happens."""

    def follow(
        self,
        *,
        types: Sequence[str] = (),
        machine_id: str | None = None,
        after: int | None = None,
    ) -> Iterator[Happening | Missed]:
        """Each event that the key may see, from now on or behind number `after`, for ever.

        `types`: only these; `command.*` is the whole family. A `Missed` stands for numbers that
        the hub keeps no more. A restart of the hub is not noticed.

        Raises:
            InvalidRequest: there is no such type.
            ConnectionFailed: the hub stayed away for too long.
        """
        query = {"types": ",".join(types) or None, "machine_id": machine_id}
        position = "" if after is None else str(after)
        with closing(self._follow("/events", query, position)) as events:
            for event in events:
                if event.name == "gap":
                    yield _missed(event)
                elif event.name:
                    yield cast("Happening", _json_object(event))


class Audit(_Resource):
    """What was done, and what was refused."""

    def list(
        self,
        *,
        action: str | None = None,
        actor: str | None = None,
        target: str | None = None,
        outcome: Literal["ok", "refused"] | None = None,
        since: str | None = None,
        page_items: int = PAGE_ITEMS,
    ) -> Iterator[AuditEntry]:
        """The entries of the workspace, newest first, page by page. `since`: RFC 3339."""
        query = {
            "action": action,
            "actor": actor,
            "target": target,
            "outcome": outcome,
            "since": since,
        }
        return self._pages("/audit", query, page_items)

    def verify(self, *, head: str | None = None) -> AuditProof:
        """Have the hub walk its whole log; `head` is a SEQ:HASH that it must still have."""
        answer = self._transport.request("GET", "/audit/verify", query={"head": head})
        return cast("AuditProof", _data(answer))


def _waiting(wait: bool) -> dict[str, object]:
    return {"wait": None if wait else "false"}


def _path(collection: str, item: str) -> str:
    return f"/{collection}/{quote(item, safe='')}"


def _data(answer: Mapping[str, Any]) -> dict[str, Any]:
    data = answer.get("data")
    if not isinstance(data, dict):
        raise UnexpectedAnswer("the hub answered without data")
    return data


def _json_object(event: Event) -> dict[str, Any]:
    try:
        value = json.loads(event.data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UnexpectedAnswer(f"the hub sent an event {event.name} that is not a JSON object")
    return value


def _gap(event: Event) -> Gap:
    match _json_object(event):
        case {"stream": "stdout" | "stderr" as stream, "from": int(first), "to": int(end)}:
            return Gap(stream, end - first)
    raise UnexpectedAnswer("the hub sent an event gap without its stream and bytes")


def _missed(event: Event) -> Missed:
    match _json_object(event):
        case {"from": int(first), "to": int(last)}:
            return Missed(first, last)
    raise UnexpectedAnswer("the hub sent an event gap without its numbers")


def _output_bytes(event: Event) -> bytes:
    try:
        return b64decode(_json_object(event)["data"], validate=True)
    except (KeyError, TypeError, ValueError) as exc:
        raise UnexpectedAnswer(f"the hub sent an event {event.name} without base64 data") from exc
