"""Calibration where the truth is known: drawn statistics, planted mismatches, and every degenerate case."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from roclip_audit.core.errors import ConfigError
from roclip_audit.sanitize.suspicion import (
    Calibrated,
    Sight,
    SuspicionConfig,
    calibrate,
    conformal_p,
    density_ratio,
    estimate_contamination,
    expected_sound_share,
    with_local_prior,
)

CONFIG = SuspicionConfig()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def draw(n: int, share: float, *, sharpness: float = 12.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw (statistic [N], controls [N, 8], mismatched [N]): unrelated pairs are bell-shaped about 0.5, as a mean of
    rank shares is; sound ones lie near 0 with a tail."""
    gen = rng(seed)
    mismatched = np.zeros(n, dtype=bool)
    mismatched[gen.permutation(n)[: round(share * n)]] = True
    statistic = np.where(mismatched, gen.beta(4, 4, n), gen.beta(1.2, sharpness, n))
    return statistic, gen.beta(4, 4, (n, CONFIG.controls)), mismatched


def calibrated(n: int, share: float, *, seed: int = 0, **options: float) -> tuple[Calibrated, np.ndarray, np.ndarray]:
    statistic, control, mismatched = draw(n, share, seed=seed, **options)
    return calibrate(statistic, control, CONFIG, rng(seed + 1)), statistic, mismatched


def test_p_values_of_unrelated_pairs_are_uniform() -> None:
    result, _, mismatched = calibrated(4_000, 0.5)
    p = np.sort(result.p_value_N[mismatched])
    assert np.abs(p - (np.arange(len(p)) + 0.5) / len(p)).max() < 1.63 / np.sqrt(len(p))  # Kolmogorov-Smirnov at 1 %
    assert np.median(result.p_value_N[~mismatched]) < 0.02


@given(st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=20)
def test_p_values_are_uniform_with_ties_too(levels: int, seed: int) -> None:
    gen = rng(seed)
    p = np.sort(conformal_p(gen.integers(0, levels, 1_000) * 1.0, gen.integers(0, levels, 5_000) * 1.0, gen))
    assert p[0] > 0
    assert p[-1] < 1
    assert np.abs(p - (np.arange(1_000) + 0.5) / 1_000).max() < 2.2 / np.sqrt(1_000)


def test_a_p_value_is_the_share_of_controls_that_are_no_higher() -> None:
    control = np.arange(100) / 100
    for value in (-1.0, 0.355, 2.0):
        drawn = np.array([conformal_p(np.array([value]), control, rng(seed))[0] for seed in range(200)])
        n_lower = (control < value).sum()
        assert (drawn >= n_lower / 101).all()
        assert (drawn <= (n_lower + 1) / 101).all()


@pytest.mark.parametrize("share", [0.03, 0.08, 0.2, 0.5])
@pytest.mark.parametrize("n", [3_000, 8_000])
def test_contamination_is_within_a_fifth_of_the_planted(n: int, share: float) -> None:
    found = [calibrated(n, share, seed=seed)[0].contamination for seed in range(5)]
    for one in found:
        assert one.low <= one.estimate <= one.high
    assert np.mean([one.estimate for one in found]) == pytest.approx(share, rel=0.2)


def test_the_interval_holds_the_truth_most_of_the_time() -> None:
    found = [calibrated(3_000, 0.1, seed=seed, sharpness=40.0)[0].contamination for seed in range(40)]
    assert sum(one.low <= 0.1 <= one.high for one in found) >= 33


@pytest.mark.parametrize("level", [0.05, 0.1, 0.2, 0.5])
def test_the_promised_share_of_sound_pairs_is_the_measured_one(level: float) -> None:
    measured, sizes = [], []
    for seed in range(6):
        result, _, mismatched = calibrated(6_000, 0.08, seed=seed)
        listed = result.fdr_N <= level
        sizes.append(listed.sum())
        measured.append((~mismatched[listed]).mean())
    assert min(sizes) > 100
    # The share of mismatched pairs that lists are made with is the smallest estimate: they rather promise too little.
    assert 0.4 * level <= np.mean(measured) <= 1.25 * level + 0.02


def test_suspicion_is_a_probability() -> None:
    """Of the pairs with suspicion about s, a share of about s is mismatched."""
    together = [calibrated(8_000, 0.15, seed=seed)[::2] for seed in range(3)]
    suspicion = np.concatenate([result.suspicion_N for result, _ in together])
    mismatched = np.concatenate([truth for _, truth in together])
    for low, high in ((0.0, 0.05), (0.1, 0.4), (0.4, 0.8), (0.9, 1.01)):
        inside = (suspicion >= low) & (suspicion < high)
        assert inside.sum() > 50
        assert mismatched[inside].mean() == pytest.approx(suspicion[inside].mean(), abs=0.1)
    assert suspicion.sum() == pytest.approx(mismatched.sum(), rel=0.15)


def test_clean_data_flags_next_to_nothing() -> None:
    for seed in range(5):
        result, _, _ = calibrated(4_000, 0.0, seed=seed)
        assert result.contamination.estimate < 0.01
        assert (result.fdr_N <= 0.1).sum() <= 8
        assert result.suspicion_N.mean() < 0.01


def test_when_everything_is_mismatched_it_says_so() -> None:
    result, _, _ = calibrated(3_000, 1.0)
    assert result.contamination.estimate > 0.9
    assert result.contamination.high == pytest.approx(1.0, abs=0.02)
    assert result.suspicion_N.mean() > 0.85


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 8), st.integers(0, 99))
@settings(max_examples=60)
def test_everything_rises_with_the_statistic(n: int, n_controls: int, levels: int, seed: int) -> None:
    """On coarse values, so that ties are everywhere."""
    gen = rng(seed)
    statistic, control = gen.integers(0, levels, n) / levels, gen.integers(0, levels, (n, n_controls)) / levels
    result = calibrate(statistic, control, CONFIG, gen)
    order = np.argsort(statistic, kind="stable")
    for rising in (result.suspicion_N, -result.fdr_N):
        assert (np.diff(rising[order]) >= -1e-12).all()
        for value in np.unique(statistic):
            assert np.ptp(rising[statistic == value]) == 0
    for share in (result.suspicion_N, result.fdr_N, result.p_value_N):
        assert ((share >= 0) & (share <= 1)).all()
    assert 0 <= result.contamination.low <= result.contamination.high <= 1


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_a_handful_of_pairs(n: int) -> None:
    result = calibrate(rng().random(n), rng(1).random((n, 8)), CONFIG, rng(2))
    for share in (result.suspicion_N, result.fdr_N, result.p_value_N):
        assert share.shape == (n,)
        assert ((share >= 0) & (share <= 1)).all()


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_statistic_says_nothing_and_flags_nobody(value: float) -> None:
    result = calibrate(np.full(200, value), np.full((200, 8), value), CONFIG, rng())
    assert (result.suspicion_N < 1e-5).all()
    assert (result.fdr_N > 0.99).all()
    assert (result.contamination.low, result.contamination.high) == (0.0, 1.0)


def test_ties_at_the_top_are_still_evidence() -> None:
    """A statistic of few levels: mismatched pairs are at 1, so are three of five controls; sound ones are at 0."""
    gen = rng(3)
    mismatched = gen.random(4_000) < 0.1
    levels = np.array([0.0, 0.5, 1.0])
    unrelated = levels[gen.choice(3, (4_000, 9), p=[0.1, 0.3, 0.6])]
    statistic = np.where(mismatched, unrelated[:, 8], 0.0)
    result = calibrate(statistic, unrelated[:, :8], CONFIG, gen)
    assert result.contamination.estimate == pytest.approx(0.1, rel=0.2)
    assert (result.suspicion_N[statistic == 1.0] > 0.9).all()
    assert (result.suspicion_N[statistic == 0.0] < 0.1).all()


def brute_monotone_ratio(observed: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Rising regression by its min-max formula: the largest lower mean over the least upper one."""
    edges = np.sort(observed)
    masses = np.zeros(len(edges))
    for value in control:
        masses[min(int((edges < value).sum()), len(edges) - 1)] += 1 / len(control)
    n = len(edges)

    def mean(first: int, last: int) -> float:
        return float(masses[first : last + 1].sum() / ((last - first + 1) / n))

    fitted = [max(min(mean(first, last) for last in range(x, n)) for first in range(x + 1)) for x in range(n)]
    return np.array([np.mean([fitted[x] for x in range(n) if edges[x] == value]) for value in observed])


unit_floats = st.floats(0, 1).map(lambda x: round(x, 2))


@given(
    npst.arrays(np.float64, st.integers(1, 14), elements=unit_floats),
    npst.arrays(np.float64, st.integers(1, 30), elements=unit_floats),
)
@settings(max_examples=60)
def test_density_ratio_equals_the_min_max_formula(observed: np.ndarray, control: np.ndarray) -> None:
    ratio = density_ratio(observed, control, len(control) / len(observed))
    np.testing.assert_allclose(ratio, brute_monotone_ratio(observed, control), atol=1e-9)
    assert ratio.mean() == pytest.approx(1.0)  # all the mass of the controls is handed out


def test_density_ratio_approaches_the_true_one() -> None:
    statistic, control, _ = draw(40_000, 0.2, seed=2)
    ratio = density_ratio(statistic, control.ravel(), CONFIG.controls)
    from math import gamma

    def beta(x: np.ndarray, a: float, b: float) -> np.ndarray:
        density: np.ndarray = gamma(a + b) / gamma(a) / gamma(b) * x ** (a - 1) * (1 - x) ** (b - 1)
        return density

    true = beta(statistic, 4, 4) / (0.2 * beta(statistic, 4, 4) + 0.8 * beta(statistic, 1.2, 12))
    middle = (statistic > 0.05) & (statistic < 0.8)
    assert np.abs(ratio - true)[middle].mean() < 0.15


@given(npst.arrays(np.float64, st.integers(1, 40), elements=unit_floats))
@settings(max_examples=60)
def test_fdr_equals_the_mean_over_the_list(suspicion: np.ndarray) -> None:
    expected = [(1 - suspicion[suspicion >= one]).mean() for one in suspicion]
    np.testing.assert_allclose(expected_sound_share(suspicion), expected, atol=1e-12)


def neighbours_in_tens(value_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Everybody's neighbours are the others of the same ten."""
    total = value_N.reshape(-1, 10).sum(1).repeat(10) - value_N
    return total, np.full(len(value_N), 9.0)


def test_a_campaign_is_found_better_with_its_neighbours_and_noise_is_not_found_worse() -> None:
    statistic, control, _ = draw(4_000, 0.0, seed=7)
    campaign, noise = np.zeros(4_000, dtype=bool), np.zeros(4_000, dtype=bool)
    campaign[:200], noise[200::50] = True, True
    bad = campaign | noise
    statistic[bad] = rng(8).beta(3, 5, bad.sum())
    plain = calibrate(statistic, control, CONFIG, rng(9))
    with_vicinity = calibrate(statistic, control, CONFIG, rng(9), vicinity=neighbours_in_tens)
    assert with_vicinity.contamination == plain.contamination
    assert with_vicinity.suspicion_N[campaign].mean() > plain.suspicion_N[campaign].mean() + 0.02
    assert with_vicinity.suspicion_N[noise].mean() > plain.suspicion_N[noise].mean() - 0.15
    sound = ~bad
    assert with_vicinity.suspicion_N[sound].mean() <= plain.suspicion_N[sound].mean() + 0.005
    switched_off = SuspicionConfig(prior_weight=1e12)
    same = calibrate(statistic, control, switched_off, rng(9), vicinity=neighbours_in_tens)
    np.testing.assert_allclose(same.suspicion_N, plain.suspicion_N, atol=1e-6)


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


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_neighbours_do_not_matter_where_all_is_clear(share: float) -> None:
    statistic = np.full(20, 0.5) if share else np.zeros(20)
    control = np.full((20, 8), 0.5)
    result = calibrate(statistic, control, CONFIG, rng(), vicinity=neighbours_in_tens)
    assert np.isfinite(result.suspicion_N).all()
    assert ((result.suspicion_N >= 0) & (result.suspicion_N <= 1)).all()


def test_the_generator_decides() -> None:
    one, same = (calibrated(500, 0.1)[0] for _ in range(2))
    assert np.array_equal(one.p_value_N, same.p_value_N)
    assert one.contamination == same.contamination


def test_estimates_lie_between_0_and_1() -> None:
    high, _ = estimate_contamination(np.ones(50), rng().random((50, 8)), CONFIG, rng())
    assert (high.estimate, high.high) == (1.0, 1.0)
    low, _ = estimate_contamination(np.zeros(50), rng().random((50, 8)), CONFIG, rng())
    assert (low.estimate, low.low) == (0.0, 0.0)


def of_captions(by_caption: np.ndarray, *, seed: int = 0) -> Sight:
    """Return sight that comes with the caption alone; a control has the caption of any pair."""
    partner = rng(seed).integers(0, len(by_caption), (len(by_caption), CONFIG.controls))
    return Sight(by_caption, by_caption[partner])


def partly_blind(n: int, share: float, *, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Sight]:
    """Draw as ``draw``, but for a third of the captions with which every pairing scores as an unrelated one."""
    statistic, control, mismatched = draw(n, share, seed=seed)
    blind = rng(100 + seed).random(n) < 1 / 3
    statistic[blind] = rng(200 + seed).beta(4, 4, blind.sum())
    sight = of_captions(rng(300 + seed).random(n) - blind, seed=400 + seed)
    return statistic, control, mismatched, blind, sight


def test_what_cannot_be_seen_is_not_listed_as_wrong() -> None:
    """Of a third of the captions nothing can be seen: their sound pairs score as controls do."""
    errors: dict[bool, list[float]] = {True: [], False: []}
    recalls = []
    for seed in range(5):
        statistic, control, mismatched, blind, sight = partly_blind(6_000, 0.06, seed=seed)
        for knows in errors:
            result = calibrate(statistic, control, CONFIG, rng(seed), sight=sight if knows else None)
            listed = result.fdr_N <= 0.1
            errors[knows].append((~mismatched)[listed].mean() if listed.any() else 0.0)
            if knows:
                recalls.append(listed[mismatched & ~blind].mean())
    assert np.mean(errors[False]) > 0.4
    assert np.mean(errors[True]) < 0.15
    assert np.mean(recalls) > 0.2


def test_what_cannot_be_seen_does_not_count_as_mismatched() -> None:
    found, n_covered = [], 0
    for seed in range(10):
        statistic, control, _, _, sight = partly_blind(6_000, 0.06, seed=seed)
        of_all, _ = estimate_contamination(statistic, control, CONFIG, rng(seed))
        of_seen, least = estimate_contamination(statistic, control, CONFIG, rng(seed), sight)
        assert of_all.estimate > 4 * 0.06
        assert least <= of_seen.estimate
        found.append(of_seen.estimate)
        n_covered += of_seen.low < 0.06 < of_seen.high
    assert np.mean(found) == pytest.approx(0.06, rel=0.1)
    assert n_covered >= 8


def test_controls_count_where_their_caption_is_seen() -> None:
    """A caption that says little is near to every image, so unrelated images score lower with it."""
    found: dict[str, list[float]] = {"of caption": [], "of image": []}
    for seed in range(10):
        statistic, control, mismatched = draw(8_000, 0.08, seed=seed)
        sight = of_captions(rng(50 + seed).random(8_000), seed=60 + seed)
        statistic[mismatched] *= 0.3 + 0.7 * sight.pair_N[mismatched]
        control *= 0.3 + 0.7 * sight.control_NR
        of_image = Sight(sight.pair_N, np.repeat(sight.pair_N[:, None], CONFIG.controls, axis=1))
        for name, dealt in (("of caption", sight), ("of image", of_image)):
            estimate, _ = estimate_contamination(statistic, control, CONFIG, rng(seed), dealt)
            found[name].append(estimate.estimate)
    assert np.mean(found["of caption"]) == pytest.approx(0.08, rel=0.2)
    assert np.mean(found["of image"]) > 1.4 * np.mean(found["of caption"])


def test_an_attack_whose_captions_nobody_can_judge_still_ranks_first() -> None:
    """Nothing else is mismatched, and none of it lies where much is seen: the estimate is 0, suspicion is not."""
    n, n_planted = 8_000, 80
    for seed in range(4):
        statistic, control, _ = draw(n, 0.0, seed=seed)
        planted = np.arange(n) < n_planted
        statistic[planted] = rng(10 + seed).beta(4, 4, n_planted)
        by_caption = np.where(planted, 0.05 + 0.05 * rng(20 + seed).random(n), rng(30 + seed).random(n))

        def vicinity(value: np.ndarray, planted: np.ndarray = planted) -> tuple[np.ndarray, np.ndarray]:
            mean = [float(value[~planted].mean()), float(value[planted].mean())]
            return 32 * np.where(planted, mean[1], mean[0]), np.full(n, 32.0)

        result = calibrate(statistic, control, CONFIG, rng(seed), vicinity=vicinity, sight=of_captions(by_caption))
        assert result.contamination.estimate < 0.005
        assert result.suspicion_N[planted].mean() > 0.1
        assert (result.suspicion_N[~planted] < np.median(result.suspicion_N[planted])).mean() > 0.995


def test_where_everything_is_seen_alike_strata_change_little() -> None:
    statistic, control, mismatched = draw(6_000, 0.08, seed=1)
    plain = calibrate(statistic, control, CONFIG, rng())
    dealt = calibrate(statistic, control, CONFIG, rng(), sight=of_captions(rng(9).random(6_000)))
    assert dealt.contamination.estimate == pytest.approx(plain.contamination.estimate, rel=0.1)
    assert np.mean(np.abs(dealt.suspicion_N - plain.suspicion_N)) < 0.02
    assert (~mismatched)[dealt.fdr_N <= 0.1].mean() < 0.15
    one = calibrate(statistic, control, CONFIG, rng(), sight=Sight(np.zeros(6_000), np.zeros(control.shape)))
    assert np.array_equal(one.suspicion_N, plain.suspicion_N)
    assert one.contamination.estimate == pytest.approx(plain.contamination.estimate)


@pytest.mark.parametrize("share", [0.005, 0.01])
def test_strata_do_not_cost_the_few(share: float) -> None:
    """Where little is mismatched, a stratum holds a handful; none of them may lose its suspicion."""
    from sklearn.metrics import average_precision_score

    recall: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(20):
        statistic, control, mismatched = draw(5_000, share, sharpness=40.0, seed=seed)
        for dealt in recall:
            sight = of_captions(rng(50 + seed).random(5_000)) if dealt else None
            result = calibrate(statistic, control, CONFIG, rng(seed), sight=sight)
            recall[dealt].append(average_precision_score(mismatched, result.suspicion_N))
            assert (result.suspicion_N[mismatched] > 1e-4).mean() > 0.9
    assert np.mean(recall[True]) > np.mean(recall[False]) - 0.05


def test_few_pairs_are_one_stratum() -> None:
    statistic, control, _ = draw(700, 0.1, seed=2)
    plain = calibrate(statistic, control, CONFIG, rng())
    dealt = calibrate(statistic, control, CONFIG, rng(), sight=of_captions(rng(9).random(700)))
    assert np.array_equal(plain.suspicion_N, dealt.suspicion_N)
    assert plain.contamination == dealt.contamination


@pytest.mark.parametrize(
    "wrong",
    [{"controls": 0}, {"n_bootstrap": 1}, {"tail_shares": (0.5, 1.0)}, {"seeing_shares": (0.0,)}, {"strata": 0}],
)
def test_refuses_settings_that_cannot_work(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must"):
        SuspicionConfig(**wrong)  # type: ignore[arg-type]
