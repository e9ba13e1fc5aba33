"""The cmdop appliance: hub, agent, command line and SDK in one package."""

__version__ = "0.1.0"
# When this version was made, ms since 1970 UTC: no clock that is right shows an earlier time.
RELEASED_MS = 1_795_305_600_000  # 2026-11-22
