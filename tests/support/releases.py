"""Releases as tests make them: programs of a few bytes, signed by a key of their own."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from cmdop_appliance.identity import Identity
from cmdop_appliance.release.bundle import File, Manifest, pack, this_platform

OWN = f"cmdop-{this_platform()}"


def make_bundle(
    folder: Path,
    maker: Identity,
    programs: Mapping[str, bytes],
    *,
    version: str = "99.0.0",
    released_ms: int = 4_000_000_000_000,
    schema: int = 9999,
) -> bytes:
    """A whole bundle of these programs, by name; `folder` is for its work."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / name for name in programs}
    for name, content in programs.items():
        paths[name].write_bytes(content)
    files = tuple(
        File(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in programs.items()
    )
    manifest = msgspec.json.encode(
        Manifest(version=version, released_ms=released_ms, schema=schema, files=files)
    )
    return b"".join(pack(manifest, maker.sign(manifest), paths))


def sign_json(maker: Identity, manifest: Any) -> tuple[bytes, bytes]:
    """Any JSON as a manifest, and its signature."""
    content = msgspec.json.encode(manifest)
    return content, maker.sign(content)
