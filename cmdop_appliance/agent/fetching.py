"""Fetching a program from the hub: whoever sends it, only what was signed is kept."""

import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cmdop_appliance.release.bundle import File

# A hub that sends nothing for so long has gone.
_SILENT_S: Final = 30.0
_READ_BYTES: Final = 64 * 1024


class NotFetched(Exception):
    """What came is not the program. `is_final`: another try would bring the same."""

    def __init__(self, message: str, *, is_final: bool) -> None:
        super().__init__(message)
        self.is_final = is_final


def fetch(hub_url: str, file: File, target: Path) -> None:
    """Write the program that the hub has under this name to `target`. Blocks for minutes.

    Raises:
        NotFetched: the hub cannot be reached, or has another program.
        OSError: `target` cannot be written.
    """
    digest, left = hashlib.sha256(), file.size
    with target.open("wb") as copy:
        for piece in _pieces(hub_url, file.name):
            left -= len(piece)
            if left < 0:
                raise NotFetched("the hub has a longer program than was signed", is_final=True)
            digest.update(piece)
            copy.write(piece)
    if left:
        raise NotFetched(f"the hub broke off, {left} bytes before the end", is_final=False)
    if digest.hexdigest() != file.sha256:
        raise NotFetched("the hub has another program than was signed", is_final=True)
    target.chmod(0o700)


def _pieces(hub_url: str, name: str) -> Iterator[bytes]:
    from http.client import HTTPConnection, HTTPException, HTTPSConnection  # 3 MB, and seldom

    url = urlsplit(hub_url)
    assert url.hostname is not None
    connection = HTTPConnection(url.hostname, url.port, timeout=_SILENT_S)
    if url.scheme == "https":
        # Anybody may send it: it is the signature that tells what it is.
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        connection = HTTPSConnection(url.hostname, url.port, timeout=_SILENT_S, context=tls)
    try:
        connection.request("GET", f"{url.path.rstrip('/')}/dl/{name}")
        with connection.getresponse() as answer:
            if answer.status != 200:
                raise NotFetched(
                    f"the hub answered {answer.status} for {name}", is_final=answer.status == 404
                )
            while piece := answer.read(_READ_BYTES):
                yield piece
    except (HTTPException, OSError) as exc:
        raise NotFetched(f"the hub cannot be reached: {exc}", is_final=False) from exc
    finally:
        connection.close()
