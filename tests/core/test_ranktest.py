"""The rank test against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from roclip_audit.core.ranktest import rank_sum_p, signed_rank_p


@pytest.mark.parametrize("decimals", [1, 8])
def test_it_is_the_normal_approximation_of_mann_whitney(decimals: int) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.4, 1, 20).round(decimals), rng.normal(0, 1, 45).round(decimals)
    expected = stats.mannwhitneyu(one, other, alternative="greater", method="asymptotic").pvalue
    assert rank_sum_p(torch.from_numpy(one), torch.from_numpy(other)) == pytest.approx(expected, rel=1e-6)


def test_nothing_to_compare_says_nothing() -> None:
    assert rank_sum_p(torch.empty(0), torch.ones(3)) == 1.0
    assert rank_sum_p(torch.ones(3), torch.ones(3)) == 1.0


@pytest.mark.parametrize("decimals", [1, 8])
def test_signed_ranks_are_wilcoxons(decimals: int) -> None:
    differences = np.random.default_rng(0).normal(0.3, 1, 40).round(decimals)
    expected = stats.wilcoxon(
        differences[differences != 0], alternative="greater", method="approx", correction=True
    ).pvalue
    assert signed_rank_p(torch.from_numpy(differences)) == pytest.approx(expected, rel=1e-6)


def test_no_difference_says_nothing() -> None:
    assert signed_rank_p(torch.zeros(5)) == 1.0
    assert signed_rank_p(torch.empty(0)) == 1.0
