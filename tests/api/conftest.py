import pytest

from tests.support.appliance import running_hub


@pytest.fixture(scope="module")
def strict_hub(tmp_path_factory):
    """A hub that whoever guesses keys may ask on.

    At its end, nothing that was asked of it may have surprised it.
    """
    config = '[log]\nlevel = "debug"\n[auth]\nattempts = 0\n'
    with running_hub(tmp_path_factory.mktemp("strict"), config=config) as hub:
        yield hub
    log = hub.log.read_text()
    assert '"level": "error"' not in log
    assert "Traceback" not in log
