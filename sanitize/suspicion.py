"""Suspicion: one statistic per pair becomes a probability, an error rate and an estimate of how much is mismatched.

Nobody has labels, but a mismatched pair can be made at will: give the image another pair's caption. The statistic of
such re-paired controls has the density ``f0`` of unrelated pairs; the observed pairs have the mixture

    f = pi0 f0 + (1 - pi0) f1

with ``pi0`` the share of mismatched pairs. Then, with s the statistic (higher = more suspicious),

    suspicion(s) = P(unrelated | s) = min(1, pi0 f0(s) / f(s))
    fdr of a list = expected share of sound pairs in it = mean of (1 - suspicion) over it
    p_value(s)   = (1 + #{controls <= s}) / (1 + #controls): uniform if the pair is unrelated, small if it fits

``f0 / f`` is the odds of "re-paired" in a monotone (isotonic) classifier of re-paired against observed, and ``pi0`` is
Storey's estimate turned round: in a region where sound pairs are rare, ``P(observed in it) / P(controls in it)``.

Some captions say nothing that an encoder could see, and every image is as good for them as their own. Such pairs look
like controls whether they are sound or not, so both ``pi0`` and the top of the statistic mean less among them. Where it
is known how much can be seen of each pair (``sight``), pairs are dealt into strata of it, ``f0 / f`` is estimated in
each, and no stratum may have a larger ``pi0`` than the ``SEEING`` that see best: what is blind is not wrong.

Sources: Efron 2010, Large-Scale Inference, chapters 5 and 10 (local false discovery rate); Storey 2002, JRSS B 64
(pi0); Vovk, Gammerman, Shafer 2005 (conformal p-values). Differs from them: the null here is "unrelated", so the
interesting pairs are the ones that look null. Strata: Efron 2008, Annals of Applied Statistics 2, Simultaneous
inference: when should hypothesis testing problems be combined?
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from roclip_audit.core.errors import ConfigError

TIE_SHARE = 1e-6
MIN_TAIL = 60  # pairs that a region would hold if all were mismatched; fewer say too little
SEEING = 0.4  # share of the pairs, those of most sight
MIN_STRATUM = 1_000  # pairs; strata of fewer say too little
MAX_TAIL_SHARE = 0.75  # of the controls; ties may make a region larger than asked for


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with a 95 % interval; shares between 0 and 1."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspicionConfig:
    """How the statistic is calibrated.

    Attributes:
        controls: re-paired controls per pair.
        prior_weight: how many neighbours the global share of mismatched pairs counts for against the local one;
            infinity switches the local one off.
        prior_rounds: times that the local share is estimated from the suspicion of the round before.
        tail_shares: shares of the controls' mass, from the top, of the regions in which pi0 is estimated.
        n_bootstrap: resamplings behind the interval.
        strata: of sight, at most.
    """

    controls: int = 8
    prior_weight: float = 32.0
    prior_rounds: int = 2
    tail_shares: tuple[float, ...] = (0.5, 0.4, 0.3, 0.2)
    n_bootstrap: int = 200
    strata: int = 5

    def __post_init__(self) -> None:
        if min(self.controls, self.strata) < 1 or self.n_bootstrap < 2:
            raise ConfigError("suspicion: controls and strata must be at least 1, n_bootstrap at least 2")
        if not all(0 < share < 1 for share in self.tail_shares):
            raise ConfigError("suspicion: tail shares must lie in (0, 1)")


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What every pair got, and the estimated share of mismatched pairs."""

    suspicion_N: np.ndarray
    fdr_N: np.ndarray
    p_value_N: np.ndarray
    contamination: Interval


Vicinity = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Sums a value over what lies near every pair, itself left out: (total [N], weight [N])."""


def calibrate(
    statistic_N: np.ndarray,
    control_NR: np.ndarray,
    config: SuspicionConfig,
    rng: np.random.Generator,
    *,
    vicinity: Vicinity | None = None,
    sight_N: np.ndarray | None = None,
) -> Calibrated:
    """Turn a statistic into suspicion, fdr and p-values.

    Args:
        statistic_N: float64 [N], higher = more suspicious.
        control_NR: float64 [N, R], the same statistic of the same images with other captions.
        config: see SuspicionConfig.
        rng: breaks ties in p-values and drives the bootstrap.
        vicinity: what lies near every pair; without it the prior is the same everywhere.
        sight_N: float64 [N], higher where more can be seen of caption and image; without it all are one stratum.

    Returns:
        Calibrated; ``fdr`` falls with ``suspicion``. Without vicinity and sight ``suspicion`` rises with the statistic.
    """
    if len(statistic_N) == 0:
        nothing = np.empty(0)
        return Calibrated(nothing, nothing, nothing, Interval(0.0, 0.0, 0.0))
    contamination, least = estimate_contamination(statistic_N, control_NR, config, rng)
    strata = [np.arange(len(statistic_N))] if sight_N is None else _strata(sight_N, config)
    shares = [least] if len(strata) == 1 else _shares(statistic_N, control_NR, strata, least, config, rng)
    posterior_N = np.empty(len(statistic_N))
    for rows, share in zip(strata, shares, strict=True):
        posterior_N[rows] = share * density_ratio(statistic_N[rows], control_NR[rows].ravel())
    # Rule of succession: nothing that was learned from so many mismatched pairs is surer than that.
    n_mismatched = sum(share * len(rows) for rows, share in zip(strata, shares, strict=True))
    most = 1.0 - 1.0 / (2.0 + n_mismatched)
    posterior_N = np.minimum(most, posterior_N)
    if vicinity is not None:
        share = n_mismatched / len(statistic_N)
        posterior_N = np.minimum(most, with_local_prior(posterior_N, share, vicinity, config))
    suspicion_N = _untied(posterior_N, statistic_N)
    return Calibrated(
        suspicion_N=suspicion_N,
        fdr_N=expected_sound_share(suspicion_N),
        p_value_N=conformal_p(statistic_N, control_NR.ravel(), rng),
        contamination=contamination,
    )


def _strata(sight_N: np.ndarray, config: SuspicionConfig) -> list[np.ndarray]:
    """Return the rows of every stratum, equally many, the one that sees least first."""
    n_strata = max(1, min(config.strata, len(sight_N) // MIN_STRATUM))
    return list(np.array_split(np.argsort(sight_N, kind="stable"), n_strata))


def _shares(
    statistic_N: np.ndarray,
    control_NR: np.ndarray,
    strata: list[np.ndarray],
    least: float,
    config: SuspicionConfig,
    rng: np.random.Generator,
) -> list[float]:
    """Return the share of mismatched pairs of every stratum.

    It is the stratum's estimate, but between half and all of what is estimated for the pairs that see best. Where
    nothing can be said of those it is ``least``, the smallest estimate over all pairs.
    """
    by_sight = np.concatenate(strata)
    seeing = by_sight[-math.ceil(SEEING * len(by_sight)) :]
    most, _ = estimate_contamination(statistic_N[seeing], control_NR[seeing], config, rng)
    if most.high - most.low >= 1.0:
        return [least] * len(strata)
    found = [estimate_contamination(statistic_N[rows], control_NR[rows], config, rng)[0] for rows in strata]
    return [float(np.clip(one.estimate, most.estimate / 2, most.estimate)) for one in found]


def with_local_prior(posterior_N: np.ndarray, share: float, vicinity: Vicinity, config: SuspicionConfig) -> np.ndarray:
    """Replace the global prior in a posterior by the share of mismatched pairs near by, shrunk to the global one.

    An attack has one target, so its pairs lie together; noise does not. With ``pi`` the global share, ``s`` the
    posterior and ``w`` the prior weight, the local share is ``(w pi + sum of s near by) / (w + number near by)``, and
    the posterior odds are multiplied by the ratio of local to global prior odds (a local false discovery rate with a
    covariate: Efron 2010, chapter 10). Repeated ``prior_rounds`` times.
    """
    if not 0.0 < share < 1.0:
        return posterior_N
    limit = 1e-9
    first_N = np.clip(posterior_N, limit, 1 - limit)
    evidence_N = first_N / (1 - first_N) / (share / (1 - share))
    local_N: np.ndarray = first_N
    for _ in range(config.prior_rounds):
        total_N, weight_N = vicinity(local_N)
        prior_N = (config.prior_weight * share + total_N) / (config.prior_weight + weight_N)
        prior_N = np.clip(prior_N, limit, 1 - limit)
        odds_N = evidence_N * prior_N / (1 - prior_N)
        local_N = odds_N / (1 + odds_N)
    return local_N


def _untied(suspicion_N: np.ndarray, statistic_N: np.ndarray) -> np.ndarray:
    """Let the rank of the statistic decide a millionth of the suspicion, so that sorting by one sorts by the other."""
    rank_N = np.searchsorted(np.sort(statistic_N), statistic_N, side="left") / len(statistic_N)
    untied: np.ndarray = suspicion_N * (1 - TIE_SHARE) + rank_N * TIE_SHARE
    return untied


def density_ratio(observed_N: np.ndarray, control_C: np.ndarray) -> np.ndarray:
    """Estimate ``f0 / f`` at every observed value, rising with it, by isotonic regression.

    Returns:
        float64 [N], at least 0; finite, because every block holds observed values.
    """
    order_N = np.argsort(observed_N, kind="stable")
    edges = observed_N[order_N]
    # Controls above an observed value and below the next belong to the block that the value closes.
    place_C = np.minimum(np.searchsorted(edges, control_C, side="left"), len(edges) - 1)
    control_in = np.bincount(place_C, minlength=len(edges)).astype(np.float64) / len(control_C)
    observed_in = np.full(len(edges), 1.0 / len(edges))
    ratio = np.empty(len(edges))
    ratio[order_N] = _isotonic_ratio(control_in, observed_in)
    return _equal_on_ties(ratio, observed_N)


def _isotonic_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Pool adjacent violators: the rising step function closest to numerator / denominator, weighted by denominator."""
    top: list[float] = []
    bottom: list[float] = []
    size: list[int] = []
    for up, down in zip(numerator.tolist(), denominator.tolist(), strict=True):
        top.append(up)
        bottom.append(down)
        size.append(1)
        while len(top) > 1 and top[-2] * bottom[-1] >= top[-1] * bottom[-2]:
            up, down, merged = top.pop(), bottom.pop(), size.pop()
            top[-1] += up
            bottom[-1] += down
            size[-1] += merged
    return np.repeat(np.array(top) / np.array(bottom), size)


def _equal_on_ties(value_N: np.ndarray, key_N: np.ndarray) -> np.ndarray:
    """Give observations with equal statistics the mean of their values."""
    _, inverse, counts = np.unique(key_N, return_inverse=True, return_counts=True)
    mean: np.ndarray = (np.bincount(inverse, weights=value_N) / counts)[inverse]
    return mean


def estimate_contamination(
    statistic_N: np.ndarray, control_NR: np.ndarray, config: SuspicionConfig, rng: np.random.Generator
) -> tuple[Interval, float]:
    """Estimate the share of mismatched pairs, with a 95 % bootstrap interval over pairs.

    In the region above a threshold, sound pairs only add, so a low threshold over-estimates. Planted pairs are not
    quite random ones (many fit a little), so a high threshold under-estimates, with more noise. The estimate is the
    median over the regions; choosing one region by its bootstrap error (Storey 2002, section 9) follows the smallest
    and was a third too low on planted attacks (docs/experiments.md). Returned beside it is the smallest share of all
    regions: the safe one for a list that promises few sound pairs.
    Where ties leave no region that parts the controls, nothing is known: 0, between 0 and 1.
    """
    shares = [share for share in config.tail_shares if share * len(statistic_N) >= MIN_TAIL] or [
        max(config.tail_shares)
    ]
    thresholds = np.quantile(control_NR, 1 - np.array(shares))
    thresholds = thresholds[(control_NR[:, :, None] >= thresholds).mean((0, 1)) <= MAX_TAIL_SHARE]
    if not len(thresholds):
        return Interval(0.0, 0.0, 1.0), 0.0
    observed_NT = statistic_N[:, None] >= thresholds
    control_NT = (control_NR[:, :, None] >= thresholds).mean(1)
    share_T = np.minimum(1.0, observed_NT.mean(0) / np.maximum(control_NT.mean(0), 1e-12))
    # The bootstrap means of many pairs are normal, so they are drawn from that normal instead of from the pairs.
    parts_NU = np.concatenate([observed_NT, control_NT], axis=1)
    spread_UU = np.cov(parts_NU, rowvar=False, ddof=0) / len(parts_NU)
    drawn_BU = rng.multivariate_normal(parts_NU.mean(0), spread_UU, size=config.n_bootstrap, method="svd")
    resampled_BT = drawn_BU[:, : len(thresholds)] / np.maximum(drawn_BU[:, len(thresholds) :], 1e-12)
    low, high = np.quantile(np.median(resampled_BT.clip(0.0, 1.0), axis=1), [0.025, 0.975])
    return Interval(float(np.median(share_T)), float(low), float(high)), float(share_T.min())


def expected_sound_share(suspicion_N: np.ndarray) -> np.ndarray:
    """Return the fdr of the list that ends at each pair: the mean of 1 - suspicion over all at least as suspicious."""
    order_N = np.argsort(-suspicion_N, kind="stable")
    running = np.cumsum(1.0 - suspicion_N[order_N]) / np.arange(1, len(order_N) + 1)
    # Of pairs that tie, all are in the list or none: the last one's rate holds for each.
    last = np.searchsorted(-suspicion_N[order_N], -suspicion_N, side="right") - 1
    fdr_N: np.ndarray = running[last]
    return fdr_N


def conformal_p(statistic_N: np.ndarray, control_C: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return P(control <= statistic), smoothed: uniform on (0, 1) for unrelated pairs, small for pairs that fit."""
    ordered = np.sort(control_C)
    below = np.searchsorted(ordered, statistic_N, side="left")
    equal = np.searchsorted(ordered, statistic_N, side="right") - below
    p: np.ndarray = (below + rng.random(len(statistic_N)) * (equal + 1)) / (len(control_C) + 1)
    return p
