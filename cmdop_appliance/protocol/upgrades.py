"""What a hub says to have an agent replaced by another release, and what comes of it.

The agent takes nothing on the hub's word: the manifest is signed by whoever made the release.
"""

from typing import Annotated, Literal

from msgspec import Meta

from cmdop_appliance.protocol.files import Label
from cmdop_appliance.protocol.limits import MANIFEST_BYTES
from cmdop_appliance.protocol.words import Message

UpgradeId = Annotated[str, Meta(pattern=r"^upg_[0-7][0-9A-HJKMNP-TV-Z]{25}\Z")]

# refused: nothing was done. failed: it did not get as far as a start. rolled_back: the new agent
# was not healthy, and the old one runs again.
Progress = Literal["downloading", "starting", "healthy", "refused", "failed", "rolled_back"]


class Upgrade(Message, frozen=True):
    """Be this release. Said any number of times: it is tried once, and told how it went."""

    id: UpgradeId
    manifest: Annotated[bytes, Meta(max_length=MANIFEST_BYTES)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]  # Ed25519, of the manifest


class Upgrading(Message, frozen=True, omit_defaults=True):
    """How far this agent is with an upgrade."""

    id: UpgradeId
    progress: Progress
    code: Label = ""  # of what did not go well: why, a stable word
    message: Label = ""  # the same for people, and what to do
