"""The rank test against scipy's."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from roclip_audit.core.ranktest import MOST_EXACT, rank_sum_p, signed_rank_p


@pytest.mark.parametrize("decimals", [1, 8])
def test_it_is_the_normal_approximation_of_mann_whitney(decimals: int) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.4, 1, 20).round(decimals), rng.normal(0, 1, 45).round(decimals)
    expected = stats.mannwhitneyu(one, other, alternative="greater", method="asymptotic").pvalue
    assert rank_sum_p(torch.from_numpy(one), torch.from_numpy(other)) == pytest.approx(expected, rel=1e-6)


def test_nothing_to_compare_says_nothing() -> None:
    assert rank_sum_p(torch.empty(0), torch.ones(3)) == 1.0
    assert rank_sum_p(torch.ones(3), torch.ones(3)) == 1.0


@pytest.mark.parametrize("n", [9, 40, 150])
def test_signed_ranks_are_wilcoxons(n: int) -> None:
    differences = np.random.default_rng(0).normal(0.2, 1, n)
    method = "exact" if n <= MOST_EXACT else "approx"
    expected = stats.wilcoxon(differences, alternative="greater", method=method, correction=True).pvalue
    assert signed_rank_p(torch.from_numpy(differences)) == pytest.approx(expected, rel=1e-6)


def test_signed_ranks_with_ties_and_zeros_count_every_choice_of_signs() -> None:
    differences = np.array([1.0, -1.0, 2.0, 2.0, 0.0, 3.0, -0.5])
    ranks = stats.rankdata(np.abs(differences[differences != 0]))
    own = ranks[differences[differences != 0] > 0].sum()
    sums = [sum(rank for rank, up in zip(ranks, signs, strict=True) if up) for signs in product([0, 1], repeat=6)]
    assert signed_rank_p(torch.from_numpy(differences)) == pytest.approx(np.mean(np.array(sums) >= own))


def test_no_difference_says_nothing() -> None:
    assert signed_rank_p(torch.zeros(5)) == 1.0
    assert signed_rank_p(torch.empty(0)) == 1.0
