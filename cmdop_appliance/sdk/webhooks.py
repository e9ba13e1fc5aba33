"""What a receiver of webhooks needs: is this from the hub, and what does it tell?"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Final, cast

from cmdop_appliance.sdk.errors import CmdopError
from cmdop_appliance.sdk.types import Event

_HEADER: Final = "x-cmdop-signature"


class InvalidSignature(CmdopError):
    """A request that was not signed with the webhook's secret, or whose body was changed since."""


def verify(secret: str, headers: Mapping[str, str], body: bytes) -> Event:
    """The event that a request tells of, once it is proved to come from the hub.

    `body`: the bytes as they came. The same event may come twice, always with the same `id`. Its
    `seq` counts what this webhook gets, without gaps; that of a test is 0.

    Raises:
        InvalidSignature: it does not come from the hub; answer 401 or so.
    """
    given = next((value for name, value in headers.items() if name.lower() == _HEADER), "")
    expected = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise InvalidSignature("the request is not signed with the secret of the webhook")
    return cast("Event", json.loads(body))
