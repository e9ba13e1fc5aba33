"""kill -9 of hub or agent at random moments of uploads: the old file or the new, no mixture."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

from tests.support.appliance import Answer, wait_for
from tests.support.machine_files import MachineFiles, arrived, names_in
from tests.torture.asks import OUTAGES, PATIENCE_S
from tests.torture.parts import Case, Part, Stage
from tests.torture.site import Site, running_site

_OLD_BYTES = (0, 3_000_000)
_NEW_BYTES = (1, 12_000_000)
# Within which the kill comes: what such an upload takes here, and a little more.
_KILL_AFTER_S = (0.0, 0.15)
_DEAD_S = (0.0, 0.1)
_LOOK_S = 0.002


class _Watcher(threading.Thread):
    """Reads a file over and over: each time it is the old content or the new one, whole."""

    def __init__(self, path: Path, *contents: bytes) -> None:
        super().__init__(name="watcher")
        self._path = path
        self._contents = contents
        self._over = threading.Event()
        self._mixture: str | None = None

    def run(self) -> None:
        """Read until `close`, or until it is neither."""
        while self._mixture is None and not self._over.wait(_LOOK_S):
            read = self._path.read_bytes()
            if read not in self._contents:
                self._mixture = f"{len(read)} bytes that are neither the old file nor the new one"

    def close(self) -> None:
        """Fail if it was ever anything else."""
        self._over.set()
        self.join()
        assert self._mixture is None, self._mixture


class _Upload(threading.Thread):
    """Sends a file, whatever becomes of it."""

    def __init__(self, files: MachineFiles, path: Path, data: bytes, upload_id: str | None) -> None:
        super().__init__(name="upload")
        self._files = files
        self._path = path
        self._data = data
        self._id = upload_id
        self.answer: Answer | None = None

    def run(self) -> None:
        """Send."""
        with suppress(*OUTAGES):
            self.answer = upload(self._files, self._path, self._data, self._id, 0)


def upload(
    files: MachineFiles, path: Path, data: bytes, upload_id: str | None, offset: int
) -> Answer:
    """The end of a file, with the checksum of all of it."""
    where = {} if upload_id is None else {"upload_id": upload_id, "offset": offset}
    sha256 = hashlib.sha256(data).hexdigest()
    return files.upload(path, data[offset:], sha256=sha256, **where)


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    with running_site(stage.place) as site:
        folder = stage.place / "files"
        folder.mkdir()
        path = folder / "x"
        files = MachineFiles(site.hub.api, site.agent.machine_id)
        told = {"new": 0, "old": 0}

        def case(number: int, dice: Random) -> None:
            old = dice.randbytes(dice.randint(*_OLD_BYTES))
            new = dice.randbytes(dice.randint(*_NEW_BYTES))
            upload_id = dice.choice((None, f"u{number}"))
            path.write_bytes(old)
            watcher, client = _Watcher(path, old, new), _Upload(files, path, new, upload_id)
            watcher.start()
            try:
                client.start()
                before = site.agent.connections
                _kill(site, dice)
                assert arrived(path) <= len(new)
                client.join(PATIENCE_S)
                assert not client.is_alive(), "the upload hangs"
                site.wait_reconnected(before)
                if client.answer is not None and client.answer.status == 200:
                    assert path.read_bytes() == new  # it was acknowledged
                told["new" if path.read_bytes() == new else "old"] += 1
                if upload_id is not None and path.read_bytes() == old:
                    offset = files.offset(path, upload_id)
                    assert offset <= len(new)
                    answer = upload(files, path, new, upload_id, offset)
                    assert answer.status == 200, answer
                    assert path.read_bytes() == new
                wait_for(lambda: names_in(folder) == [b"x"], "nothing is left", PATIENCE_S)
            finally:
                watcher.close()

        yield case
        stage.say(f"files-kills: after the kill {told['old']} times old, {told['new']} times new")


def _kill(site: Site, dice: Random) -> None:
    """One of them falls, and is started again."""
    time.sleep(dice.uniform(*_KILL_AFTER_S))
    who = dice.choice(("hub", "agent"))
    (site.hub if who == "hub" else site.agent).kill()
    time.sleep(dice.uniform(*_DEAD_S))
    site.start_hub() if who == "hub" else site.start_agent()


FILES_KILLS = Part("files-kills", 200, 15.0, _stage)
