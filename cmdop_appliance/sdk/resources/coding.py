# Made from sdk/aio/resources/coding.py by scripts/fix: change it there.
"""Coding sessions: AI coding agents in terminals of machines."""

from urllib.parse import quote

from cmdop_appliance.sdk.errors import CodingRefused, UnexpectedAnswer
from cmdop_appliance.sdk.resources.resource import Resource


class Coding(Resource):
    """Starts AI coding agents. What runs is a terminal: `terminals` lists and ends it."""

    def spawn(
        self,
        machine_id: str,
        directory: str,
        *,
        agent: str = "claude",
        model: str | None = None,
        yolo: bool = False,
        worktree: str | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """The id of a new coding session; the directory is made if it is missing.

        `agent`: a flavour that the machine knows. `yolo`: it asks nobody before it does things.
        `worktree`: in a new git worktree of this name, beside the directory's repository.

        Raises:
            CodingRefused: the machine does not start it, and says why: it is not installed there …
            NotFound: no such machine.
            ServerError: the machine is away, and has been for longer than the client waits.
        """
        body = {"directory": directory, "agent": agent, "model": model, "yolo": yolo}
        if worktree is not None:
            body |= {"sessionType": "worktree", "worktreeName": worktree}
        answer = self._transport.request(
            "POST",
            f"/api/machines/{quote(machine_id, safe='')}/spawn",
            body=body,
            idempotency_key=idempotency_key,
            waits=True,
        )
        if not answer.get("success"):
            raise CodingRefused(str(answer.get("message") or "the machine does not say why"))
        session_id = answer.get("sessionId")
        if not isinstance(session_id, str):
            raise UnexpectedAnswer("the hub answered without a sessionId")
        return session_id
