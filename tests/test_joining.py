"""The script that joins a machine, in a real shell; what it fetches only notes how it was run."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cmdop_appliance.joining import SERVICE_PAGE, agent_line, fetch_line, join_script
from cmdop_appliance.protocol.handshake import SECRET_BYTES, EnrolmentToken
from tests.cli.served import swept

ROOT = Path(__file__).parents[1]
SYSTEM = os.uname()
NAME = f"cmdop-{SYSTEM.sysname.lower()}-{SYSTEM.machine}"
PROGRAM = '#!/bin/sh\nprintf "%s\\n" "$@" "${CMDOP_JOIN_KEY-none}" "$(cat)" >"$HOME/ran"\n'
SUMS = {NAME: hashlib.sha256(PROGRAM.encode()).hexdigest(), "cmdop-other-cpu": "0" * 64}
TOKEN = "cmdop_enroll_x"
URL = "http://192.0.2.7:3006"
# What the script calls.
TOOLS = (
    *("sh", "uname", "tr", "mkdir", "mktemp", "rm", "chmod", "mv", "dirname", "cut", "cp"),
    *("sha256sum", "cat"),
)
# As curl or wget: -o or -O says where to, and another argument what.
FETCH = """#!/bin/sh
printf '%s\\n' "$*" >>"$HOME/fetched"
case "$*" in *{url}/dl/{name}*) from=program ;; esac
while [ "$#" -gt 1 ]; do case $1 in -o | -O) to=$2 ;; esac; shift; done
cp "$HOME/hub/$from" "$to"
"""


class Machine:
    """A home directory and a PATH, of somebody who is not root."""

    def __init__(self, place, fetcher="curl", url=URL, program=PROGRAM):
        self.home, self.tools = place / "a home", place / "tools"
        self.hub = self.home / "hub"
        self.hub.mkdir(parents=True)
        self.tools.mkdir()
        for tool in TOOLS:
            (self.tools / tool).symlink_to(shutil.which(tool))
        for tool, text in {
            "id": "#!/bin/sh\necho 1000\n",
            fetcher: FETCH.format(url=url, name=NAME),
        }.items():
            (self.tools / tool).write_text(text)
            (self.tools / tool).chmod(0o755)
        (self.hub / "program").write_text(program)

    def begin(self, **environ):
        """A shell that takes a script as from a pipe."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [self.tools / "sh"],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            env={"PATH": str(self.tools), "HOME": str(self.home), **environ},
        )

    def run(self, script, **environ):
        """(exit code, what it said) of a script."""
        with self.begin(**environ) as shell:
            out, said = shell.communicate(script, timeout=60)
        assert out == ""
        return shell.returncode, said

    @property
    def ran(self):
        """What the program was told; None: it was not started."""
        note = self.home / "ran"
        return note.read_text().splitlines() if note.exists() else None

    @property
    def installed(self):
        folder = self.home / ".local/bin"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("fetcher", ["curl", "wget"])
def test_it_fetches_installs_and_starts_the_agent_with_the_token_out_of_sight(tmp_path, fetcher):
    machine = Machine(tmp_path, fetcher)
    code, said = machine.run(join_script(URL, SUMS), CMDOP_JOIN_KEY=TOKEN)
    assert (code, machine.installed) == (0, ["cmdop"]), said
    state = f"{machine.home}/.local/state/cmdop-agent"
    assert machine.ran == [
        "agent",
        "--hub",
        URL,
        "--plain-http",
        "--state-dir",
        state,
        "--token",
        "-",
        "none",
        TOKEN,
    ]
    assert TOKEN not in said
    assert f"until this shell closes or the machine restarts; to keep it: {URL}/help/agents" in said
    assert os.access(machine.home / ".local/bin/cmdop", os.X_OK)


def test_the_agent_that_runs_on_has_the_token_nowhere_in_sight(tmp_path):
    url = "http://127.0.0.1:1"  # nobody: it tries again and again
    program = f'#!/bin/sh\nexec "{sys.executable}" -I -m cmdop_appliance "$@"\n'
    machine = Machine(tmp_path, url=url, program=program)
    token = str(EnrolmentToken(bytes(SECRET_BYTES), bytes(32)))
    with swept(tmp_path), machine.begin(CMDOP_JOIN_KEY=token) as shell:
        sums = {NAME: hashlib.sha256(program.encode()).hexdigest()}
        shell.stdin.write(join_script(url, sums))
        shell.stdin.close()
        try:
            said = next(line for line in shell.stderr if line.startswith("2"))  # its log
            assert "connection lost" in said
            environ, line = (
                (Path("/proc") / str(shell.pid) / name).read_bytes()
                for name in ("environ", "cmdline")
            )
        finally:
            shell.terminate()
    assert shell.returncode == 0
    assert b"\0agent\0" in line
    assert b"HOME=" in environ
    assert token.encode() not in environ + line
    assert b"CMDOP_JOIN_KEY" not in environ


def test_what_is_not_what_the_hub_has_is_not_installed(tmp_path):
    machine = Machine(tmp_path)
    (machine.hub / "program").write_text(PROGRAM + "# and more\n")
    code, said = machine.run(join_script(URL, SUMS), CMDOP_JOIN_KEY=TOKEN)
    assert (code, machine.ran, machine.installed) == (1, None, [])
    assert said.endswith("error: what arrived is not what the hub has: try again\n")


def test_a_hub_without_a_program_for_this_system_is_named(tmp_path):
    machine = Machine(tmp_path)
    code, said = machine.run(join_script(URL, {}), CMDOP_JOIN_KEY=TOKEN)
    assert (code, machine.ran, machine.installed) == (1, None, [])
    assert said == f"error: the hub has no {NAME}\n"


def test_a_program_that_cannot_be_fetched_is_named(tmp_path):
    machine = Machine(tmp_path)
    (machine.hub / "program").unlink()
    code, said = machine.run(join_script(URL, SUMS), CMDOP_JOIN_KEY=TOKEN)
    assert (code, machine.ran, machine.installed) == (1, None, [])
    assert f"error: cannot fetch {URL}/dl/{NAME}\n" in said


@pytest.mark.parametrize("fetcher", ["curl", "wget"])
def test_a_hub_for_which_nobody_vouches_is_known_by_its_key_or_its_program_by_its_sum(
    tmp_path, fetcher
):
    url, pin = "https://192.0.2.7:3006", "sha256//a+b="
    line = fetch_line(url, TOKEN, pin)
    assert line.startswith(f"curl -fsSLk --pinnedpubkey '{pin}' {url}/dl/join.sh | ")
    machine = Machine(tmp_path, fetcher, url=url)
    code, said = machine.run(join_script(url, SUMS, pin), CMDOP_JOIN_KEY=TOKEN)
    assert code == 0, said
    fetched = (machine.home / "fetched").read_text()
    know = {"curl": f"-fsSLk --pinnedpubkey {pin}", "wget": "--no-check-certificate"}
    assert know[fetcher] in fetched
    assert "--plain-http" not in machine.ran
    assert join_script(url, SUMS).count("--no-check-certificate") == 0


@pytest.mark.parametrize(
    ("url", "is_exposed"),
    [("http://nas.lan", True), ("http://127.0.0.1:3006", False), ("https://nas.lan", False)],
)
def test_leave_for_plain_http_is_in_the_lines_where_it_is_needed(url, is_exposed):
    assert (" --plain-http " in agent_line(url, TOKEN)) is is_exposed
    assert ('"$hub" --plain-http ' in join_script(url, SUMS)) is is_exposed


def test_without_a_token_nothing_is_fetched_unless_the_machine_has_joined(tmp_path):
    machine = Machine(tmp_path)
    code, said = machine.run(join_script(URL, SUMS))
    assert (code, machine.installed) == (1, [])
    assert "CMDOP_JOIN_KEY is not set: cmdop machines add" in said
    (machine.home / ".local/state/cmdop-agent").mkdir(parents=True)
    assert machine.run(join_script(URL, SUMS))[0] == 0
    assert machine.installed == ["cmdop"]


def test_without_curl_and_wget_the_remedy_is_named(tmp_path):
    machine = Machine(tmp_path, "ftp")
    code, said = machine.run(join_script(URL, SUMS), CMDOP_JOIN_KEY=TOKEN)
    assert (code, machine.installed) == (1, [])
    assert said.endswith("error: neither curl nor wget is here\n")


def test_a_script_of_which_only_a_part_arrived_does_nothing(tmp_path):
    machine = Machine(tmp_path)
    script = join_script(URL, SUMS)
    for length in range(0, len(script) - 1, 150):
        machine.run(script[:length], CMDOP_JOIN_KEY=TOKEN)
        assert (machine.ran, machine.installed) == (None, []), script[:length]


def test_an_address_is_one_word_for_the_shell(tmp_path):
    url = "http://[::1]:1/'; touch ~/hacked; '"
    machine = Machine(tmp_path)
    machine.run(join_script(url, SUMS), CMDOP_JOIN_KEY=TOKEN)
    machine.run(fetch_line(url, TOKEN))
    assert not (machine.home / "hacked").exists()


def test_as_root_where_systemd_runs_it_becomes_a_service(tmp_path):
    machine = Machine(tmp_path)
    (machine.tools / "id").write_text("#!/bin/sh\necho 0\n")
    (tmp_path / "systemd").mkdir()
    script = join_script(URL, SUMS)
    for place, instead in {
        "/usr/local/bin": machine.home / ".local/bin",
        "/var/lib": machine.home,
        "/run/systemd/system": tmp_path / "systemd",
    }.items():
        assert place in script
        script = script.replace(place, f"'{instead}'")
    code, said = machine.run(script, CMDOP_JOIN_KEY=TOKEN)
    assert (code, machine.installed) == (0, []), said  # by the program, not by the script
    assert machine.ran == [
        *("install", "agent", "--hub", URL, "--plain-http", "--token", "-"),
        *("none", TOKEN),
    ]
    assert TOKEN not in said
    assert machine.run(script)[0] == 1
    (machine.home / "cmdop-agent").mkdir()  # it has joined
    assert machine.run(script)[0] == 0
    assert machine.ran == ["install", "agent", "--hub", URL, "--plain-http", "none", ""]


def test_what_the_script_says_of_services_is_in_the_documents():
    assert SERVICE_PAGE == "/help/agents#as-a-service"
    assert "\n## As a service\n" in (ROOT / "docs/agents.md").read_text()
