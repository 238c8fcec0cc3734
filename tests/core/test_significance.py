"""Binomial tails against sums of exact fractions, corrected p-values by definition and by hand, Wilson's from print."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.core.significance import benjamini_hochberg, binomial_tail, wilson_interval


def exact_tail(k: int, n: int, p: float) -> float:
    exact = Fraction(p)
    return float(sum(comb(n, i) * exact**i * (1 - exact) ** (n - i) for i in range(k, n + 1)))


@given(st.integers(0, 40), st.data(), st.floats(0, 1))
def test_the_tail_is_the_sum_of_its_terms(n: int, data: st.DataObject, p: float) -> None:
    k = data.draw(st.integers(0, n))
    assert binomial_tail(k, n, p) == pytest.approx(exact_tail(k, n, p), rel=1e-9, abs=1e-13)


def test_far_out_and_large() -> None:
    assert binomial_tail(50, 50, 0.01) == pytest.approx(1e-100, rel=1e-9)
    assert binomial_tail(5, 1_000_000, 0.5) == 1.0
    assert 0.49 < binomial_tail(500_000, 1_000_000, 0.5) < 0.51
    assert binomial_tail(3, 10, 0.0) == 0.0
    assert binomial_tail(0, 0, 0.3) == 1.0


@pytest.mark.parametrize("arguments", [(-1, 5, 0.5), (6, 5, 0.5), (1, 5, 1.5), (1, 5, float("nan"))])
def test_arguments_out_of_range(arguments: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        binomial_tail(*arguments)


@given(st.lists(st.floats(0, 1), max_size=30))
def test_corrected_values_keep_order_and_bounds(p_values: list[float]) -> None:
    adjusted = benjamini_hochberg(p_values)
    assert ((adjusted >= np.asarray(p_values)) & (adjusted <= 1)).all()
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    # The definition: reject all up to the largest i with p_(i) <= i/m x.
    for level in (0.05, 0.3):
        ranked = np.sort(p_values)
        passed = [i for i, p in enumerate(ranked, 1) if p * len(ranked) / i <= level]
        assert (adjusted <= level).sum() == (max(passed) if passed else 0)


def test_corrected_by_hand() -> None:
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.5]).tolist() == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_newcombe_printed_it(k: int, n: int, low: float, high: float) -> None:
    """Table I of Newcombe (1998), method 3."""
    assert wilson_interval(k, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 200), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_solves_its_equation(n: int, data: st.DataObject, confidence: float) -> None:
    k = data.draw(st.integers(0, n))
    z = {0.5: 0.6744897502, 0.9: 1.6448536270, 0.95: 1.9599639845, 0.99: 2.5758293035}[confidence]
    low, high = wilson_interval(k, n, confidence)
    assert 0.0 <= low <= k / n <= high <= 1.0
    for end in (low, high):
        assert abs(k / n - end) == pytest.approx(z * np.sqrt(end * (1 - end) / n), abs=1e-7)
    mirrored = wilson_interval(n - k, n, confidence)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


def test_wilson_without_trials_and_out_of_range() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 5)[0] == 0.0
    assert wilson_interval(5, 5)[1] == 1.0
    for arguments in ((-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0), (1, 5, 0.0)):
        with pytest.raises(ValueError, match="must be"):
            wilson_interval(*arguments)
