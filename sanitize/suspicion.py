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
like controls whether they are sound or not, so the top of the statistic means less among them. Where it is known how
much can be seen of each pairing (``sight``, of controls as of pairs: the caption's part comes with the caption), all
of the above holds with (s, sight) in place of s: ``f0 / f`` is that of the two together, estimated in strata of sight,
and the regions of ``pi0`` are those where much is seen *and* little fits.

Sources: Efron 2010, Large-Scale Inference, chapters 5 and 10 (local false discovery rate); Storey 2002, JRSS B 64
(pi0); Vovk, Gammerman, Shafer 2005 (conformal p-values). Differs from them: the null here is "unrelated", so the
interesting pairs are the ones that look null. Strata: Efron 2008, Annals of Applied Statistics 2, Simultaneous
inference: when should hypothesis testing problems be combined?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from roclip_audit.core.errors import ConfigError

TIE_SHARE = 1e-6
MIN_TAIL = 60  # pairs that a region would hold if all were mismatched; fewer say too little
MIN_STRATUM = 1_000  # pairs; strata of fewer say too little
MAX_TAIL_SHARE = 0.75  # of the controls; ties may make a region larger than asked for
_BLOCK = 65_536


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
        seeing_shares: shares of the pairs, those of most sight, of the same regions.
        n_bootstrap: resamplings behind the interval.
        strata: of sight, at most.
    """

    controls: int = 8
    prior_weight: float = 32.0
    prior_rounds: int = 2
    tail_shares: tuple[float, ...] = (0.5, 0.4, 0.3, 0.2)
    seeing_shares: tuple[float, ...] = (0.8, 0.6, 0.4)
    n_bootstrap: int = 200
    strata: int = 5

    def __post_init__(self) -> None:
        if min(self.controls, self.strata) < 1 or self.n_bootstrap < 2:
            raise ConfigError("suspicion: controls and strata must be at least 1, n_bootstrap at least 2")
        if not all(0 < share < 1 for share in (*self.tail_shares, *self.seeing_shares)):
            raise ConfigError("suspicion: tail and seeing shares must lie in (0, 1)")


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What every pair got, and the estimated share of mismatched pairs."""

    suspicion_N: np.ndarray
    fdr_N: np.ndarray
    p_value_N: np.ndarray
    contamination: Interval


Vicinity = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Sums a value over what lies near every pair, itself left out: (total [N], weight [N])."""


@dataclass(frozen=True, slots=True)
class Sight:
    """How much can be seen of every pairing; higher = more.

    Attributes:
        pair_N: float64 [N], of the observed pairs.
        control_NR: float64 [N, R], of the same images with the controls' captions.
    """

    pair_N: np.ndarray
    control_NR: np.ndarray


def calibrate(
    statistic_N: np.ndarray,
    control_NR: np.ndarray,
    config: SuspicionConfig,
    rng: np.random.Generator,
    *,
    vicinity: Vicinity | None = None,
    sight: Sight | None = None,
) -> Calibrated:
    """Turn a statistic into suspicion, fdr and p-values.

    Args:
        statistic_N: float64 [N], higher = more suspicious.
        control_NR: float64 [N, R], the same statistic of the same images with other captions.
        config: see SuspicionConfig.
        rng: breaks ties in p-values and drives the bootstrap.
        vicinity: what lies near every pair; without it the prior is the same everywhere.
        sight: how much can be seen of pairs and controls; without it, or below two strata of pairs, it is not asked.

    Returns:
        Calibrated; ``fdr`` falls with ``suspicion``. Without vicinity and sight ``suspicion`` rises with the statistic.
    """
    if len(statistic_N) == 0:
        nothing = np.empty(0)
        return Calibrated(nothing, nothing, nothing, Interval(0.0, 0.0, 0.0))
    n_strata = max(1, min(config.strata, len(statistic_N) // MIN_STRATUM))
    sight = sight if n_strata > 1 else None
    contamination, share = estimate_contamination(statistic_N, control_NR, config, rng, sight)
    posterior_N = np.empty(len(statistic_N))
    for of_pairs_N, of_controls_NR in _strata(control_NR.shape, sight, n_strata):
        ratio = density_ratio(statistic_N[of_pairs_N], control_NR[of_controls_NR], control_NR.shape[1])
        posterior_N[of_pairs_N] = share * ratio
    # Rule of succession: nothing that was learned from so many mismatched pairs is surer than that.
    most = 1.0 - 1.0 / (2.0 + share * len(statistic_N))
    posterior_N = np.minimum(most, posterior_N)
    if vicinity is not None:
        posterior_N = np.minimum(most, with_local_prior(posterior_N, share, vicinity, config))
    suspicion_N = _untied(posterior_N, statistic_N)
    return Calibrated(
        suspicion_N=suspicion_N,
        fdr_N=expected_sound_share(suspicion_N),
        p_value_N=conformal_p(statistic_N, control_NR.ravel(), rng),
        contamination=contamination,
    )


def _strata(shape: tuple[int, ...], sight: Sight | None, n_strata: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield which pairs and which controls lie in each stratum of sight: bool [N] and [N, R], which is ``shape``.

    The strata hold equally many pairs, but that pairs of equal sight stay together.
    """
    if sight is None:
        yield np.ones(shape[0], dtype=bool), np.ones(shape, dtype=bool)
        return
    edges = np.unique(np.quantile(sight.pair_N, np.arange(1, n_strata) / n_strata))
    pair_N, in_NR = (np.searchsorted(edges, part, side="right") for part in (sight.pair_N, sight.control_NR))
    for stratum in np.unique(pair_N).tolist():
        yield pair_N == stratum, in_NR == stratum


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


def density_ratio(observed_N: np.ndarray, control_C: np.ndarray, n_per_pair: float) -> np.ndarray:
    """Estimate ``f0 / f`` at every observed value, rising with it, by isotonic regression.

    Args:
        observed_N: float64 [N], of the pairs (of a stratum).
        control_C: float64 [C], of the controls (that fall into it), in any number.
        n_per_pair: controls that were drawn for a pair.

    Returns:
        float64 [N], at least 0; finite, because every block holds observed values.
    """
    order_N = np.argsort(observed_N, kind="stable")
    edges = observed_N[order_N]
    # Controls above an observed value and below the next belong to the block that the value closes.
    place_C = np.minimum(np.searchsorted(edges, control_C, side="left"), len(edges) - 1)
    control_in = np.bincount(place_C, minlength=len(edges)) / n_per_pair
    ratio = np.empty(len(edges))
    ratio[order_N] = _isotonic_ratio(control_in, np.ones(len(edges)))
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
    statistic_N: np.ndarray,
    control_NR: np.ndarray,
    config: SuspicionConfig,
    rng: np.random.Generator,
    sight: Sight | None = None,
) -> tuple[Interval, float]:
    """Estimate the share of mismatched pairs, with a 95 % bootstrap interval over pairs.

    In a region of high statistic and sight, sound pairs only add, so a large region over-estimates. Planted pairs are
    not quite random ones (many fit a little, many have captions of which little is seen), so a small one
    under-estimates, with more noise. The estimate is the median over the regions; choosing one region by its bootstrap
    error (Storey 2002, section 9) follows the smallest and was a third too low on planted attacks
    (docs/experiments.md). Returned beside it is the safe share for a list that promises few sound pairs: the smallest
    of all regions, had each one pair more (Storey, Taylor and Siegmund 2004, JRSS B 66), but at least half of the
    median, for the smallest of many small regions says little.
    Where ties leave no region that parts the controls, nothing is known: 0, between 0 and 1.
    """
    pairs_NT, controls_NT = _in_regions(statistic_N, control_NR, config, sight)
    n_regions = pairs_NT.shape[1]
    if not n_regions:
        return Interval(0.0, 0.0, 1.0), 0.0
    parts_NU = np.concatenate([pairs_NT, controls_NT], axis=1)
    mean_U = parts_NU.mean(0, dtype=np.float64)
    of_pairs_T, of_controls_T = mean_U[:n_regions], mean_U[n_regions:]
    share_T = np.minimum(1.0, of_pairs_T / of_controls_T)
    with_one_more_T = np.minimum(1.0, (of_pairs_T + 1 / len(parts_NU)) / of_controls_T)
    # The bootstrap means of many pairs are normal, so they are drawn from that normal instead of from the pairs.
    drawn_BU = rng.multivariate_normal(
        mean_U, _covariance(parts_NU, mean_U) / len(parts_NU), size=config.n_bootstrap, method="svd"
    )
    resampled_BT = drawn_BU[:, :n_regions] / np.maximum(drawn_BU[:, n_regions:], 1e-12)
    low, high = np.quantile(np.median(resampled_BT.clip(0.0, 1.0), axis=1), [0.025, 0.975])
    estimate = float(np.median(share_T))
    return Interval(estimate, float(low), float(high)), max(float(with_one_more_T.min()), estimate / 2)


def _covariance(part_NU: np.ndarray, mean_U: np.ndarray) -> np.ndarray:
    """Return the covariance of columns, float64 [U, U]; by blocks, for a copy of ten million rows is large."""
    blocks = (part_NU[at : at + _BLOCK].astype(np.float64) - mean_U for at in range(0, len(part_NU), _BLOCK))
    total: np.ndarray = sum((block.T @ block for block in blocks), np.zeros((len(mean_U), len(mean_U))))
    return total / len(part_NU)


def _in_regions(
    statistic_N: np.ndarray, control_NR: np.ndarray, config: SuspicionConfig, sight: Sight | None
) -> tuple[np.ndarray, np.ndarray]:
    """Say which pairs, and what share of each one's controls, lie in every region: float32 [N, T] each.

    A tail that parts nothing, because of ties, makes no region. Of regions that are too small only the largest is kept,
    and that only if there is no other.
    """
    tails = np.quantile(control_NR, 1 - np.array(config.tail_shares)).tolist()
    tails = [above for above in tails if (control_NR >= above).mean() <= MAX_TAIL_SHARE]
    cuts = [-np.inf] if sight is None else np.quantile(sight.pair_N, 1 - np.array(config.seeing_shares)).tolist()
    n_regions = len(cuts) * len(tails)
    pairs_NT, controls_NT = (np.empty((len(statistic_N), n_regions), dtype=np.float32) for _ in range(2))
    for place, (cut, above) in enumerate(product(cuts, tails)):
        in_N, in_NR = statistic_N >= above, control_NR >= above
        if sight is not None:
            in_N &= sight.pair_N >= cut
            in_NR &= sight.control_NR >= cut
        pairs_NT[:, place], controls_NT[:, place] = in_N, in_NR.mean(1)
    size_T = controls_NT.sum(0, dtype=np.float64)
    kept_T = (size_T > 0) & (size_T >= min(MIN_TAIL, size_T.max(initial=0.0)))
    return pairs_NT[:, kept_T], controls_NT[:, kept_T]


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
