"""Make the one file: payload.py LAUNCHER FOLDER ONEFILE. The same folder gives the same bytes.

Behind the launcher stand a compressed archive of the folder, a line of "SIZE PATH" for each file
in it, and what launcher.c looks at first: the id of this build and the sizes of the two.
"""

import gzip
import hashlib
import io
import sys
import tarfile
from pathlib import Path


def main(launcher: Path, folder: Path, onefile: Path) -> None:
    """Write `onefile`, for everybody to run."""
    paths = sorted(folder.rglob("*"))
    archive = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", 6, archive, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path in paths:
            tar.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=_plain)
    content = archive.getvalue()
    listing = "".join(
        f"{path.lstat().st_size} {path.relative_to(folder).as_posix()}\n"
        for path in paths
        if path.is_symlink() or not path.is_dir()
    ).encode()
    build = hashlib.sha256(content).hexdigest()[:16]
    trailer = f"\ncmdop {build} {len(content):19} {len(listing):19}\n".encode()
    onefile.write_bytes(launcher.read_bytes() + content + listing + trailer)
    onefile.chmod(0o755)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without owner and time; whoever may read it may run it."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    if not (member.isreg() or member.isdir() or (member.issym() and len(member.linkname) < 100)):
        raise SystemExit(f"{member.name} is nothing that launcher.c unpacks")
    return member


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
