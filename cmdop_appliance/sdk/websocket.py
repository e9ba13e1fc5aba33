"""A websocket to the hub, which a thread of its own reads."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Self

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from cmdop_appliance.sdk.errors import Away
from cmdop_appliance.sdk.trust import Trust, tls_context
from cmdop_appliance.sdk.websocket_terms import (
    CLOSE_S,
    MESSAGE_BYTES,
    OPEN_S,
    PING_S,
    PONG_S,
    PROTOCOL,
    Closed,
    not_opened,
)


class WebSocket:
    """An open one. One thread receives, any thread may send."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, url: str, headers: Mapping[str, str], trust: Trust = Trust()) -> Self:  # noqa: B008 - it is frozen
        """A new one.

        Raises:
            APIError: the hub refused.
            Away, UnexpectedAnswer
        """
        try:
            connection = connect(
                url,
                ssl=tls_context(trust) if url.startswith("wss:") else None,
                additional_headers=headers,
                subprotocols=[PROTOCOL],
                compression=None,
                max_size=MESSAGE_BYTES,
                open_timeout=OPEN_S,
                close_timeout=CLOSE_S,
                ping_interval=PING_S,
                ping_timeout=PONG_S,
                proxy=None,
                legacy=True,
            )
        except InvalidHandshake as exc:
            raise not_opened(exc) from exc
        except (OSError, ConnectionClosed) as exc:  # also TimeoutError
            raise Away(f"cannot reach the hub: {exc}") from exc
        return cls(connection)

    def receive(self, timeout_s: float) -> str | bytes | None:
        """The next message; None: there is none in that time.

        Raises:
            Closed
        """
        try:
            return self._connection.recv(timeout=timeout_s)
        except TimeoutError:
            return None
        except ConnectionClosed:
            raise Closed(self._connection.close_code, self._connection.close_reason) from None

    def send(self, message: str | bytes) -> None:
        """Send a message; to a connection that has ended it is lost."""
        with suppress(ConnectionClosed):  # whoever receives hears of it
            self._connection.send(message)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
