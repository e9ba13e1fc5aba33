"""The words that start each agent, where its program is looked for, and what a person is told."""

import os
import socket

import pytest

from cmdop_appliance.agent.coding.flavours import Places
from cmdop_appliance.agent.coding.refusal import Refusal
from cmdop_appliance.agent.coding.settings import CodingPolicy, Flavour
from cmdop_appliance.agent.policy import Policy

MODEL = {"model": "m-1"}
YOLO = {"yolo": True}


@pytest.mark.parametrize(
    ("flavour", "program", "asked", "words"),
    [
        ("claude", "claude", {}, []),
        ("claude", "claude", MODEL, ["--model", "m-1"]),
        ("claude", "claude", YOLO, ["--dangerously-skip-permissions"]),
        ("claude", "claude", MODEL | YOLO, ["--model", "m-1", "--dangerously-skip-permissions"]),
        ("codex", "codex", {}, []),
        (
            "codex",
            "codex",
            MODEL | YOLO,
            ["--model", "m-1", "--dangerously-bypass-approvals-and-sandbox"],
        ),
        ("cursor", "agent", MODEL | YOLO, ["--model", "m-1", "--yolo"]),
        ("cursor", "cursor-agent", {}, []),
        ("gemini", "gemini", MODEL | YOLO, ["--model", "m-1", "--yolo"]),
        ("opencode", "opencode", MODEL | YOLO, ["--model", "m-1"]),
    ],
)
async def test_each_flavour_starts_as_the_contract_says(ground, flavour, program, asked, words):
    path = ground.program(program)
    prepared = await ground.prepare(ground.path, flavour=flavour, **asked)
    assert prepared.argv == [str(path), *words]
    assert prepared.cwd == str(ground.path)
    assert prepared.worktree is None


async def test_a_flavour_of_the_file_comes_beside_the_others_or_takes_the_place_of_one(ground):
    codex = ground.program("my codex", folder=ground.home / "tools")
    aider = ground.program("aider")
    flavours = {
        "codex": Flavour(programs=("~/tools/my codex",), args=("--a",), model=("-m={model}",)),
        "aider": Flavour(programs=("no-such-program", "aider"), model=(), yolo=("-y", "-z")),
    }
    policy = Policy(coding=CodingPolicy(flavours=flavours))
    prepared = await ground.prepare(ground.path, policy, flavour="codex", model="x{y}", yolo=True)
    assert prepared.argv == [str(codex), "--a", "-m=x{y}"]
    prepared = await ground.prepare(ground.path, policy, flavour="aider", yolo=True)
    assert prepared.argv == [str(aider), "-y", "-z"]
    assert (await ground.prepare(ground.path, policy)).argv == [str(ground.bin / "claude")]
    refusal = await ground.refusal(ground.path, policy, flavour="aider", model="m")
    assert refusal.startswith("invalid_model: aider takes no model")


async def test_a_missing_program_is_named_with_the_host_and_where_it_was_looked_for(ground):
    flavours = {"lost": Flavour(programs=("lost",)), "two": Flavour(programs=("a-1", "b-2"))}
    policy = Policy(coding=CodingPolicy(flavours=flavours, path=("/opt/somewhere", "~/tools")))
    refusal = await ground.refusal(ground.path, policy, flavour="lost")
    host = socket.gethostname()
    assert refusal.startswith(f"not_installed: lost is not installed on {host}: looked in ")
    for folder in (ground.bin, "/opt/somewhere", ground.home / "tools", ground.home / ".local/bin"):
        assert str(folder) in refusal
    assert "coding.path in agent.toml" in refusal
    refusal = await ground.refusal(ground.path, policy, flavour="two")
    assert f"two (a-1, b-2) is not installed on {host}" in refusal


async def test_a_program_that_was_named_by_its_path_is_looked_for_nowhere_else(ground):
    policy = Policy(coding=CodingPolicy(flavours={"x": Flavour(programs=("/no/claude",))}))
    refusal = await ground.refusal(ground.path, policy, flavour="x")
    assert "looked in /no/claude;" in refusal


@pytest.mark.parametrize("folder", [".local/bin", "bin", ".npm-global/bin", ".opencode/bin"])
async def test_programs_are_found_where_people_have_them(ground, folder):
    path = ground.program("gemini-x", folder=ground.home / folder)
    policy = Policy(coding=CodingPolicy(flavours={"x": Flavour(programs=("gemini-x",))}))
    prepared = await ground.prepare(ground.path, policy, flavour="x")
    assert prepared.argv == [str(path)]
    assert str(path.parent) in prepared.env["PATH"].split(":")  # where its `node` is, too


def test_what_cannot_be_run_and_relative_folders_are_passed_over(tmp_path, monkeypatch):
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    (tmp_path / "first" / "tool").write_text("not executable")
    (tmp_path / "second" / "tool").mkdir()
    (tmp_path / "third" / "tool").touch(0o755)
    (tmp_path / "tool").touch(0o755)
    monkeypatch.chdir(tmp_path)
    path = f":.:{tmp_path}/first:second:{tmp_path}/second:{os.fsdecode(b'/x' + bytes([255]))}"
    places = Places({"PATH": path}, [f"{tmp_path}/third"], str(tmp_path))
    assert places.find(["tool"], "tool") == f"{tmp_path}/third/tool"
    own = [f"{tmp_path}/{name}" for name in ("first", "second", "third")]
    assert list(places.folders[:3]) == own
    assert places.path.startswith(":".join(own))
    with pytest.raises(Refusal):
        Places({"PATH": path}, [], str(tmp_path)).find(["tool"], "tool")


async def test_an_unknown_flavour_is_refused_with_those_there_are(ground):
    refusal = await ground.refusal(ground.path, flavour="mal\x1bware")
    assert refusal.startswith("unknown_flavour: ")
    assert "claude, codex, cursor, gemini, opencode" in refusal
    assert "\x1b" not in refusal


@pytest.mark.parametrize("model", ["--dangerously-skip-permissions", "-y", "a\nb", "\x1b[2J"])
async def test_a_model_that_a_parser_may_take_for_an_option_is_refused(ground, model):
    refusal = await ground.refusal(ground.path, model=model)
    assert refusal.startswith("invalid_model: ")
    assert refusal.isprintable()
