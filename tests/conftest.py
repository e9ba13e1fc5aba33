"""What holds for every test."""

import logging

import pytest
from hypothesis import settings

from tests.support.appliance import running_agent, running_hub

settings.register_profile("cmdop", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("cmdop")


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def no_unexpected_errors(request):
    """An ERROR of ours in the log is a bug, even where the test would not have seen it.

    A test that expects one takes `caplog`, and says there which.
    """
    kept, logger = _Errors(), logging.getLogger("cmdop")
    logger.addHandler(kept)
    yield
    logger.removeHandler(kept)
    if "caplog" not in request.fixturenames:
        formatter = logging.Formatter("%(name)s: %(message)s")
        assert not [formatter.format(record) for record in kept.records]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the hub and the agent of a module live."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def hub(place):
    """A hub of the module's own, as a process."""
    with running_hub(place) as hub:
        yield hub


@pytest.fixture(scope="module")
def agent(hub, place):
    """An agent of the module's own, as a process that has joined `hub`."""
    with running_agent(hub, place, "target") as agent:
        yield agent
