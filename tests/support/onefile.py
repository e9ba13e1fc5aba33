"""A one-file program that unpacks itself as cmdop's does, and is a shell script."""

from pathlib import Path

_ONEFILE = """#!/bin/sh
[ "$CMDOP_UNPACK_TO" ] || exit 9
cd "$CMDOP_UNPACK_TO"
mkdir _internal
umask 077
echo data >_internal/data
ln -s data _internal/link
cat >cmdop <<'END'
#!/bin/sh
{does}
END
chmod 700 cmdop
"""


def onefile(place: Path, number: str, does: str = "") -> Path:
    """A file in `place` that says it is cmdop `number`, or `does` something else."""
    path = place / f"onefile-{number}"
    path.write_text(_ONEFILE.format(does=does or f"echo cmdop {number}"))
    path.chmod(0o755)
    return path
