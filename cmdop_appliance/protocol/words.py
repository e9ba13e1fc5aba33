"""What every message of the agent link is."""

from msgspec import Struct


class Message(Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower):
    """Anything that travels in a text frame; its `type` is the class name in lower case."""
