import pytest

from tests.agent.keeper.running import clean_machine


@pytest.fixture
def state_dir(tmp_path, monkeypatch):
    with clean_machine(tmp_path, monkeypatch) as path:
        yield path
