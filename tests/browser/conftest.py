"""A browser for the tests of one worker, and a hub with a machine for those of a module."""

import pytest

from tests.browser.visitor import chromium, visiting


@pytest.fixture(scope="session")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(browser, hub):
    """Somebody who is signed in, at a desk."""
    with visiting(browser, hub) as visitor:
        yield visitor
