"""Releases as their maker makes them: the key, and bundles that it signs."""

import argparse
import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec

from cmdop_appliance import RELEASED_MS
from cmdop_appliance.identity import Identity
from cmdop_appliance.private import write_private
from cmdop_appliance.release.bundle import (
    BundleReader,
    File,
    Manifest,
    pack,
    sha256_of,
    this_platform,
)
from cmdop_appliance.store.migrate import latest

_OWN = f"cmdop-{this_platform()}"


def make_key(path: Path) -> None:
    """Write a new private key, readable by its owner alone; print the public one."""
    if path.exists():
        sys.exit(f"error: {path} is there already\nhint: a release key is made once, and kept")
    identity = Identity.generate()
    write_private(path, base64.b64encode(identity.seed).decode() + "\n")
    print(base64.b64encode(identity.public_key).decode())


def make_bundle(key: Path, bundle: Path, programs: list[Path], version: str | None) -> None:
    """Sign what these programs are, and write all of it into one file."""
    maker = Identity(base64.b64decode(key.read_text().strip(), validate=True))
    files = {_name_of(path): path for path in programs}
    if len(files) < len(programs):
        sys.exit("error: two programs are for the same platform")
    manifest = msgspec.json.encode(
        Manifest(
            version=version or _version_of(files),
            released_ms=RELEASED_MS,
            schema=latest(),
            files=tuple(
                File(name=name, size=path.stat().st_size, sha256=sha256_of(path))
                for name, path in files.items()
            ),
        )
    )
    reader = BundleReader([maker.public_key])
    fresh = bundle.with_name(f".{bundle.name}.new")
    with fresh.open("wb") as file:
        for piece in pack(manifest, maker.sign(manifest), files):
            file.write(piece)
            for _ in reader.feed(piece):
                pass
        reader.close()
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(bundle)
    print(f"{bundle}: {manifest.decode()}")


def _name_of(path: Path) -> str:
    """`cmdop` alone is for this platform: scripts/build calls it that."""
    return _OWN if path.name == "cmdop" else path.name


def _version_of(files: dict[str, Path]) -> str:
    """What the program for this platform says it is."""
    if _OWN not in files:
        sys.exit(f"error: {_OWN} is not among them\nhint: --version says what the others are")
    said = subprocess.run(
        [files[_OWN].absolute(), "version"], capture_output=True, text=True, check=True
    )
    return re.sub(r"^cmdop ", "", said.stdout.strip())


def main() -> None:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(prog="scripts/release.py")
    commands = parser.add_subparsers(dest="command", required=True)
    key = commands.add_parser("key")
    key.add_argument("file", type=Path)
    bundle = commands.add_parser("bundle")
    bundle.add_argument("--key", type=Path, required=True, help="what scripts/release-key made")
    bundle.add_argument("--version", help="what the programs are, if none of them runs here")
    bundle.add_argument("file", type=Path)
    bundle.add_argument("programs", type=Path, nargs="+", help="cmdop-OS-ARCH, or dist/cmdop")
    given = parser.parse_args()
    if given.command == "key":
        make_key(given.file)
    else:
        make_bundle(given.key, given.file, given.programs, given.version)


if __name__ == "__main__":
    main()
