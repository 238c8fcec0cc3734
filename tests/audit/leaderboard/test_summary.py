"""Means over seeds, and the interval that each number of seeds gets."""

from __future__ import annotations

import pytest
from scipy import stats

from roclip_audit.audit.leaderboard.summary import Setting, over_seeds, settings_of, summarise
from tests.audit.leaderboard.leaderkit import row


def test_one_seed_keeps_its_bootstrap() -> None:
    one = over_seeds([row(value=0.9, low=0.7, high=0.95)])
    assert (one.value, one.low, one.high, one.n_seeds) == (0.9, 0.7, 0.95, 1)


def test_two_seeds_get_the_error_of_their_mean() -> None:
    one = over_seeds([row(value=0.6, low=0.5, high=0.7), row(value=0.8, low=0.7, high=0.9)])
    assert one.value == pytest.approx(0.7)
    assert one.low == pytest.approx(0.7 - 0.1 / 2**0.5)
    assert one.high == pytest.approx(0.7 + 0.1 / 2**0.5)


@pytest.mark.parametrize("n", range(3, 11))
def test_three_seeds_and_more_get_students_t(n: int) -> None:
    values = [0.5 + 0.02 * (i % 3) for i in range(n)]
    low, high = stats.t.interval(0.95, n - 1, loc=sum(values) / n, scale=stats.sem(values))
    one = over_seeds([row(value=value, seed=i) for i, value in enumerate(values)])
    assert (one.low, one.high) == pytest.approx((low, high), abs=1e-4)
    assert one.n_seeds == n


def test_many_seeds_get_an_interval_that_is_not_too_narrow() -> None:
    values = [0.5 + 0.02 * (i % 3) for i in range(30)]
    low, _ = stats.t.interval(0.95, 29, loc=sum(values) / 30, scale=stats.sem(values))
    found = over_seeds([row(value=value) for value in values]).low
    assert found is not None
    assert 0.45 < found <= low


def test_shares_stay_shares_and_other_numbers_are_free() -> None:
    one = over_seeds([row(value=value) for value in (0.9, 1.0, 1.0)])
    assert one.high == 1.0
    speed = over_seeds([row(value=value) for value in (10.0, 12.0, 11.0)])
    assert speed.high is not None
    assert speed.high > 12


def test_without_intervals_there_is_none() -> None:
    assert over_seeds([row(low=None, high=None), row(low=None, high=None)]).low is None


def test_rows_are_put_together_by_all_but_the_seed() -> None:
    rows = [row(seed=0, value=0.8), row(seed=1, value=0.6), row(rate=0.001, value=0.5), row(encoder="other", value=0.1)]
    found = {(key[0].encoder, key[0].rate): one.value for key, one in summarise(rows).items()}
    assert found == pytest.approx({("embedded", 0.005): 0.7, ("embedded", 0.001): 0.5, ("other", 0.005): 0.1})
    assert settings_of(rows)[0] == Setting("clip", "embedded", 0.005)
