"""Make the synchronous client of the SDK from the asynchronous one: sdk/aio → sdk.

What takes `await` away is all there is to it; where the two differ in more, each has a module of
its own of the same name. `scripts/fix` runs this, and a test compares.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

SDK: Final = Path(__file__).parents[1] / "cmdop_appliance/sdk"
AIO: Final = SDK / "aio"
# Written twice: they stand on http.client or h11, on threads or tasks.
TWICE: Final = frozenset({"__init__.py", "connection.py", "waiting.py", "websocket.py"})
NOTE: Final = "# Made from sdk/aio/{} by scripts/fix: change it there.\n"

_WORDS: Final = {
    "AsyncClient": "Client",
    "AsyncGenerator": "Generator",
    "AsyncIterable": "Iterable",
    "AsyncIterator": "Iterator",
    "aclose": "close",
    "aclosing": "closing",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "StopAsyncIteration": "StopIteration",
    "anext": "next",
    "asynccontextmanager": "contextmanager",
    "asynchronous": "synchronous",
}
_RULES: Final = [
    (r"\ban `async with`", "a `with`"),
    (r"\b(async|await) ", ""),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"^(from collections\.abc import .*)\bAwaitable, ", r"\1"),
    (r"\bsdk\.aio\b", "sdk"),
    (rf"\b({'|'.join(_WORDS)})\b", lambda found: _WORDS[found[1]]),
]


def synchronous(source: str) -> str:
    """The same without `async` and `await`, not formatted."""
    for pattern, instead in _RULES:
        source = re.sub(pattern, instead, source, flags=re.MULTILINE)
    return source


def made() -> dict[Path, str]:
    """By its path below sdk/, each module that is made."""
    return {
        path: NOTE.format(path) + synchronous((AIO / path).read_text())
        for path in sorted(path.relative_to(AIO) for path in AIO.rglob("*.py"))
        if str(path) not in TWICE
    }


def write(directory: Path) -> None:
    """Write all of them below `directory`, formatted as the rest is."""
    modules = made()
    for path, source in modules.items():
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_text(source)
    paths = [directory / path for path in modules]
    configuration = SDK.parents[1] / "pyproject.toml"
    for arguments in (["check", "--select=I,UP028", "--fix", "--unsafe-fixes"], ["format"]):
        subprocess.run(
            ["ruff", *arguments, "--quiet", "--no-cache", f"--config={configuration}", *paths],
            executable=Path(sys.executable).with_name("ruff"),
            check=True,
        )


if __name__ == "__main__":
    write(SDK)
