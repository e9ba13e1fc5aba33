"""The hub's settings: one TOML file, `CMDOP_*` variables, flags; each wins over the one before.

The structs are the specification: `config.example.toml` shows every key with its default, and a
test holds the two together.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_origin
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from cmdop_appliance.addresses import Networks, Proxies, is_loopback
from cmdop_appliance.errors import StartupError
from cmdop_appliance.release.trust import trusted_keys
from cmdop_appliance.settings import Settings, allowed_in, lowered

DEFAULT_FILE = Path("cmdop.toml")
_DAY_MS = 86_400_000
_PORT = "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the hub listens and keeps its data."""

    listen: Annotated[
        str,
        Meta(
            pattern=rf"^(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/]+):{_PORT}\Z",
            description="HOST:PORT, such as 127.0.0.1:3006 or [::1]:0",
        ),
    ] = "127.0.0.1:3006"
    data_dir: Annotated[str, Meta(min_length=1)] = "./cmdop-data"
    local_agent: bool = False
    # Auto: TLS wherever somebody else can be on the way, unless proxies in front of us do it.
    tls: Literal["auto", "on", "off"] = "auto"
    # Certificates (PEM), our own first, and its key; "": the hub makes its own.
    certificate: str = ""
    certificate_key: str = ""
    # Open answers get so long to finish when the hub stops (contract.md §11: 5 s in all).
    drain_ms: Annotated[int, Meta(ge=0, le=4000)] = 2000
    # Only from these peers X-Forwarded-For counts (trust.md, row 11).
    trusted_proxies: list[str] = []
    # Where people open the dashboard; browsers may then ask for the hub by no other name, so that
    # no page can be served here under a name of its own (DNS rebinding; trust.md, row 13).
    public_url: Annotated[
        str,
        Meta(
            pattern=rf"^(https?://(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/?#@]+)(:{_PORT})?)?\Z",
            description='SCHEME://HOST[:PORT] without a path, such as https://hub.example; or ""',
        ),
    ] = ""

    def __post_init__(self) -> None:
        try:
            Proxies(self.trusted_proxies)
        except ValueError as exc:
            raise ValueError(f"trusted_proxies: {exc}") from None
        if self.certificate_key and not self.certificate:
            raise ValueError("certificate_key: there is no certificate that it could be the key of")
        if self.certificate and self.tls == "off":
            raise ValueError('certificate: it is not used while tls is "off"')

    @property
    def speaks_tls(self) -> bool:
        """Whether the port speaks TLS, and nothing else."""
        if self.tls != "auto":
            return self.tls == "on"
        is_alone = is_loopback(self.address[0]) or bool(self.trusted_proxies)
        return bool(self.certificate) or not is_alone

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on; port 0 takes a free one."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def public_host(self) -> str:
        """The host in `public_url`, in lower case; "" if there is none."""
        return urlsplit(self.public_url).hostname or ""


class SessionsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a machine may be away."""

    # A machine that is back within this keeps its session (contract.md §2).
    grace_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = 30_000
    # A link silent for so long is dead; agents speak every 15 s (contract.md §3: 30 s).
    silent_ms: Annotated[int, Meta(ge=1000, le=300_000)] = 25_000


class CommandsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Defaults for commands."""

    # `timeout` of POST /commands where the caller names none (contract.md §4).
    sync_timeout_ms: Annotated[int, Meta(ge=1, le=86_400_000)] = 30_000
    # `queue_timeout` of a command that waits for its machine, where the caller names none.
    queue_timeout_ms: Annotated[int, Meta(ge=1, le=2_592_000_000)] = 86_400_000
    # A machine that is silent for so long has lost its commands, until it returns (semantics.md).
    lost_after_ms: Annotated[int, Meta(ge=1000, le=2_592_000_000)] = 86_400_000


class OutputConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of a command's output."""

    # Per stream: its first 1 MiB and its tail; totals and sha256 are of everything (semantics.md).
    max_bytes: Annotated[int, Meta(ge=2 * 1024 * 1024, le=1024**4)] = 64 * 1024 * 1024


class RetentionConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the hub remembers what has ended. 0: for ever."""

    # The records of commands, counted from their end.
    commands_ms: Annotated[int, Meta(ge=0, le=3_153_600_000_000)] = 31_536_000_000
    # What they wrote, counted in the same way.
    output_ms: Annotated[int, Meta(ge=0, le=3_153_600_000_000)] = 7_776_000_000
    # The load of machines: beyond two days, by the quarter of an hour.
    telemetry_ms: Annotated[int, Meta(ge=0, le=3_153_600_000_000)] = 5_184_000_000

    def __post_init__(self) -> None:
        for name in ("commands_ms", "output_ms"):
            if 0 < getattr(self, name) < _DAY_MS:  # who asks again finds the first answer
                raise ValueError(f"{name}: must be 0, or at least {_DAY_MS} (a day)")


class DiskConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of the disk, so that a full one heals."""

    # A file that is given up when the disk is full, so that the hub can still cancel and clean up.
    ballast_bytes: Annotated[int, Meta(ge=0, le=1024**4)] = 16 * 1024 * 1024
    # With less free than this nothing new is begun (507); what runs goes on.
    reserve_bytes: Annotated[int, Meta(ge=0, le=1024**4)] = 64 * 1024 * 1024
    # What the kept output of one machine's commands may take; the oldest goes first. 0: no bound.
    machine_bytes: Annotated[int, Meta(ge=0, le=1024**5)] = 10 * 1024**3


class BackupConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Backups that the hub makes by itself."""

    # Where they go; "": none are made.
    directory: str = ""
    # When: a cron expression, and the zone it is meant in.
    cron: str = "15 3 * * *"
    timezone: str = "UTC"
    # So many are kept, the newest.
    keep: Annotated[int, Meta(ge=1, le=10_000)] = 7


class UpgradeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose releases are taken, and how they go to the machines."""

    # Ed25519 public keys (base64) whose bundles are taken, beside those built in.
    keys: list[str] = []
    # Machines of a wave, in percent of all; the first wave is one machine.
    wave_percent: Annotated[int, Meta(ge=1, le=100)] = 20
    # With more machines than this failed, no further wave begins.
    max_failures: Annotated[int, Meta(ge=0, le=1_000_000)] = 0

    def __post_init__(self) -> None:
        trusted_keys(self.keys)


class LimitsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one request may cost."""

    # A request body; larger is 413. A command's whole spec must fit 512 KiB anyway.
    body_bytes: Annotated[int, Meta(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024


class AuthConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stops whoever guesses keys, and how long a browser is signed in."""

    # So many wrong keys from one address within the window, and it is locked out; 0: none is. Keys
    # have 256 random bits: this is for the log and for the load, not for the odds.
    attempts: Annotated[int, Meta(ge=0, le=1_000_000)] = 20
    window_ms: Annotated[int, Meta(ge=1000, le=86_400_000)] = 300_000
    lockout_ms: Annotated[int, Meta(ge=1000, le=86_400_000)] = 900_000
    # A browser of which nothing was heard for so long is signed in no more …
    sign_in_idle_ms: Annotated[int, Meta(ge=60_000, le=31_536_000_000)] = 43_200_000
    # … and none for longer than this.
    sign_in_ms: Annotated[int, Meta(ge=60_000, le=31_536_000_000)] = 2_592_000_000


class RateLimitConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one API key may ask."""

    # 0: no limit, and no headers about one (contract.md §1).
    requests_per_minute: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class WebhooksConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the hub may send webhooks."""

    # Private and loopback networks that receivers may be in; public addresses always may.
    allow_networks: list[str] = []
    # A file of CA certificates (PEM) that vouch for receivers, beside the system's.
    ca_file: str = ""

    def __post_init__(self) -> None:
        try:
            Networks(self.allow_networks)
        except ValueError as exc:
            raise ValueError(f"allow_networks: {exc}") from None
        if self.ca_file:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.ca_file)
            except ssl.SSLError:
                raise ValueError(f"ca_file: {self.ca_file} has no PEM certificate") from None
            except OSError as exc:
                raise ValueError(f"ca_file: {self.ca_file}: {exc.strerror}") from None


class TerminalsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of terminals and coding sessions."""

    # Record what is written on every terminal, unless its opener says otherwise.
    record: bool = False
    # Of one terminal; what comes after is not recorded.
    recording_bytes: Annotated[int, Meta(ge=1024, le=1024**4)] = 16 * 1024 * 1024
    # Of all; the recordings of those that ended first are dropped for newer ones.
    recordings_bytes: Annotated[int, Meta(ge=1024 * 1024, le=1024**5)] = 1024 * 1024 * 1024


class LogConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the hub writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting of the hub."""

    server: ServerConfig = ServerConfig()
    sessions: SessionsConfig = SessionsConfig()
    commands: CommandsConfig = CommandsConfig()
    output: OutputConfig = OutputConfig()
    retention: RetentionConfig = RetentionConfig()
    disk: DiskConfig = DiskConfig()
    backup: BackupConfig = BackupConfig()
    upgrade: UpgradeConfig = UpgradeConfig()
    limits: LimitsConfig = LimitsConfig()
    auth: AuthConfig = AuthConfig()
    rate_limit: RateLimitConfig = RateLimitConfig()
    webhooks: WebhooksConfig = WebhooksConfig()
    terminals: TerminalsConfig = TerminalsConfig()
    log: LogConfig = LogConfig()

    @property
    def data_dir(self) -> Path:
        """The data directory, absolute."""
        return Path(self.server.data_dir).absolute()


def load_config(
    path: Path | None,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, object] | None = None,
) -> Config:
    """The settings in force. Without `path`, `./cmdop.toml` is read if it is there.

    `flags` are values of `[server]` keys; None means not given.

    Raises:
        StartupError: the file cannot be read, or a key or value is wrong; the message names the
            file, line and key, and what is allowed.
    """
    settings = Settings(path or DEFAULT_FILE, example="config.example.toml")
    if path is not None or DEFAULT_FILE.exists():
        settings.read()
    for table, key, name, value in _from_environ(environ):
        settings.put(table, key, value, source=name)
    for key, value in (flags or {}).items():
        if value is not None:
            settings.put("server", key, value, source=f"--{key.replace('_', '-')}")
    return settings.to(Config)


def _from_environ(environ: Mapping[str, str]) -> list[tuple[str, str, str, object]]:
    """(table, key, variable, value): CMDOP_LISTEN for [server], CMDOP_SESSIONS_GRACE_MS else."""
    found: list[tuple[str, str, str, object]] = []
    for table in msgspec.structs.fields(Config):
        for field in msgspec.structs.fields(table.type):
            prefix = "" if table.name == "server" else f"{table.name}_"
            name = f"CMDOP_{prefix}{field.name}".upper()
            if name in environ:
                given = _read_variable(environ[name], field.type)
                try:
                    value = msgspec.convert(given, field.type, strict=False)
                except msgspec.ValidationError as exc:
                    if allowed := allowed_in(Config, table.name, field.name):
                        hint = f"allowed: {allowed}"
                        raise StartupError(f"{name}: not a valid value", hint=hint) from None
                    raise StartupError(f"{name}: {lowered(str(exc))}") from None
                found.append((table.name, field.name, name, value))
    return found


def _read_variable(text: str, kind: object) -> str | list[str]:
    """A variable holds a list as `a,b`."""
    if get_origin(kind) is not list:
        return text
    return [item.strip() for item in text.split(",") if item.strip()]
