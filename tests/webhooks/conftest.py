"""What tests of webhooks share."""

import pytest
import trio

from tests.webhooks.peers import Dials


@pytest.fixture
def dials(monkeypatch) -> Dials:
    """Records every dial of Trio's sockets, in whose stead `leads` may lead elsewhere."""
    record = Dials()
    connect = trio._socket._SocketType.connect

    async def recording(self, address):
        record.seen.append(address[0])
        port = record.leads.get(address[0], address[1])
        if port is None:
            await trio.sleep_forever()
        if address[0] in record.leads:
            address = ("127.0.0.1", port)
        await connect(self, address)

    monkeypatch.setattr(trio._socket._SocketType, "connect", recording)
    return record
