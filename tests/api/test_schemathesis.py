"""The document against the running hub, as somebody else's program reads it.

The long run is a part of the torture: scripts/torture --only schemathesis.
"""

import pytest

from tests.support.fuzzing import fuzz, fuzzed_hub

pytestmark = pytest.mark.slow  # some thousand requests


def test_what_the_document_says_is_what_the_hub_does(tmp_path):
    with fuzzed_hub(tmp_path) as hub:
        done = fuzz(hub, tmp_path, seed=1, each=4)
        assert done.is_good, done.told
        assert done.examples > 1000
