"""What is in the program, as CycloneDX: sbom.py FOLDER writes FOLDER/_internal/sbom.json.

Run by the Python that the program was built with. The same parts give the same bytes.
"""

import hashlib
import json
import platform
import pyexpat
import re
import ssl
import sys
import zlib
from importlib.metadata import Distribution, distribution
from pathlib import Path

import apsw
from cryptography.hazmat.backends.openssl import backend

ROOT = Path(__file__).parents[1]
Component = dict[str, object]


def main(folder: Path) -> None:
    """Write it."""
    components = [*_python_parts(), *_packages(), *_dashboard(), *_libraries(folder / "_internal")]
    version = re.search(
        '^__version__ = "(.*)"',
        (folder.parent / "source/cmdop_appliance/__init__.py").read_text(),
        re.MULTILINE,
    )
    assert version is not None
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "name": "cmdop", "version": version[1]},
        },
        "components": sorted(
            components, key=lambda one: (one["type"], one["name"], one["version"])
        ),
    }
    (folder / "_internal/sbom.json").write_text(json.dumps(document, indent=1) + "\n")


def _component(kind: str, name: str, version: str, purl: str = "", **more: object) -> Component:
    named = {"purl": purl, "bom-ref": purl} if purl else {}
    return {"type": kind, "name": name, "version": version, **named, **more}


def _python_parts() -> list[Component]:
    """Python itself, and what is within others' files."""
    parts = {
        "cpython": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION.split()[1],
        "openssl (in cryptography)": backend.openssl_version_text().split()[1],
        "sqlite (in apsw)": apsw.sqlite_lib_version(),
        "expat": pyexpat.EXPAT_VERSION.removeprefix("expat_"),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "pyinstaller bootloader": distribution("pyinstaller").version,
    }
    return [
        _component("library", name, version, f"pkg:generic/{name.split()[0]}@{version}")
        | {"bom-ref": name}
        for name, version in parts.items()
    ]


def _packages() -> list[Component]:
    """Those of the lock that are installed here."""
    lock = (ROOT / "packaging/requirements.lock").read_text()
    found = []
    for name in sorted(set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))):
        try:
            package = distribution(name)
        except ModuleNotFoundError:  # for another Python, or another system
            continue
        purl = f"pkg:pypi/{name}@{package.version}"
        found.append(_component("library", name, package.version, purl, **_licence(package)))
    return found


def _licence(package: Distribution) -> Component:
    said = package.metadata.get("License-Expression")
    if said:
        return {"licenses": [{"expression": said}]}
    named = [
        text.rpartition(" :: ")[2]
        for text in package.metadata.get_all("Classifier") or []
        if text.startswith("License ::")
    ]
    return {"licenses": [{"license": {"name": name}} for name in named]} if named else {}


def _dashboard() -> list[Component]:
    lock = json.loads((ROOT / "cmdop_appliance/web/ui/package-lock.json").read_text())
    return [
        _component(
            "library",
            name,
            package["version"],
            f"pkg:npm/{name.replace('@', '%40')}@{package['version']}",
            licenses=[{"expression": package["license"]}],
        )
        for place, package in lock["packages"].items()
        if (name := place.rpartition("node_modules/")[2]) and not package.get("dev")
    ]


def _libraries(internal: Path) -> list[Component]:
    """The system's own, as they were where this was built: by their content."""
    return [
        _component(
            "file",
            path.name,
            "",
            hashes=[{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}],
        )
        for path in sorted(internal.glob("lib*.so*"))
        if not path.is_symlink()
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
