"""Why the hub ends an agent connection: close codes, of which 4000–4999 are ours (RFC 6455)."""

from enum import IntEnum

REASON_BYTES = 123  # a close frame carries no longer reason (RFC 6455 §5.5)


class Close(IntEnum):
    """A close code. Whatever it says, a machine that has joined keeps trying."""

    STOPPING = 1001  # the hub goes away and will be back
    PROTOCOL = 4400  # the peer broke the protocol; the reason says how
    REFUSED = 4401  # bad signature, or an enrolment token that is unknown, used up or expired
    UNKNOWN = 4404  # no machine has this key
    SILENT = 4408  # nothing was heard for too long
    IN_USE = 4409  # another live holder of the same key: a clone
    REPLACED = 4410  # the same machine connected anew
    REMOVED = 4411  # the machine was removed; a signed `revoked` came before
    TOO_OFTEN = 4425  # too many new sessions of this machine in a minute; later it gets one
    VERSION = 4426  # no protocol version in common
    LOCKED_OUT = 4429  # too many wrong enrolment tokens or API keys came from this address
