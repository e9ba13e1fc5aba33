"""A root with a tree in it, and what answers for that; a file to write to, and who is asked."""

import tempfile
from pathlib import Path

import pytest

from cmdop_appliance.agent.files.files import Files
from cmdop_appliance.agent.policy import FilesPolicy
from tests.support.agent_files import agent_files
from tests.support.descriptors import open_descriptors

MEMORY = Path("/dev/shm")  # another file system, as a rule


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    (root / "tree/inner").mkdir(parents=True)
    (root / "tree/file").write_text("a file")
    (root / "tree/inner/file").write_text("deeper")
    (root / "tree/link").symlink_to("inner/file")
    (root / "tree/out").symlink_to(tmp_path / "outside")
    (root / "file").write_text("content")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").write_text("kept")
    (tmp_path / "state").mkdir()
    return root


@pytest.fixture
def files(root, tmp_path):
    """Afterwards nothing is left open, and no temporary is left."""
    before = open_descriptors()
    yield Files(tmp_path / "state", FilesPolicy(roots=(str(root),)))
    assert open_descriptors() == before
    assert not list(root.rglob(".cmdop-*"))
    assert not list((tmp_path / "state").rglob("*.jsonl"))


@pytest.fixture
def elsewhere(root, tmp_path):
    """A directory on another file system, and what answers for both."""
    if not MEMORY.is_dir() or MEMORY.stat().st_dev == root.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=MEMORY) as other:
        roots = (str(root), other)
        yield Path(other), Files(tmp_path / "state", FilesPolicy(roots=roots))


@pytest.fixture
def state(tmp_path):
    return tmp_path / "agent"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.fixture
def path(folder):
    """A file that stands there."""
    path = folder / "file"
    path.write_bytes(b"old")
    return path


@pytest.fixture
def nothing_is_left(files, state, tmp_path):
    """Afterwards, of `files` on `state`: no temporary, no record of one, and nothing open."""
    before = open_descriptors()
    yield
    assert list(tmp_path.rglob(".cmdop-*")) == []
    assert list((state / "files").glob("*")) == []
    assert open_descriptors() == before


@pytest.fixture(params=["the same agent", "the next agent"])
def later(request, files, state):
    """Who is asked again."""
    return (lambda: files) if request.param == "the same agent" else (lambda: agent_files(state))
