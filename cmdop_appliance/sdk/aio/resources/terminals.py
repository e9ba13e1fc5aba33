"""Terminals: PTYs on machines that one can leave and come back to; coding sessions, too."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Unpack, cast
from urllib.parse import quote

from cmdop_appliance.sdk.aio.patience import Patience
from cmdop_appliance.sdk.aio.resources.resource import Resource, path_to, require_known
from cmdop_appliance.sdk.terminal_types import (
    Mode,
    OpenedTerminal,
    Terminal,
    TerminalOptions,
    Ticket,
)

if TYPE_CHECKING:
    from cmdop_appliance.sdk.aio.terminal_socket import TerminalSocket


class Terminals(Resource):
    """PTYs on machines."""

    def list(
        self, *, machine_id: str | None = None, kind: str | None = None, status: str | None = None
    ) -> AsyncIterator[Terminal]:
        """All terminals, newest first, page by page.

        `kind`: terminal or coding_session. `status`: starting, running or ended.
        """
        return self._pages("/terminals", {"machine_id": machine_id, "kind": kind, "status": status})

    async def get(self, terminal_id: str) -> Terminal:
        """One terminal, or coding session."""
        return cast("Terminal", await self._answer("GET", path_to("terminals", terminal_id)))

    async def open(
        self,
        machine_id: str,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[TerminalOptions],
    ) -> OpenedTerminal:
        """A terminal on a machine, running; with the `name` of one that runs there, that one.

        Raises:
            Conflict: the machine is away, or does not open it; `details.reason` says why.
            NotFound: no such machine.
            TypeError: there is no such option.
        """
        require_known(options, TerminalOptions.__optional_keys__)
        path = f"{path_to('machines', machine_id)}/terminals"
        return cast(
            "OpenedTerminal",
            await self._answer(
                "POST", path, body=dict(options), idempotency_key=idempotency_key, waits=True
            ),
        )

    async def end(self, terminal_id: str) -> None:
        """End it, and all that runs in it; at once, or when its machine is back.

        Raises:
            Conflict: it has ended already.
        """
        await self._answer("DELETE", path_to("terminals", terminal_id))

    def attach(
        self,
        terminal_id: str,
        *,
        mode: Mode = "operator",
        cols: int = 80,
        rows: int = 24,
        patience_s: float | None = None,
    ) -> "TerminalSocket":
        """See what is written there, and as an operator type. Use it in an `async with` block.

        `cols` and `rows`: how large your window is; the terminal is as large as the smallest of
        its operators'. `patience_s`: how long a hub is waited for that is away; default: as for
        all else.
        """
        from cmdop_appliance.sdk.aio.terminal_socket import TerminalSocket  # websockets: 60 ms

        patience = self._transport.patience() if patience_s is None else Patience(patience_s)
        shown_id = quote(terminal_id, safe="")
        return TerminalSocket(self._transport, shown_id, mode, cols, rows, patience)

    async def ticket(self, terminal_id: str, *, mode: Mode = "operator") -> Ticket:
        """What lets a browser open one websocket within 30 s, without the API key."""
        path = f"{path_to('terminals', terminal_id)}/tickets"
        return cast("Ticket", await self._answer("POST", path, body={"mode": mode}))

    @asynccontextmanager
    async def recording(self, terminal_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """What was recorded, as asciicast v2, piece by piece: `asciinema play` shows it.

        Raises:
            NotFound: nothing was recorded.
        """
        path = f"{path_to('terminals', terminal_id)}/recording"
        async with self._transport.exchange("GET", path) as answer:
            if answer.status != 200:
                await self._transport.read(answer)
            yield answer.pieces()
