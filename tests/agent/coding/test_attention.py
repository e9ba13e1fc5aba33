"""When a coding session waits for somebody."""

import pytest

from cmdop_appliance.agent.coding.attention import REDRAW_S, Attention


@pytest.fixture
def attention():
    return Attention(5.0)


def test_a_session_that_wrote_and_fell_silent_waits(attention):
    attention.wrote(100.0)
    attention.wrote(103.0)
    assert attention.deadline == 108.0
    assert not attention.is_waiting(107.9)
    assert attention.is_waiting(108.0)
    attention.wrote(200.0)
    assert not attention.is_waiting(200.0)


def test_a_session_that_has_shown_nothing_yet_is_at_no_prompt(attention):
    attention.typed(100.0)
    attention.resized(100.0)
    assert attention.deadline is None
    assert not attention.is_waiting(1e9)


def test_nobody_is_waited_for_who_types_though_nothing_is_echoed(attention):
    attention.wrote(100.0)
    attention.typed(104.0)
    assert not attention.is_waiting(105.0)
    assert attention.is_waiting(109.0)


def test_a_screen_drawn_anew_for_another_viewer_is_no_sign_of_work(attention):
    attention.wrote(100.0)
    attention.resized(110.0)
    attention.wrote(110.0 + REDRAW_S / 2)
    assert attention.is_waiting(110.0 + REDRAW_S / 2)
    attention.wrote(110.0 + REDRAW_S)
    assert not attention.is_waiting(110.0 + REDRAW_S)


def test_the_first_screen_counts_though_its_size_was_just_set(attention):
    attention.resized(100.0)
    attention.wrote(100.1)
    assert attention.deadline == 105.1
