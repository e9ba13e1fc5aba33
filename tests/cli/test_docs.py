"""What the documents show is run here as it stands there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from cmdop_appliance.cli.main import _COMMANDS
from cmdop_appliance.webhooks.signing import new_webhook_secret, signed_headers
from tests.cli.window import window
from tests.support.appliance import Agent, Hub, ending, running_hub, wait_for

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "access",
    "audit",
    "coding",
    "commands",
    "config-as-code",
    "files",
    "mcp",
    "monitoring",
    "schedules",
    "sdk",
    "sessions",
    "terminals",
    "webhooks",
)
# Of the command line alone, which says something on standard error, too.
BY_HAND = ("cli", "dashboard", "first-minute", "security")


def _blocks(languages, documents=DOCUMENTS):
    return [
        pytest.param(*block, id=f"{name}-{number}")
        for name in documents
        for number, block in enumerate(
            re.findall(
                rf"```({languages})\n(.*?)```", (ROOT / f"docs/{name}.md").read_text(), re.DOTALL
            )
        )
    ]


# What programs find on the machine of the documents.
CODING_AGENT = "#!/bin/sh\nexec cat\n"
# What calls the example for Node: secret and signature as arguments, the body on standard input.
NODE = """
const [secret, signature] = process.argv.slice(1);
const body = require("node:fs").readFileSync(0);
console.log(JSON.stringify(eventOf(secret, { "x-cmdop-signature": signature }, body)));
"""
VERIFYING = re.findall(
    r"```(python|bash|js)\n(.*?)```", (ROOT / "docs/webhooks.md").read_text(), re.DOTALL
)


@pytest.fixture(scope="module")
def environ(tmp_path_factory):
    """A hub with the machine `nas`, and `cmdop` on the PATH."""
    place = tmp_path_factory.mktemp("docs")
    program = place / "bin/cmdop"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cmdop_appliance "$@"\n')
    program.chmod(0o755)
    for name in ("claude", "codex"):
        coding_agent = program.with_name(name)
        coding_agent.write_text(CODING_AGENT)
        coding_agent.chmod(0o755)
    agent = Agent(place, "nas")
    agent.state_dir.mkdir(mode=0o700)
    (agent.state_dir / "agent.toml").write_text(f'[coding]\npath = ["{program.parent}"]\n')
    with running_hub(place) as hub, ending(agent):
        agent.join(hub)
        yield {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "HOME": str(place),  # as the agent's
            "PYTHONPATH": str(ROOT),
            "CMDOP_URL": hub.api.url,
            "CMDOP_API_KEY": hub.api.key,
            "MACHINE_ID": agent.machine_id,
        }


@pytest.mark.slow
@pytest.mark.parametrize(("language", "text"), _blocks("sh|python"))
def test_an_example_does_what_it_says(environ, language, text):
    if "curl" in text and shutil.which("curl") is None:
        pytest.skip("no curl")
    program = ["sh", "-euc"] if language == "sh" else [sys.executable, "-c"]
    done = subprocess.run(
        [*program, text], capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    answers = re.findall(r'"code":"(\w+)"', done.stdout)
    assert answers == (["conflict"] if "/resume" in text else [])
    if "Idempotency-Key" in text:
        first, second = re.findall(r'"id":"(cmd_\w+)"', done.stdout)
        assert first == second


@pytest.mark.slow
@pytest.mark.parametrize(("_language", "text"), _blocks("python", ("sdk",))[2:])
def test_an_example_that_says_so_runs_on_trio_as_well(environ, _language, text):
    text = text.replace("import asyncio", "import trio").replace(
        "asyncio.run(main())", "trio.run(main)"
    )
    program = [sys.executable, "-W", "error", "-c", text]
    done = subprocess.run(program, capture_output=True, env=environ, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
@pytest.mark.parametrize(("_language", "text"), _blocks("sh", BY_HAND))
def test_an_example_of_the_command_line_works(environ, tmp_path, _language, text):
    done = subprocess.run(
        ["sh", "-euc", text],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**environ, "XDG_CONFIG_HOME": str(tmp_path)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "error: " not in done.stderr


@pytest.mark.slow
def test_the_examples_of_the_api_do_what_they_say_one_after_another(environ):
    text = "".join(block.values[1] for block in _blocks("sh", ("api",)))
    done = subprocess.run(
        ["sh", "-euc", text], capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r'"error":{"code":"(\w+)"', done.stdout) == ["machine_not_found"]
    first, second = re.findall(r'"stdout":"(\d+)\n', done.stdout)
    assert first == second
    assert "event: end" in done.stdout
    assert "event: command.completed" in done.stdout


@pytest.mark.slow
def test_the_readme_leads_from_a_checkout_to_a_command(tmp_path):
    program = tmp_path / "scripts/cmdop"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cmdop_appliance "$@"\n')
    program.chmod(0o755)
    (tmp_path / "README.md").touch()
    serving, *others = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    name, serve, *flags = shlex.split(serving, comments=True)
    assert serve == "serve"
    hub = Hub(tmp_path)
    hub.program = [str(tmp_path / name)]
    with ending(hub):
        hub.start(*flags, PYTHONPATH=str(ROOT))
        wait_for(lambda: hub.api.get("/machines?status=online"), "this machine is there")
        assert re.search(
            r"^  sign in    http://\S+/sign-in#cmdop_link_", hub.out.read_text(), re.MULTILINE
        )
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "CMDOP_DATA_DIR": str(hub.data_dir),
        }
        for text in others:
            done = subprocess.run(
                ["sh", "-euc", text],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env=environ,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr


def test_every_command_has_its_place_in_the_document():
    tree = re.findall(r"```text\n(.*?)```", (ROOT / "docs/cli.md").read_text(), re.DOTALL)[0]
    assert {*re.findall("cmdop ([a-z]+)", tree)} >= {*_COMMANDS}


@pytest.mark.slow
@pytest.mark.parametrize(("_language", "text"), _blocks("console", ("coding", "terminals")))
def test_an_example_for_a_window_shows_a_terminal_that_can_be_left(environ, _language, text):
    with window("-euc", text, program=("sh",), **environ) as one:
        for number in range(1, 1 + len(re.findall("cmdop (?:connect|code) ", text))):
            wait_for(lambda n=number: one.shown.count(b" leaves it") == n, one.text)
            one.type("\x1d")
        assert one.wait_exit() == 0, one.text


@pytest.mark.parametrize(("language", "text"), VERIFYING)
def test_a_receiver_that_is_shown_tells_what_the_hub_signed_from_all_else(tmp_path, language, text):
    if language == "js" and shutil.which("node") is None:
        pytest.skip("no node: what docs/webhooks.md shows for it is not proved here")
    secret, body = new_webhook_secret(), b'{"id":"evt_1"}'
    headers = signed_headers(secret, "evt_1", int(time.time()), body)

    def is_taken(received):
        if language == "bash":
            (tmp_path / "body").write_bytes(received)
            environ = {"SECRET": secret, "SIGNATURE": headers["X-Cmdop-Signature"]}
            environ["PATH"] = os.environ["PATH"]
            program = ["bash", "-euc", text]
            return subprocess.run(program, cwd=tmp_path, env=environ, check=False).returncode == 0
        if language == "js":
            program = ["node", "-e", text + NODE, "--", secret, headers["X-Cmdop-Signature"]]
            done = subprocess.run(program, input=received, capture_output=True, check=False)
            return done.returncode == 0 and json.loads(done.stdout) == {"id": "evt_1"}
        shown: dict[str, Any] = {}
        exec(text, shown)
        with suppress(PermissionError, WebhookVerificationError):
            return shown["event_of"](secret, headers, received) == {"id": "evt_1"}
        return False

    assert is_taken(body)
    assert not is_taken(body + b" ")
