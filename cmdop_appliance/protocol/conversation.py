"""One agent connection as a state machine: who may say what, when. Used by both ends."""

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, Literal

from cmdop_appliance.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from cmdop_appliance.protocol import messages
from cmdop_appliance.protocol.frames import Output, decode_output, encode_output
from cmdop_appliance.protocol.limits import MESSAGE_BYTES
from cmdop_appliance.protocol.messages import FromAgent, FromHub, Message

Side = Literal["agent", "hub"]


class State(Enum):
    """How far a connection has come."""

    NEW = auto()
    GREETED = auto()
    CHALLENGED = auto()
    PROVED = auto()
    WELCOMED = auto()
    READY = auto()
    OVER = auto()


_HUB_WHEN_READY = (
    "dispatch",
    "cancel",
    "resume",
    "stored",
    "sampled",
    "acknowledge",
    "heartbeat_ack",
)
_AGENT_WHEN_READY = (
    "heartbeat",
    "samples",
    "background",
    "accepted",
    "started",
    "output",
    "finished",
    "rejected",
    "notice",
)

# (state, sender, type) → next state. The table is the specification: what is not here is forbidden.
TRANSITIONS: Final[dict[tuple[State, Side, str], State]] = {
    (State.NEW, "agent", "hello"): State.GREETED,
    (State.GREETED, "hub", "challenge"): State.CHALLENGED,
    (State.CHALLENGED, "agent", "prove"): State.PROVED,
    (State.PROVED, "hub", "welcome"): State.WELCOMED,
    (State.PROVED, "hub", "revoked"): State.OVER,
    (State.WELCOMED, "agent", "inventory"): State.WELCOMED,
    (State.WELCOMED, "agent", "ready"): State.READY,
    # While the inventory is under way the machine may be removed, and nothing else may be said.
    (State.WELCOMED, "hub", "revoked"): State.OVER,
    (State.READY, "hub", "revoked"): State.OVER,
    (State.READY, "agent", "bye"): State.OVER,
    **{(State.READY, "hub", kind): State.READY for kind in _HUB_WHEN_READY},
    **{(State.READY, "agent", kind): State.READY for kind in _AGENT_WHEN_READY},
}


def join(waiting: deque[str]) -> str:
    """One text frame with as many of the waiting messages as fit, a line each, taken from it."""
    lines = [waiting.popleft()]
    room = MESSAGE_BYTES - len(lines[0])  # peers count characters, as we do
    while waiting and len(waiting[0]) < room:
        room -= 1 + len(waiting[0])
        lines.append(waiting.popleft())
    return "\n".join(lines)


def split(frame: str | bytes) -> Sequence[str | bytes]:
    """The messages in a frame; a binary frame is one."""
    return frame.split("\n") if isinstance(frame, str) else [frame]


class Conversation:
    """Turns frames into messages and back, and holds both sides to the table.

    A wrong message raises `RemoteProtocolError` when it was received and `LocalProtocolError`
    when it was about to be sent.
    """

    def __init__(self, we_are: Side) -> None:
        self.state = State.NEW
        self._we_are = we_are

    def send(self, item: Message | Output) -> str | bytes:
        """`item` as it travels; the table must allow us to say it now."""
        self._step(self._we_are, item, LocalProtocolError)
        return encode_output(item) if isinstance(item, Output) else messages.encode(item)

    def receive_from_agent(self, frame: str | bytes) -> FromAgent | Output:
        """What the agent said, if it may say that now."""
        item: FromAgent | Output
        if isinstance(frame, bytes):
            item = decode_output(frame)
        else:
            item = messages.decode_from_agent(frame)
        self._step("agent", item, RemoteProtocolError)
        return item

    def receive_from_hub(self, frame: str | bytes) -> FromHub:
        """What the hub said, if it may say that now."""
        if isinstance(frame, bytes):
            raise RemoteProtocolError("a hub sends no binary frames")
        item = messages.decode_from_hub(frame)
        self._step("hub", item, RemoteProtocolError)
        return item

    def _step(self, sender: Side, item: Message | Output, blame: type[ProtocolError]) -> None:
        kind = "output" if isinstance(item, Output) else str(item.__struct_config__.tag)
        following = TRANSITIONS.get((self.state, sender, kind))
        if following is None:
            raise blame(f"{sender} may not send {kind} in state {self.state.name}")
        self.state = following
