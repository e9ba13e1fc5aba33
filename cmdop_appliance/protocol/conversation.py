"""One agent connection as a state machine: who may say what, when. Used by both ends."""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, Literal

from cmdop_appliance.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from cmdop_appliance.protocol import messages
from cmdop_appliance.protocol.frames import Data, Output, Screen, decode, decode_data, encode
from cmdop_appliance.protocol.limits import MESSAGE_BYTES
from cmdop_appliance.protocol.messages import FromAgent, FromHub
from cmdop_appliance.protocol.words import Message

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
    "filecall",
    "filestop",
    "filecredit",
    "fileend",
    "data",
    "terminalopen",
    "terminalend",
    "terminalforget",
    "terminalresize",
    "terminalinput",
    "terminalwatch",
    "terminalcredit",
    "terminalunwatch",
    "upgrade",
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
    "fileanswer",
    "filefailed",
    "filecredit",
    "fileend",
    "data",
    "terminals",
    "terminalopened",
    "terminalfailed",
    "terminalended",
    "terminaltaken",
    "terminalwatched",
    "terminalgap",
    "terminaldone",
    "terminalwaiting",
    "screen",
    "upgrading",
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


def join(waiting: list[str]) -> str:
    """One text frame with as many of the waiting messages as fit, a line each, taken from it."""
    room = MESSAGE_BYTES - len(waiting[0])  # peers count characters, as we do
    count = 1
    while count < len(waiting) and len(waiting[count]) < room:
        room -= 1 + len(waiting[count])
        count += 1
    frame = "\n".join(waiting[:count])
    del waiting[:count]
    return frame


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

    def send(self, item: Message | Output | Data | Screen) -> str | bytes:
        """`item` as it travels; the table must allow us to say it now."""
        self._step(self._we_are, item, LocalProtocolError)
        return messages.encode(item) if isinstance(item, Message) else encode(item)

    def receive_from_agent(self, frame: str | bytes) -> FromAgent | Output | Data | Screen:
        """What the agent said, if it may say that now."""
        item: FromAgent | Output | Data | Screen
        item = decode(frame) if isinstance(frame, bytes) else messages.decode_from_agent(frame)
        self._step("agent", item, RemoteProtocolError)
        return item

    def receive_from_hub(self, frame: str | bytes) -> FromHub | Data:
        """What the hub said, if it may say that now."""
        item: FromHub | Data
        item = decode_data(frame) if isinstance(frame, bytes) else messages.decode_from_hub(frame)
        self._step("hub", item, RemoteProtocolError)
        return item

    def _step(
        self, sender: Side, item: Message | Output | Data | Screen, blame: type[ProtocolError]
    ) -> None:
        if isinstance(item, Message):
            kind = str(item.__struct_config__.tag)
        else:
            kind = type(item).__name__.lower()
        following = TRANSITIONS.get((self.state, sender, kind))
        if following is None:
            raise blame(f"{sender} may not send {kind} in state {self.state.name}")
        self.state = following
