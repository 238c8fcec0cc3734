"""Scales and ticks."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.audit.report.axes import LEFT, RIGHT, WIDTH, across, decades, round_ticks, tick_text, upwards


@given(st.floats(1e-6, 1e12))
def test_ticks_are_few_round_and_reach_the_highest_value(high: float) -> None:
    ticks = round_ticks(high)
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in pairwise(ticks)}
    assert ticks[0] == 0
    assert ticks[-1] >= high * (1 - 1e-6)
    assert 2 <= len(ticks) <= 8
    assert steps == {1.0}


def test_round_means_one_two_or_five() -> None:
    assert round_ticks(166) == (0, 50, 100, 150, 200)
    assert round_ticks(0.23, 4) == (0, 0.1, 0.2, 0.3)
    assert round_ticks(0) == (0, 1)


@pytest.mark.parametrize(
    ("high", "expected"), [(1, (1, 10)), (10, (1, 10)), (11, (1, 10, 100)), (1000, (1, 10, 100, 1000))]
)
def test_decades_reach_the_highest_value(high: float, expected: tuple[float, ...]) -> None:
    assert decades(high) == expected


def test_places_stay_inside_of_the_chart() -> None:
    x, y = across(0, 10), upwards(1, 1000, log=True)
    assert (x(0), x(10), x(5)) == (LEFT, WIDTH - RIGHT, (LEFT + WIDTH - RIGHT) / 2)
    assert (x(-3), x(99)) == (x(0), x(10))
    assert y(10) - y(1) == pytest.approx(y(100) - y(10), abs=0.2)
    assert across(1, 1)(1) == LEFT


def test_ticks_in_words() -> None:
    texts = [tick_text(value) for value in (0.0, 0.25, 15.0, 1000.0, 20_000.0, 3e6, 5e9)]
    assert texts == ["0", "0.25", "15", "1,000", "20 k", "3 M", "5 G"]
