"""Why a coding session does not start, in the words of the public API."""

from cmdop_appliance.protocol.limits import LABEL_CHARS


class Refusal(Exception):
    """A session is not started. `code` is part of the public API, and `message` for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message[:LABEL_CHARS]
