"""Settings: the example tells the truth, the order of sources, and errors that name the place."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from cmdop_appliance.config import Config, ServerConfig, load_config
from cmdop_appliance.errors import StartupError
from tests.support.authority import Authority

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"
KEYS = [
    (table.name, field)
    for table in msgspec.structs.fields(Config)
    for field in msgspec.structs.fields(table.type)
]


@pytest.fixture
def file(tmp_path):
    """Writes the settings file; gives its path."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "hub.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def refusal(path: Path | None, **sources) -> StartupError:
    with pytest.raises(StartupError) as caught:
        load_config(path, **{"environ": {}, **sources})
    return caught.value


# ── the example ──────────────────────────────────────────────────────────────────────────────────


def test_the_example_has_every_key_with_its_default_and_no_other():
    shown = tomllib.loads(EXAMPLE.read_text())
    assert shown == msgspec.to_builtins(Config())
    assert load_config(EXAMPLE, environ={}) == Config()


@pytest.mark.parametrize(("table", "field"), KEYS, ids=lambda value: getattr(value, "name", value))
def test_the_example_says_what_each_key_means_and_allows(table: str, field):
    lines = EXAMPLE.read_text().splitlines()
    here = next(n for n, line in enumerate(lines) if line.startswith(f"{field.name} ="))
    comment = lines[here - 1]
    assert comment.startswith("# ")
    for meta in (m for m in get_args(field.type) if isinstance(m, msgspec.Meta)):
        units = {"bytes": "Bytes, ", "ms": "Milliseconds, "}
        unit = units.get(field.name.rpartition("_")[2], "")
        if meta.ge is not None:
            assert f"{unit}{meta.ge} to {meta.le}" in comment


# ── sources ──────────────────────────────────────────────────────────────────────────────────────


def test_without_a_file_the_defaults_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(None, environ={}) == Config()


def test_the_file_in_this_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cmdop.toml").write_text("[sessions]\ngrace_ms = 7\n")
    assert load_config(None, environ={}).sessions.grace_ms == 7


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file(file):
    path = file('[server]\nlisten = "127.0.0.1:1"\ndata_dir = "file"\nlocal_agent = false\n')
    environ = {"CMDOP_LISTEN": "127.0.0.1:2", "CMDOP_DATA_DIR": "variable"}
    flags = {"listen": "127.0.0.1:3", "data_dir": None, "local_agent": True}
    server = load_config(path, environ=environ, flags=flags).server
    assert (server.listen, server.data_dir, server.local_agent) == ("127.0.0.1:3", "variable", True)


@pytest.mark.parametrize(("table", "field"), KEYS, ids=lambda value: getattr(value, "name", value))
def test_every_key_has_a_variable(table: str, field, tmp_path):
    default = getattr(getattr(Config(), table), field.name)
    other = {
        "listen": "[::1]:9",
        "data_dir": "d",
        "local_agent": True,
        "trusted_proxies": ["10.0.0.0/8", "::1"],
        "public_url": "https://hub.example:8443",
        "level": "error",
        "allow_networks": ["10.0.0.0/8", "::1"],
        "ca_file": str(Authority(tmp_path).file),
        "tls": "on",
        "certificate": "hub.pem",
        "certificate_key": "hub.key",
        "directory": "backups",
        "cron": "@daily",
        "timezone": "Europe/Berlin",
        "keys": ["QUJD" * 10 + "QUI="],
    }
    value = other.get(field.name, default + 1 if isinstance(default, int) else None)
    prefix = "CMDOP_" if table == "server" else f"CMDOP_{table.upper()}_"
    text = ", ".join(value) if isinstance(value, list) else str(value)
    environ = {f"{prefix}{field.name.upper()}": text}
    if field.name == "certificate_key":
        environ["CMDOP_CERTIFICATE"] = "hub.pem"  # without which it is the key of nothing
    assert getattr(getattr(load_config(None, environ=environ), table), field.name) == value


@pytest.mark.parametrize(
    ("settings", "speaks_tls"),
    [
        ({}, False),
        ({"listen": "[::1]:0"}, False),
        ({"listen": "localhost:0"}, False),
        ({"listen": "0.0.0.0:3006"}, True),
        ({"listen": "[::]:3006"}, True),
        ({"listen": "192.0.2.1:3006"}, True),
        ({"listen": "hub.example:3006"}, True),
        ({"listen": "0.0.0.0:3006", "trusted_proxies": ["192.0.2.9"]}, False),
        ({"listen": "0.0.0.0:3006", "tls": "off"}, False),
        ({"tls": "on"}, True),
        ({"tls": "on", "trusted_proxies": ["192.0.2.9"]}, True),
        ({"certificate": "hub.pem"}, True),
    ],
)
def test_tls_is_spoken_where_somebody_else_can_be_on_the_way(settings, speaks_tls):
    assert ServerConfig(**settings).speaks_tls is speaks_tls


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("certificate_key = 'key'", "server.certificate_key: there is no certificate"),
        ("certificate = 'c'\ntls = 'off'", "server.certificate: it is not used while tls is"),
    ],
)
def test_a_certificate_that_would_not_be_used_is_an_error(file, lines, said):
    with pytest.raises(StartupError, match=said):
        load_config(file(f"[server]\n{lines}\n"), environ={})


def test_settings_cannot_be_changed():
    config = Config()
    with pytest.raises(AttributeError):
        config.server.listen = "0.0.0.0:80"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        config.server = Config().server  # type: ignore[misc]


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:3006", ("127.0.0.1", 3006)),
        ("[::1]:0", ("::1", 0)),
        ("hub.example.com:65535", ("hub.example.com", 65535)),
    ],
)
def test_an_address_is_read_in_every_form(file, listen: str, address: tuple[str, int]):
    path = file(f'[server]\nlisten = "{listen}"\n')
    assert load_config(path, environ={}).server.address == address


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("", ""),
        ("https://Hub.example", "hub.example"),
        ("http://[::1]:3006", "::1"),
    ],
)
def test_the_host_of_the_public_url_is_known(file, url: str, host: str):
    path = file(f'[server]\npublic_url = "{url}"\n')
    assert load_config(path, environ={}).server.public_host == host


def test_the_data_directory_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(None, environ={}).data_dir == tmp_path / "cmdop-data"


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "line", "key", "allowed"),
    [
        # an unknown key, an unknown table
        (
            "[server]\n\nlissen = 1\n",
            3,
            "server.lissen",
            "drain_ms, trusted_proxies",
        ),
        (
            "\n[servers]\nx = 1\n",
            2,
            "[servers]",
            "upgrade, limits, auth, rate_limit, webhooks, terminals, log",
        ),
        (
            "listen = 'x'\n",
            1,
            "[listen]",
            "upgrade, limits, auth, rate_limit, webhooks, terminals, log",
        ),
        # a wrong type
        ("[sessions]\ngrace_ms = '1'\n", 2, "sessions.grace_ms", "expected `int`, got `str`"),
        ("[sessions]\ngrace_ms = true\n", 2, "sessions.grace_ms", "expected `int`, got `bool`"),
        ("[sessions]\ngrace_ms = 1.5\n", 2, "sessions.grace_ms", "expected `int`, got `float`"),
        ("[server]\nlocal_agent = 1\n", 2, "server.local_agent", "expected `bool`"),
        ("[server]\ndata_dir = 2026-01-01\n", 2, "server.data_dir", "expected `str`"),
        ("# \nsessions = 5\n", 2, "[sessions]", "expected `object`, got `int`"),
        ("[[sessions]]\ngrace_ms = 1\n", 1, "[sessions]", "expected `object`, got `array`"),
        # out of range, or not one of the words
        ("[sessions]\ngrace_ms = -1\n", 2, "sessions.grace_ms", ">= 0"),
        ("[sessions]\ngrace_ms = 3600001\n", 2, "sessions.grace_ms", "<= 3600000"),
        ("[limits]\nbody_bytes = 99999999999999999999\n", 2, "limits.body_bytes", "int"),
        ("[output]\nmax_bytes = 2097151\n", 2, "output.max_bytes", ">= 2097152"),
        ("[log]\nlevel = 'loud'\n", 2, "log.level", "debug, info, warning, error"),
        ("[server]\ndata_dir = ''\n", 2, "server.data_dir", "length >= 1"),
        # a network that is none
        ("[webhooks]\nallow_networks = ['lan']\n", 2, "webhooks.allow_networks", "'lan'"),
        ("[upgrade]\nkeys = ['QUJD']\n", 2, "upgrade.keys", "no Ed25519 public key"),
        # one that is never dialled, and authorities that are none
        (
            "[webhooks]\nallow_networks = ['169.254.1.1']\n",
            2,
            "webhooks.allow_networks",
            "link-local",
        ),
        ("[retention]\ncommands_ms = 86399999\n", 2, "retention.commands_ms", "86400000 (a day)"),
        ("[retention]\noutput_ms = 1\n", 2, "retention.output_ms", "must be 0, or at least"),
        ("[webhooks]\n\nca_file = '/no.pem'\n", 3, "webhooks.ca_file", "/no.pem: No such file"),
        ("[webhooks]\nca_file = '/dev/null'\n", 2, "webhooks.ca_file", "/dev/null has no PEM"),
        # an address that is none
        ("[server]\nlisten = ':80'\n", 2, "server.listen", "HOST:PORT"),
        ("[server]\nlisten = 'localhost'\n", 2, "server.listen", "HOST:PORT"),
        ("[server]\nlisten = '::1:80'\n", 2, "server.listen", "HOST:PORT"),
        ("[server]\nlisten = 'http://x:80'\n", 2, "server.listen", "HOST:PORT"),
        ("[server]\nlisten = 'x:80\\n'\n", 2, "server.listen", "HOST:PORT"),
        ('[server]\nlisten = "x:80\\n"\n', 2, "server.listen", "HOST:PORT"),
        ("[server]\nlisten = 'x:65536'\n", 2, "server.listen", "HOST:PORT"),
        # a network that is none
        ("[server]\ntrusted_proxies = '::1'\n", 2, "server.trusted_proxies", "expected `array`"),
        ("[server]\ntrusted_proxies = [1]\n", 2, "server.trusted_proxies", "expected `str`"),
        ("[server]\ntrusted_proxies = ['x']\n", 2, "server.trusted_proxies", "'x' does not"),
        ("[server]\ntrusted_proxies = ['10.0.0.1/8']\n", 2, "server.trusted_proxies", "host bits"),
        # no address of a dashboard
        ("[server]\npublic_url = 'hub.example'\n", 2, "server.public_url", "SCHEME://HOST"),
        ("[server]\npublic_url = 'https://h/x'\n", 2, "server.public_url", "SCHEME://HOST"),
        ("[server]\npublic_url = 'https://a@h'\n", 2, "server.public_url", "SCHEME://HOST"),
        ('[server]\npublic_url = "https://h\\n"\n', 2, "server.public_url", "SCHEME://HOST"),
        # unusual ways to write a key
        ("sessions.grace_ms = -1\n", 1, "sessions.grace_ms", ">= 0"),
        ("sessions = { grace_ms = -1 }\n", 1, "sessions.grace_ms", ">= 0"),
        ("[log]\n[ sessions ]\n'grace_ms' = -1\n", 3, "sessions.grace_ms", ">= 0"),
    ],
)
def test_a_refusal_names_file_line_key_and_what_is_allowed(file, text, line, key, allowed):
    path = file(text)
    error = refusal(path)
    assert error.message.startswith(f"{path}:{line}: {key}: ")
    assert allowed in f"{error.message} ({error.hint})"
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("text", "line"),
    [("[server\n", 1), ("[server]\nlisten = \n", 2), ("a = 1\na = 2\n", 2), (b"\n\n\xff", 3)],
)
def test_what_is_not_toml_is_refused_with_its_line(file, text, line):
    path = file(text)
    error = refusal(path)
    assert str(path) in error.message
    assert re.search(rf"(:|line ){line}\b", error.message)


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert refusal(tmp_path / "no.toml").message == (
        f"cannot read {tmp_path / 'no.toml'}: No such file or directory"
    )
    assert str(tmp_path) in refusal(tmp_path).message  # a directory


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("CMDOP_SESSIONS_GRACE_MS", "soon", "int"),
        ("CMDOP_SESSIONS_GRACE_MS", "-1", ">= 0"),
        ("CMDOP_LOCAL_AGENT", "perhaps", "bool"),
        ("CMDOP_LISTEN", "3006", "HOST:PORT"),
        ("CMDOP_LOG_LEVEL", "loud", "info"),
        ("CMDOP_TRUSTED_PROXIES", "10.0.0.0/8,x", "'x' does not"),
    ],
)
def test_a_bad_variable_names_itself(name: str, value: str, allowed: str):
    error = refusal(None, environ={name: value})
    assert error.message.startswith(f"{name}: ")
    assert allowed in f"{error.message} ({error.hint})"


def test_a_bad_flag_names_itself():
    error = refusal(None, flags={"listen": "3006"})
    assert error.message.startswith("--listen: ")
    assert "HOST:PORT" in error.hint
    assert refusal(None, flags={"data_dir": ""}).message.startswith("--data-dir: ")


def test_the_message_names_the_source_that_was_wrong_not_the_one_that_lost(file):
    path = file("[server]\nlisten = '127.0.0.1:1'\n")
    assert refusal(path, flags={"listen": "x"}).message.startswith("--listen: ")
