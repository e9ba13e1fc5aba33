"""The requests about a machine's files in JSON, and what stands in a folder of it."""

import hashlib
from pathlib import Path

from tests.support.machine_files import MachineFiles


def put(files: MachineFiles, path: object, content: str, **fields: object):
    return files.call("PUT", "/content", None, {"path": str(path), "content": content, **fields})


def post(files: MachineFiles, name: str, **fields: object):
    return files.call("POST", name, None, fields)


def read(files: MachineFiles, path: object, **query: object):
    return files.call("GET", "/content", path, **query)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
