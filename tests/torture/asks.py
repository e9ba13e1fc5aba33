"""Commands whose true end is known beforehand, clients that do not give up, and the judgement."""

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from random import Random
from typing import Any

from tests.support.appliance import Answer, Api, wait_for

# What a client sees of a hub that was killed, cut off, or is not there yet.
OUTAGES = (OSError, HTTPException)
# For an answer, or an end, across the worst that a case does; a bound, never a pace.
PATIENCE_S = 90.0
# Set when nobody wants to wait any longer: whoever waits for a hub fails at once.
IMPATIENT = threading.Event()
_RETRY_S = 0.02
_POLL_MOST_S = 0.2
_PAGE = 100  # of a list, at the most
_PIECE_S = 0.1  # of a command's time; each has its share of the output


@dataclass(frozen=True, slots=True)
class Ask:
    """A command, and what it will have written and how it will have ended."""

    tag: str  # its Idempotency-Key, too
    command: str
    exit_code: int | None  # None: it is to be cancelled
    stdout: bytes
    stderr: bytes
    marks: Path

    @property
    def starts(self) -> int:
        """How often it was started: each start leaves a line."""
        try:
            return self.marks.read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0


def new_ask(folder: Path, dice: Random, *, lasts_s: float, most_bytes: int) -> Ask:
    """A command that takes about `lasts_s` and writes up to `most_bytes` to each stream."""
    tag = f"{dice.getrandbits(64):016x}"
    stdout, stderr = (dice.randbytes(dice.randint(0, most_bytes)) for _ in range(2))
    out, err, marks = (folder / f"{tag}.{name}" for name in ("out", "err", "marks"))
    folder.mkdir(exist_ok=True)
    out.write_bytes(stdout)
    err.write_bytes(stderr)
    exit_code = dice.choice((0, 0, 1, 7, 255))
    pieces = max(1, round(lasts_s / _PIECE_S))
    step = f"head -c {len(stdout) // (2 * pieces)} <&3; head -c {len(stderr) // pieces} <&4 >&2"
    command = (
        f"echo started >>{marks}; exec 3<{out} 4<{err};"
        f" for i in {' '.join(map(str, range(pieces)))}; do {step}; sleep {lasts_s / pieces:.3f};"
        f" done; cat <&3; cat <&4 >&2; exit {exit_code}"
    )
    return Ask(tag, command, exit_code, stdout, stderr, marks)


def new_endless_ask(folder: Path, dice: Random) -> Ask:
    """A command that ends only when it is cancelled."""
    tag = f"{dice.getrandbits(64):016x}"
    folder.mkdir(exist_ok=True)
    marks = folder / f"{tag}.marks"
    return Ask(tag, f"echo started >>{marks}; exec sleep 600", None, b"", b"", marks)


class PatientApi(Api):
    """An API client that repeats what got no answer, for as long as that is bearable."""

    def is_answered(self, method: str, status: int) -> bool:
        """Whether that is an answer; else it is asked again."""
        return status != 503

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = super().call(method, path, body, headers=headers)
                trouble = f"status {answer.status}"
            except OUTAGES as exc:
                answer, trouble = None, repr(exc)
            if answer is not None and self.is_answered(method, answer.status):
                return answer
            assert time.monotonic() < give_up, f"{method} {path}: {trouble}"
            assert not IMPATIENT.is_set(), "interrupted"
            time.sleep(_RETRY_S)

    def all(self, path: str, **query: str) -> list[Any]:
        """A list to its end, page by page."""
        filters = "".join(f"&{name}={value}" for name, value in query.items())
        found: list[Any] = []
        while page := self.get(f"{path}?limit={_PAGE}&offset={len(found)}{filters}"):
            found += page
        return found

    def ask(self, machine_id: str, ask: Ask) -> str:
        """The command's id, once the hub has acknowledged it."""
        body = {"machine_id": machine_id, "command": ask.command}
        headers = {"Idempotency-Key": ask.tag}

        def acknowledged() -> str | None:
            answer = self.call("POST", "/commands/async", body, headers=headers)
            if answer.status == 409 and answer.error["code"] == "session_not_active":
                return None  # and nothing was recorded
            return str(answer.data["id"])

        return wait_for(acknowledged, f"{ask.tag} is acknowledged", PATIENCE_S) or ""

    def end_of(self, command_id: str) -> Any:
        """The record once the command has ended."""

        give_up, pause_s = time.monotonic() + PATIENCE_S, _RETRY_S
        while not (record := self.get(f"/commands/{command_id}"))["finished_at"]:
            assert time.monotonic() < give_up, f"{command_id} does not end"
            time.sleep(pause_s)
            pause_s = min(_POLL_MOST_S, 2 * pause_s)  # a record has its output in it
        return record


def judge(api: Api, record: Any, ask: Ask) -> None:
    """Fail unless the record and every byte are what the command really did, in one start."""
    where = f"{record['id']} {record['status']} {record['error']}"
    assert ask.starts <= 1, f"{where}: started {ask.starts} times"
    if ask.exit_code is None:
        assert (record["status"], record["exit_code"]) == ("cancelled", None), where
        return
    status = "failed" if ask.exit_code else "completed"
    assert (record["status"], record["exit_code"]) == (status, ask.exit_code), where
    assert ask.starts == 1, f"{where}: started {ask.starts} times"
    for stream, expected in (("stdout", ask.stdout), ("stderr", ask.stderr)):
        told = (record[f"{stream}_bytes"], record[f"{stream}_sha256"])
        assert told == (len(expected), hashlib.sha256(expected).hexdigest()), (where, stream, told)
        got = api.output(record["id"], stream)
        assert got == expected, f"{where}: {stream} differs at {_first_difference(got, expected)}"


def _first_difference(one: bytes, other: bytes) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
