"""A place of its own for each test."""

import shutil

import pytest

from tests.agent.coding.ground import Ground, Repository


@pytest.fixture
def ground(tmp_path, monkeypatch):
    ground = Ground(tmp_path)
    monkeypatch.setenv("HOME", str(ground.home))  # what `~` means
    return ground


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    if shutil.which("git") is None:
        pytest.skip("no git: worktrees are not proved here")
    ground = Ground(tmp_path_factory.mktemp("template"))
    return Repository(ground, ground.path / "repo").path


@pytest.fixture
def repository(ground, template):
    return Repository(ground, ground.path / "repo", template)
