"""How a machine joins: the line that a person pastes there, and the script that this fetches."""

import shlex
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from cmdop_appliance.addresses import is_loopback

SERVICE_PAGE: Final = "/help/agents#as-a-service"  # of the hub: how an agent is kept running

# Everything is in a function, so that half of it, from a connection that broke, does nothing.
_SCRIPT: Final = """\
#!/bin/sh
# Makes this machine one of the hub's: fetches cmdop from it, checks and installs it, and joins; as
# root, where systemd runs, by a service.
#   {curl} {url}/dl/join.sh | CMDOP_JOIN_KEY=cmdop_enroll_... sh
# CMDOP_MACHINE_NAME is what to call the machine; without it, its host name.
set -eu

fail() {{
    echo "error: $1" >&2
    exit 1
}}
fetch() {{
    if command -v curl >/dev/null; then
        {curl} --retry 9 -o "$2" "$1"
    elif command -v wget >/dev/null; then
        {wget} -O "$2" "$1" # whoever sends it: its sum is known
    else
        fail 'neither curl nor wget is here'
    fi || fail "cannot fetch $1"
}}
sha256_of() {{
    if command -v sha256sum >/dev/null; then
        sha256sum "$1"
    elif command -v shasum >/dev/null; then
        shasum -a 256 "$1"
    else
        openssl dgst -sha256 -r "$1"
    fi | cut -c 1-64
}}
join() {{
    hub={url}
    if [ "$(id -u)" = 0 ]; then
        bin=/usr/local/bin state=/var/lib/cmdop-agent
    else
        bin=$HOME/.local/bin state=${{XDG_STATE_HOME:-$HOME/.local/state}}/cmdop-agent
    fi
    token=${{CMDOP_JOIN_KEY:-}}
    unset CMDOP_JOIN_KEY # what runs for years does not keep it in its environment
    [ "$token" ] || [ -e "$state" ] ||
        fail 'CMDOP_JOIN_KEY is not set: cmdop machines add prints a line that sets it'
    name=cmdop-$(uname -s | tr '[:upper:]' '[:lower:]')-$(uname -m)
    case $name in
{sums}
    *) fail "the hub has no $name" ;;
    esac
    mkdir -p "$bin"
    new=$(mktemp -d "$bin/.cmdop.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    trap 'exit 1' HUP INT TERM
    echo "fetching $name from $hub" >&2
    fetch "$hub/dl/$name" "$new/cmdop"
    [ "$(sha256_of "$new/cmdop")" = "$sum" ] ||
        fail 'what arrived is not what the hub has: try again'
    chmod 755 "$new/cmdop"
    if [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ]; then # it becomes a service
        export CMDOP_UNPACK_DIR="$new"
        "$new/cmdop" install agent --hub "$hub"{plain} ${{token:+--token -}} >&2 <<END
$token
END
        exit
    fi
    mv -f "$new/cmdop" "$bin/cmdop"
    rm -rf "$new"
    mkdir -p "$(dirname "$state")"
    echo "installed $bin/cmdop; from now on $bin/cmdop agent --state-dir $state is enough" >&2
    echo "it runs until this shell closes or the machine restarts; to keep it: $hub{service}" >&2
    exec "$bin/cmdop" agent --hub "$hub"{plain} --state-dir "$state" ${{token:+--token -}} <<END
$token
END
}}
join
"""


def agent_line(url: str, token: str) -> str:
    """What joins the hub at `url` where cmdop is installed."""
    return f"cmdop agent --hub {shlex.quote(url)}{_plain(url)} --token {token}"


def fetch_line(url: str, token: str, pin: str = "") -> str:
    """What joins it from nothing, if the hub has a program for that machine.

    `pin`: of the key of a certificate for which nobody vouches (certificates.key_pin); "": somebody
    does, or there is none.
    """
    return f"{_curl(pin)} {shlex.quote(url)}/dl/join.sh | CMDOP_JOIN_KEY={token} sh"


def join_script(url: str, sums: Mapping[str, str], pin: str = "") -> str:
    """The script that `fetch_line` runs. `sums`: SHA-256 (hexadecimal) of the hub's programs."""
    return _SCRIPT.format(
        url=shlex.quote(url),
        curl=_curl(pin),
        wget="wget -q --no-check-certificate" if pin else "wget -q",
        sums="\n".join(f"    {name}) sum={digest} ;;" for name, digest in sums.items()),
        plain=_plain(url),
        service=SERVICE_PAGE,
    )


def _curl(pin: str) -> str:
    return f"curl -fsSLk --pinnedpubkey '{pin}'" if pin else "curl -fsSL"


def _plain(url: str) -> str:
    """The flag without which an agent speaks no plain HTTP to another machine."""
    parts = urlsplit(url)
    is_exposed = parts.scheme == "http" and not is_loopback(parts.hostname or "")
    return " --plain-http" if is_exposed else ""
