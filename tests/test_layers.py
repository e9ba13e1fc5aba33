"""The architecture: who may import whom, and why not."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "cmdop_appliance"
OURS = "cmdop_appliance"

# Left never imports right.
LAYERS = (
    (
        "errors",
        "ids",
        "clock",
        "addresses",
        "archives",
        "authorities",
        "certificates",
        "logs",
        "identity",
        "joining",
        "masking",
        "notify",
        "packed",
        "private",
        "release",
        "service",
        "settings",
        "sockets",
    ),
    ("model", "config", "auth", "protocol"),
    ("transfer",),
    ("store",),
    ("hub", "scheduler", "webhooks"),
    ("front", "secured", "api", "web"),
    (
        "announcing",
        "backup_schedule",
        "restoring",
        "selftest",
        "server",
        "local_agent",
        "upgrading",
        "cli",
        "__main__",
    ),
)
# These stand beside the layers: of ours they import this, and only their own users import them.
BESIDE = {
    "protocol": ("errors", "ids"),
    "transfer": ("errors", "protocol"),
    "agent": (*LAYERS[0], "protocol", "transfer"),
    "sdk": (),
}
USERS = {
    "agent": ("local_agent", "upgrading", "selftest", "cli", "__main__"),
    "sdk": ("cli", "selftest"),
}

# What runs SQL in a transaction.
STATEMENTS = {f"tx.{name}" for name in ("execute", "many", "one", "all", "each", "value")}

UPWARD = "imports point down: errors … ← model … ← store ← hub ← api ← server, cli"
RELATIVE = "whole names can be searched for, and read by this test"
# room → other rooms and modules that it must not import → why
FORBIDDEN: dict[str, dict[str, str]] = {
    "protocol": dict.fromkeys(
        ("trio", "trio_websocket", "os", "time", "logging", "socket", "pathlib", "random"),
        "sans-I/O: bytes in, messages out; a test needs neither socket nor clock",
    ),
    "model": {"trio": "records do nothing"},
    "auth": {"trio": "it decides, others look up and store"},
    "config": {"trio": "settings are read before the loop runs"},
    "agent": {
        f"{OURS}.store": "an agent has no database",
        f"{OURS}.hub": "agent and hub share the protocol and nothing else",
        f"{OURS}.api": "an agent serves nobody",
    },
    "store": {"trio_websocket": "the store answers in rows", "h11": "the store answers in rows"},
    "hub": {
        "h11": "HTTP is the api's trade",
        "http": "HTTP is the api's trade",
        f"{OURS}.scheduler": "commands know nothing of who starts them",
        f"{OURS}.webhooks": "whoever records an event does not wait for its receivers",
    },
    "scheduler": {f"{OURS}.webhooks": "they have nothing to do with each other"},
    "webhooks": {
        f"{OURS}.scheduler": "they have nothing to do with each other",
        **{
            f"{OURS}.hub.{path.stem}": "of the hub they hear its bus"
            for path in (ROOT / "hub").glob("*.py")
            if path.stem not in ("__init__", "bus")
        },
    },
}
# third party → the only places that import it → why
ONLY_IN: dict[str, tuple[tuple[str, ...], str]] = {
    "apsw": (
        ("store", "selftest.power", "selftest.fills"),
        "the store is the only package that speaks SQL; a test of it may be a disk under it",
    ),
    "sqlite3": ((), "distributions ship an SQLite with the WAL-reset bug; ours is apsw's"),
    "asyncio": ((), "one event loop: Trio's"),
    "quart": (("api.app", "web"), "whoever leaves Quart one day rewrites these"),
    "quart_trio": (("api.app",), "whoever leaves Quart one day rewrites this"),
    "werkzeug": (("api.app",), "it comes with Quart"),
    "hypercorn": (("api.guard",), "the guard mends exactly one version of it"),
    "h11": (("api.guard", "api.hot", "sdk.aio.connection"), "HTTP is the api's trade"),
    "trio_websocket": (("hub.connection", "agent.link"), "a leaner websocket can replace it"),
    "wsproto": (
        ("hub.connection", "agent.link", "api.guard", "masking"),
        "it comes with the websockets",
    ),
    "websockets": (
        ("masking", "sdk.websocket", "sdk.websocket_terms", "sdk.aio.websocket"),
        "of it we want the masking, and the client for whoever has no Trio",
    ),
    "anyio": (("sdk.aio",), "the only code of ours that may run on another loop than Trio's"),
    "cryptography": (
        (
            "identity",
            "certificates",
        ),
        "one place to judge how keys are used",
    ),
    "psutil": (("agent.telemetry", "agent.facts", "certificates"), "other systems need other ways"),
    "croniter": (
        ("scheduler.cron",),
        "its iteration is wrong around DST; of it we want the fields",
    ),
    "httpcore2": (("webhooks.dialling",), "one place that dials whom somebody named"),
    "idna": (("webhooks.targets",), "one reader of URLs decides where webhooks go"),
    "standardwebhooks": ((), "the reference by which tests judge what we sign"),
    "crc32c": (("protocol.frames",), "the checksum is a detail of the frame"),
    "prometheus_client": (("api.metrics",), "who counts need not know who reads"),
    "markdown_it": (("web.help",), "documents are pages there, and text everywhere else"),
    "tomli_w": (("cli.configuration",), "one place knows how the file is written"),
    "click": (("cli",), "the command line is the only one that prints usage"),
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    """`store.engine` for cmdop_appliance/store/engine.py, `store` for its __init__."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str) -> set[str]:
    """Every module that is imported anywhere in `source`, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            found |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    return found


def is_within(name: str, places: str | tuple[str, ...]) -> bool:
    places = (places,) if isinstance(places, str) else places
    return any(f"{name}.".startswith(f"{place.rstrip('.')}.") for place in places)


def statements(source: str) -> list[str]:
    """Every use in `source` of what runs SQL in a transaction."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in STATEMENTS
    ]


def forbidden_rooms(room: str) -> dict[str, str]:
    """The rooms of ours that `room` must not import."""
    rooms = {name for layer in LAYERS for name in layer} | set(BESIDE)
    if room in BESIDE:
        return dict.fromkeys(rooms - {room, *BESIDE[room]}, "it stands beside the layers")
    level = next(number for number, layer in enumerate(LAYERS) if room in layer)
    above = {name for layer in LAYERS[level + 1 :] for name in layer}
    hidden = {name for name, users in USERS.items() if room not in users}
    return dict.fromkeys(above, UPWARD) | dict.fromkeys(hidden, "only what starts it knows it")


def guilt(module: str, source: str) -> list[str]:
    """What this module must not import and does, each with the reason."""
    room = module.partition(".")[0]
    bans = {f"{OURS}.{name}": why for name, why in forbidden_rooms(room).items()}
    bans |= FORBIDDEN.get(room, {})
    bans |= {name: why for name, (places, why) in ONLY_IN.items() if not is_within(module, places)}
    bans["."] = RELATIVE
    return [
        f"{module} imports {name}: {why}"
        for name in sorted(imports(source))
        for ban, why in bans.items()
        if is_within(name, ban)
    ]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_nothing_that_it_must_not(path: Path):
    module = name_of(path)
    if module:  # the package itself says its version, and imports nothing
        assert not guilt(module, path.read_text())
    else:
        assert not imports(path.read_text())


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_the_store_speaks_sql(path: Path):
    if not is_within(name_of(path), "store"):
        assert not statements(path.read_text())


def test_every_room_has_its_place():
    placed = {name for layer in LAYERS for name in layer} | set(BESIDE)
    assert {name_of(path).partition(".")[0] for path in modules()} - {""} == placed


def test_the_sdk_imports_nothing_of_ours():
    for path in (ROOT / "sdk").rglob("*.py"):
        ours = {name for name in imports(path.read_text()) if is_within(name, OURS)}
        assert all(is_within(name, f"{OURS}.sdk") for name in ours), path


def test_the_keeper_is_of_the_standard_library_alone():
    """It runs for months and starts with every machine: nothing may come in its way."""
    before = [ROOT / "__init__.py", ROOT / "agent" / "__init__.py"]  # run by its import
    assert not [name for path in before for name in imports(path.read_text())]
    for path in (ROOT / "agent" / "keeper").rglob("*.py"):
        for name in imports(path.read_text()):
            top = name.partition(".")[0]
            assert top in sys.stdlib_module_names or is_within(name, f"{OURS}.agent.keeper"), (
                f"{path.name} imports {name}"
            )


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("store.commands", "from cmdop_appliance.hub import bus", UPWARD),
        ("store.commands", "def f():\n    import cmdop_appliance.hub.bus", UPWARD),
        ("store.commands", "from ..hub.bus import Bus", RELATIVE),
        ("store.commands", "from cmdop_appliance import api", UPWARD),
        ("hub.bus", "import apsw.ext", "speaks SQL"),
        ("hub.bus", "from cmdop_appliance.agent.pace import Pace", "only what starts it"),
        ("protocol.frames", "import time", "sans-I/O"),
        ("protocol.frames", "from cmdop_appliance.model import Record", "beside the layers"),
        ("agent.link", "from cmdop_appliance.store.engine import Store", "no database"),
        ("webhooks.deliver", "from cmdop_appliance.hub.commands import Commands", "hear its bus"),
        ("sdk.client", "from cmdop_appliance.errors import NotFound", "beside the layers"),
        ("api.app", "if True:\n    from hypercorn.config import Config", "exactly one version"),
    ],
)
def test_a_planted_import_is_found(module: str, source: str, why: str):
    found = guilt(module, source)
    assert found
    assert why in " ".join(found)


@pytest.mark.parametrize("source", ["tx.value('SELECT 1')", "def f(tx):\n    map(tx.execute, [])"])
def test_a_planted_statement_is_found(source: str):
    assert statements(source)
