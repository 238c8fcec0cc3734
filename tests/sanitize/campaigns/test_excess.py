"""The null and its corrections against a second computation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from roclip_audit.sanitize.campaigns.excess import MIN_RHO, Null, fit_null, holm, tail


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 0), (5, 3), (41, 35), (300, 40), (20_000, 2_100)])
@pytest.mark.parametrize("rho", [0.03, 0.2])
def test_the_tail_is_that_of_a_beta_binomial(n: int, k: int, rho: float) -> None:
    null = Null(0.1, rho)
    assert tail(n, k, null) == pytest.approx(stats.betabinom.sf(k - 1, n, *null.beta), rel=1e-6, abs=1e-12)


def test_without_overdispersion_it_is_a_binomial() -> None:
    assert tail(40, 12, Null(0.1, 1e-7)) == pytest.approx(stats.binom.sf(11, 40, 0.1), rel=1e-3)


@pytest.mark.parametrize("rho", [0.06, 0.15])
def test_the_fit_finds_how_much_groups_differ(rho: float) -> None:
    n = np.random.default_rng(0).integers(5, 60, 3_000)
    k = stats.betabinom.rvs(n, *Null(0.1, rho).beta, random_state=1)
    found = fit_null(n, k, 0.1)
    assert found.rho == pytest.approx(rho, rel=0.15)


def test_equal_groups_get_the_floor_and_so_do_no_groups() -> None:
    n = np.full(500, 30)
    assert fit_null(n, np.random.default_rng(0).binomial(n, 0.1), 0.1).rho == MIN_RHO
    assert fit_null(n[:0], n[:0], 0.1) == Null(0.1, MIN_RHO)


def test_holm_by_hand() -> None:
    assert holm(np.array([0.04, 0.01, 0.03, 0.5])).tolist() == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert holm(np.array([])).tolist() == []
