"""The real coding agents of the npm registry, spawned by the HAPI plane: their first screen."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.support.appliance import wait_for
from tests.support.typist import typist
from tests.torture.parts import Case, NotTriedError, Part, Stage
from tests.torture.site import running_site

# Flavour → its package, and words of which its own first screen has one, signed in or not.
_AGENTS = {
    "claude": ("@anthropic-ai/claude-code", ("Claude",)),
    "codex": ("@openai/codex", ("OpenAI Codex", "Welcome to Codex", "Sign in with")),
    "opencode": ("opencode-ai", ("opencode", "OpenCode", "Ask anything")),
}
_INSTALL_S = 600.0  # some 1 GB to unpack
_SCREEN_S = 60.0
_COLS, _ROWS = 100, 40


@contextmanager
def _stage(stage: Stage) -> Iterator[Case]:
    npm = shutil.which("npm")
    if npm is None:
        raise NotTriedError("there is no npm here")
    prefix = stage.place / "npm"
    prefix.mkdir(parents=True)
    packages = [package for package, _ in _AGENTS.values()]
    asked = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(prefix), *packages]
    made = subprocess.run(asked, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    if made.returncode:
        raise NotTriedError(f"npm cannot install them: {made.stderr[-300:]}")
    state = stage.place / "agent"
    state.mkdir(mode=0o700)
    (state / "agent.toml").write_text(f'[coding]\npath = ["{prefix}/node_modules/.bin"]\n')
    with running_site(stage.place, quick=False) as site:
        machine_id = site.agent.machine_id

        def case(number: int, _dice: Random) -> None:
            flavour = list(_AGENTS)[number % len(_AGENTS)]
            directory = stage.place / "projects" / flavour  # it is made
            spawned = site.api.call(
                "POST",
                f"/api/machines/{machine_id}/spawn",
                {"directory": str(directory), "agent": flavour},
            ).json
            assert spawned["success"], spawned
            session_id = spawned["sessionId"]
            with typist(site.api, session_id, cols=_COLS, rows=_ROWS) as person:
                words = _AGENTS[flavour][1]
                shown = person.wait_screen(lambda text: any(w in text for w in words), _SCREEN_S)
                stage.say(f"{flavour}:\n{shown}")
                assert site.api.call("DELETE", f"/api/sessions/{session_id}").status == 200
                assert person.wait_end()["end"] == "cancelled"
            wait_for(
                lambda: (
                    not site.api.call("GET", f"/api/sessions/{session_id}").json["session"][
                        "active"
                    ]
                ),
                "it is recorded as ended",
            )

        yield case


CODING_AGENTS = Part("coding-agents", 3, 300.0, _stage, jobs_most=1)
