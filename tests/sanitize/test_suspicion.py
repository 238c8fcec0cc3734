"""Suspicion on synthetic data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roclip_audit.core.errors import ConfigError
from roclip_audit.sanitize.suspicion import (
    SuspicionConfig,
    calibrate,
    conformal_p,
    density_ratio,
    expected_sound_share,
    with_local_prior,
)

CONFIG = SuspicionConfig()


def mixture(share: float, *, n: int = 8_000, gap: float = 3.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return (statistic, controls, is mismatched): unrelated pairs score N(0, 1), sound ones N(-gap, 1)."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < share
    statistic = rng.normal(size=n) - gap * ~wrong
    return statistic, rng.normal(size=(n, 8)), wrong


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.04, 0.08, 0.3])
def test_contamination_is_within_a_fifth_of_the_planted(share: float, seed: int) -> None:
    statistic, controls, wrong = mixture(share, seed=seed)
    found = calibrate(statistic, controls, CONFIG, np.random.default_rng(seed)).contamination
    assert found.estimate == pytest.approx(wrong.mean(), rel=0.2)
    assert found.low <= found.estimate <= found.high


@pytest.mark.parametrize("promised", [0.05, 0.1, 0.2, 0.5])
def test_the_promised_share_of_sound_pairs_is_kept(promised: float) -> None:
    measured = []
    for seed in range(8):
        statistic, controls, wrong = mixture(0.08, seed=seed)
        fdr = calibrate(statistic, controls, CONFIG, np.random.default_rng(seed)).fdr_N
        measured.append((~wrong[fdr <= promised]).mean())
    assert abs(np.mean(measured) - promised) < 0.05


def test_p_values_are_uniform_under_mismatch() -> None:
    distances = []
    for seed in range(9):
        statistic, controls, wrong = mixture(0.3, seed=seed)
        p = np.sort(calibrate(statistic, controls, CONFIG, np.random.default_rng(seed)).p_value_N[wrong])
        steps = np.arange(1, len(p) + 1) / len(p)
        distances.append(np.abs(p - steps).max() * np.sqrt(len(p)))
    assert np.median(distances) < 1.22  # Kolmogorov-Smirnov: 10 % of uniform samples are beyond it


def test_a_clean_set_is_left_alone() -> None:
    statistic, controls, _ = mixture(0.0, gap=4.0)
    found = calibrate(statistic, controls, CONFIG, np.random.default_rng(0))
    assert found.contamination.estimate < 0.02
    assert (found.fdr_N <= 0.1).mean() < 0.002


def test_a_set_of_nothing_but_mismatches_is_called_that() -> None:
    statistic, controls, _ = mixture(1.0)
    found = calibrate(statistic, controls, CONFIG, np.random.default_rng(0))
    assert found.contamination.estimate > 0.9
    assert np.median(found.suspicion_N) > 0.9


def test_suspicion_rises_with_the_statistic_and_fdr_falls_with_suspicion() -> None:
    statistic, controls, _ = mixture(0.1, n=1_000)
    found = calibrate(statistic, controls, CONFIG, np.random.default_rng(0))
    order = np.argsort(statistic)
    assert (np.diff(found.suspicion_N[order]) >= 0).all()
    by_suspicion = np.argsort(found.suspicion_N)
    assert (np.diff(found.fdr_N[by_suspicion]) <= 1e-12).all()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_hardly_any_pairs(n: int) -> None:
    found = calibrate(np.zeros(n), np.zeros((n, 8)), CONFIG, np.random.default_rng(0))
    assert found.suspicion_N.shape == found.fdr_N.shape == found.p_value_N.shape == (n,)
    assert np.isfinite(found.suspicion_N).all()


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=60), st.integers(0, 99))
def test_ties_everywhere_give_probabilities_and_equal_answers(values: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    statistic = np.array(values)
    found = calibrate(statistic, rng.choice(statistic, (len(statistic), 3)), CONFIG, rng)
    for column in (found.suspicion_N, found.fdr_N, found.p_value_N):
        assert ((column >= 0) & (column <= 1)).all()
    for value in set(values):
        assert len(np.unique(found.suspicion_N[statistic == value])) == 1
        assert len(np.unique(found.fdr_N[statistic == value])) == 1


def test_density_ratio_against_the_truth() -> None:
    rng = np.random.default_rng(0)
    observed, control = rng.beta(1, 3, 20_000), rng.random(100_000)
    ratio = density_ratio(observed, control)
    middle = (observed > 0.1) & (observed < 0.6)
    truth = 1 / (3 * (1 - observed) ** 2)
    assert np.median(np.abs(ratio / truth - 1)[middle]) < 0.1


def test_expected_sound_share_against_a_loop() -> None:
    suspicion = np.array([0.9, 0.2, 0.9, 0.5, 0.0])
    expected = [np.mean([1 - other for other in suspicion if other >= own]) for own in suspicion]
    np.testing.assert_allclose(expected_sound_share(suspicion), expected)


def test_conformal_p_counts_controls() -> None:
    p = conformal_p(np.array([0.5]), np.array([0.1, 0.2, 0.9]), np.random.default_rng(0))
    assert 2 / 4 <= p[0] <= 3 / 4


def test_the_local_prior_lifts_a_cluster_and_leaves_the_scattered_alone() -> None:
    posterior = np.full(300, 0.05)
    posterior[:40] = 0.4  # an attack: forty neighbours of each other

    def vicinity(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cluster = np.arange(300) < 40
        total = np.where(cluster, value[:40].sum() - value, 32 * value[40:].mean())
        return total, np.where(cluster, 39.0, 32.0)

    lifted = with_local_prior(posterior, 0.08, vicinity, CONFIG)
    assert (lifted[:40] > 0.7).all()
    assert (np.abs(lifted[40:] - 0.05) < 0.02).all()
    off = with_local_prior(posterior, 0.08, vicinity, SuspicionConfig(prior_weight=1e12))
    np.testing.assert_allclose(off, posterior, rtol=1e-6)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError):
        SuspicionConfig(controls=0)
    with pytest.raises(ConfigError):
        SuspicionConfig(tail_shares=(1.5,))
