"""How a machine joins: the line that a person pastes there, and the script that this fetches."""

import shlex
from typing import Final

SERVICE_PAGE: Final = "/help/agents#as-a-service"  # of the hub: how an agent is kept running

# Everything is in a function, so that half of it, from a connection that broke, does nothing.
_SCRIPT: Final = """\
#!/bin/sh
# Makes this machine one of the hub's: fetches cmdop from it, checks and installs it, and joins.
#   curl -fsSL {url}/dl/join.sh | CMDOP_JOIN_KEY=cmdop_enroll_... sh
# CMDOP_MACHINE_NAME is what to call the machine; without it, its host name.
set -eu

fail() {{
    echo "error: $1" >&2
    exit 1
}}
fetch() {{
    if command -v curl >/dev/null; then
        curl -fsSL --retry 9 -o "$2" "$1"
    elif command -v wget >/dev/null; then
        wget -q -O "$2" "$1"
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
    mkdir -p "$bin"
    new=$(mktemp -d "$bin/.cmdop.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    trap 'exit 1' HUP INT TERM
    echo "fetching $name from $hub" >&2
    fetch "$hub/dl/$name.sha256" "$new/sha256" # there is none: the hub has no cmdop for this system
    fetch "$hub/dl/$name" "$new/cmdop"
    [ "$(sha256_of "$new/cmdop")" = "$(cut -c 1-64 "$new/sha256")" ] ||
        fail 'what arrived is not what the hub has: try again'
    chmod 755 "$new/cmdop"
    mv -f "$new/cmdop" "$bin/cmdop"
    rm -rf "$new"
    mkdir -p "$(dirname "$state")"
    echo "installed $bin/cmdop; from now on $bin/cmdop agent --state-dir $state is enough" >&2
    echo "it runs until this shell closes or the machine restarts; to keep it: $hub{service}" >&2
    exec "$bin/cmdop" agent --hub "$hub" --state-dir "$state" ${{token:+--token -}} <<END
$token
END
}}
join
"""


def agent_line(url: str, token: str) -> str:
    """What joins the hub at `url` where cmdop is installed."""
    return f"cmdop agent --hub {shlex.quote(url)} --token {token}"


def fetch_line(url: str, token: str) -> str:
    """What joins it from nothing, if the hub has a program for that machine."""
    return f"curl -fsSL {shlex.quote(url)}/dl/join.sh | CMDOP_JOIN_KEY={token} sh"


def join_script(url: str) -> str:
    """The script that `fetch_line` runs."""
    return _SCRIPT.format(url=shlex.quote(url), service=SERVICE_PAGE)
