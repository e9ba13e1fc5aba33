"""What this machine remembers of its hub's audit log, so that a log that is cut off is found out.

The hub tells how far its log is with each heartbeat, and hears what we remember when we connect.
`audit.head` is what is left of that after a restart; it counts for the hub that it names.
"""

import binascii
import json
import logging
from pathlib import Path
from typing import Final

import msgspec
import trio

from cmdop_appliance.private import write_private
from cmdop_appliance.protocol.handshake import pin_of
from cmdop_appliance.protocol.messages import AuditHead

log = logging.getLogger("cmdop.agent.memory")

# A busy hub's log grows with each command: no disk needs to hear of all that.
KEEP_S: Final = 60.0

FILE: Final = "audit.head"


class AuditMemory:
    """The newest entry of the hub's audit log of which this machine has heard."""

    def __init__(self, state_dir: Path, hub_key: bytes) -> None:
        self._path = state_dir / FILE
        self._hub = pin_of(hub_key)
        self._head = self._read()
        self._is_contradicted = False  # on this connection
        self._news = trio.Event()

    def recall(self) -> AuditHead | None:
        """What to tell the hub when a connection begins."""
        self._is_contradicted = False
        return self._head

    def hear(self, head: AuditHead) -> None:
        """Remember how far the log is now, unless that contradicts what is remembered."""
        known = self._head
        if head == known or self._is_contradicted:
            return
        if known is not None and head.seq <= known.seq:
            # Until we have told it: else it would only have to grow for us to forget.
            self._is_contradicted = True
            log.warning(
                "the hub's audit log was cut or changed",
                extra={"remembered": known.seq, "told": head.seq},
            )
            return
        self._head = head
        self._news.set()

    async def keep(self) -> None:
        """Have the disk hold what is remembered, for as long as this runs."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            assert self._head is not None  # it is the news
            try:
                await trio.to_thread.run_sync(self._write, self._head, abandon_on_cancel=True)
            except OSError as exc:
                log.warning("what the hub told is not kept", extra={"error": str(exc)})
            await trio.sleep(KEEP_S)

    def _write(self, head: AuditHead) -> None:
        fields = {"hub": self._hub, "seq": head.seq, "hash": head.hash.hex()}
        write_private(self._path, json.dumps(fields) + "\n")

    def _read(self) -> AuditHead | None:
        try:
            fields = json.loads(self._path.read_bytes())
            if fields["hub"] != self._hub:
                return None
            found = {"seq": fields["seq"], "hash": binascii.unhexlify(fields["hash"])}
            return msgspec.convert(found, AuditHead)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
            log.warning("what the hub told is lost", extra={"error": str(exc)})
            return None
