"""A file up and down through 100 cuts, before the hub and behind it: sha256 equal in the end.

Twice by a client that knows HTTP and nothing of ours: it asks how much has arrived, and goes on
from there. Twice by our own, which does that by itself.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Protocol

from cmdop_appliance.sdk import Client
from tests.support.appliance import Api, wait_for
from tests.support.fault_proxy import FaultProxy, Faults, running_proxy
from tests.support.machine_files import MachineFiles, names_in
from tests.torture.asks import IMPATIENT, OUTAGES
from tests.torture.parts import Case, Part, Stage
from tests.torture.site import running_site_behind_proxy

CUTS = 100  # of one transfer, at the least
_SIZE_BYTES = 100_000_000
# What a connection carries before it is cut: less than a handshake at times, and so little at
# others that about half of the file is there after so many cuts.
_CUT_AFTER_BYTES = (1, _SIZE_BYTES // CUTS)
_TRANSFER_S = 240.0
_RETRY_S = 0.02
# What a hub says of a machine whose link was cut.
_ABSENT = ("unavailable", "session_not_active")


class _Cuts:
    """Cuts one transfer until that was done often enough, and then lets it come to its end."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._before = proxy.cuts
        self._give_up = time.monotonic() + _TRANSFER_S
        self._last_at: int | None = None  # the offset behind the last cut

    def note(self, at: int, _total: int | None = None) -> None:
        """The transfer stands there; the first time the cuts begin."""
        if self._proxy.cuts == self._before:
            self._proxy.faults = Faults(cut_after_bytes=_CUT_AFTER_BYTES)
            self._proxy.cut()
        elif self._proxy.cuts - self._before >= CUTS and self._last_at is None:
            self._proxy.faults, self._last_at = Faults(), at
        assert time.monotonic() < self._give_up, f"it stands at {at} by {self._proxy}"
        assert not IMPATIENT.is_set(), "interrupted"

    def end(self) -> str:
        """What there was of them, at the end; fails if it was not enough."""
        self._proxy.faults = Faults()
        told = f"{self._proxy.cuts - self._before} cuts, the last one at byte {self._last_at}"
        assert self._last_at is not None, f"only {told}"
        return told


class _AnyClient(Protocol):
    def upload(self, source: Path, path: Path, cuts: _Cuts) -> None: ...

    def download(self, path: Path, target: Path, cuts: _Cuts) -> None: ...


class _Plain:
    """Plain HTTP."""

    def __init__(self, api: Api, machine_id: str) -> None:
        self._files = MachineFiles(api, machine_id)

    def upload(self, source: Path, path: Path, cuts: _Cuts) -> None:
        data = source.read_bytes()
        whole, offset = hashlib.sha256(data).hexdigest(), 0
        cuts.note(0)
        while not self._is_there(path, whole):
            with suppress(*OUTAGES):
                answer = self._files.call("GET", "/upload", path, upload_id="cuts")
                if answer.status == 200:
                    offset = int(answer.data["offset"])
                    rest = {"upload_id": "cuts", "offset": offset, "sha256": whole}
                    answer = self._files.upload(path, data[offset:], **rest)
                if answer.status == 200:
                    assert answer.data["sha256"] == whole
                else:
                    assert answer.error["code"] in _ABSENT, answer
            cuts.note(offset)
            time.sleep(_RETRY_S)

    def _is_there(self, path: Path, whole: str) -> bool:
        """True: it is; the answer that said so may have been cut off."""
        with suppress(*OUTAGES):
            answer = self._files.call("GET", "/stat", path, checksum="true")
            return answer.status == 200 and answer.data["sha256"] == whole
        return False

    def download(self, path: Path, target: Path, cuts: _Cuts) -> None:
        size, got, tag = path.stat().st_size, 0, None
        cuts.note(0)
        with target.open("wb") as file:
            while got < size:
                headers = {} if tag is None else {"Range": f"bytes={got}-", "If-Range": tag}
                with suppress(*OUTAGES), self._files.reading(path, **headers) as reading:
                    if reading.status >= 400:
                        answer = json.loads(reading.read_rest())
                        assert answer["error"]["code"] in _ABSENT, answer
                    else:
                        assert reading.status == (200 if tag is None else 206), reading.status
                        tag = reading.headers["etag"]
                        while piece := reading.read(65_536):
                            got += file.write(piece)
                cuts.note(got)
                time.sleep(_RETRY_S)


class _Sdk:
    """Our own client."""

    def __init__(self, api: Api, machine_id: str) -> None:
        self._api = api
        self._machine_id = machine_id

    def upload(self, source: Path, path: Path, cuts: _Cuts) -> None:
        with Client(self._api.url, self._api.key) as client:
            client.files.upload(self._machine_id, source, str(path), progress=cuts.note)

    def download(self, path: Path, target: Path, cuts: _Cuts) -> None:
        with Client(self._api.url, self._api.key) as client:
            client.files.download(self._machine_id, str(path), target, progress=cuts.note)


_CLIENTS: tuple[type[_Plain] | type[_Sdk], ...] = (_Plain, _Sdk)


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    with ExitStack() as stack:
        site, behind = stack.enter_context(running_site_behind_proxy(stage.place, stage.seed))
        before = stack.enter_context(running_proxy(site.hub.address, stage.seed))
        source, target, folder = (stage.place / name for name in ("source", "target", "files"))
        folder.mkdir()

        def renew_link(proxy: FaultProxy) -> None:
            """Return when nothing is left of the faults, nor anybody who has yet to notice them."""
            proxy.cut()
            body = {"machine_id": site.agent.machine_id, "command": "true"}
            wait_for(lambda: site.api.call("POST", "/commands", body).status == 200, "a new link")

        def case(number: int, dice: Random) -> None:
            proxy, where = ((before, "before"), (behind, "behind"))[number % 2]
            api = Api(before.url if proxy is before else site.hub.api.url, site.hub.api.key)
            client: _AnyClient = _CLIENTS[number // 2 % 2](api, site.agent.machine_id)
            source.write_bytes(data := dice.randbytes(_SIZE_BYTES))
            path = folder / f"{number}"
            path.write_bytes(b"old")

            renew_link(proxy)
            cuts = _Cuts(proxy)
            client.upload(source, path, cuts)
            up = cuts.end()
            assert path.read_bytes() == data
            assert names_in(folder) == [path.name.encode()]
            renew_link(proxy)
            cuts = _Cuts(proxy)
            client.download(path, target, cuts)
            down = cuts.end()
            assert target.read_bytes() == data
            renew_link(proxy)
            for file in (path, target):
                file.unlink()
            who = type(client).__name__.strip("_").lower()
            stage.say(f"files-cuts: {len(data)} bytes by {who}, cut {where} the hub: sha256 equal")
            stage.say(f"files-cuts:   up: {up}; down: {down}")

        yield case


FILES_CUTS = Part("files-cuts", 4, 2 * _TRANSFER_S, _stage)
