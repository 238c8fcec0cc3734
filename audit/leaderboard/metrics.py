"""How well a score parts planted pairs from pairs left alone, with bootstrap intervals.

Higher score = more suspicious. Equal scores are never parted in anybody's favour: a tie counts half (AUROC), enters a
list as a whole (average precision, FPR), or in the share that there is room for (recall).

Everything comes from counts at the distinct scores of the planted pairs: how many planted and how many clean pairs
score at least (or more than) that. So the point estimate and every bootstrap replicate are the same formula over other
counts, and a replicate costs one pass over the clean pairs, whatever the number of attacks that are measured.

Letters: N clean pairs, P planted pairs, G distinct scores of planted pairs (descending), B replicates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

METRICS: Final = ("auroc", "average_precision", "fpr_at_95_tpr", "fpr_at_100_tpr", "recall_at_1_removed")
HIGHER_IS_BETTER: Final = {"auroc", "average_precision", "recall_at_1_removed"}
REMOVED: Final = 0.01
LEVEL: Final = 0.95
_COUNTED: Final = 20_000_000  # cells of the table of clean pairs by replicates that are held at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Resamples:
    """How often every clean pair is drawn in every replicate: uint8 [B, N], each row summing to N.

    One set serves all detectors and attacks of a run: differences between two of them are not blurred by the draw.
    """

    count_BN: NDArray[np.uint8]

    @classmethod
    def draw(cls, n: int, n_replicates: int, rng: np.random.Generator) -> Resamples:
        """Draw the replicates of ``n`` pairs."""
        count_BN = np.zeros((n_replicates, n), dtype=np.uint8)
        for row in count_BN if n else ():
            row[:] = np.minimum(np.bincount(rng.integers(0, n, n), minlength=n), 255)
        return cls(count_BN=count_BN)


@dataclass(frozen=True)
class CleanScores:
    """One detector's scores of the clean pairs, sorted once for all attacks.

    Attributes:
        score_N: float64 [N], finite.
        resamples: of the same pairs, in the same order.
    """

    score_N: Floats
    resamples: Resamples

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        return np.argsort(self.score_N, kind="stable")

    def n_above(self, score_G: Floats) -> tuple[Counts, Counts]:
        """Count the clean pairs that score at least, and more than, each of ``score_G``.

        Returns:
            at_least, more: int64 [1 + B, G]; row 0 is the data itself, the others are the replicates.
        """
        sorted_N = self.score_N[self._order]
        first_G = np.searchsorted(sorted_N, score_G, side="left")
        after_G = np.searchsorted(sorted_N, score_G, side="right")
        n, n_replicates = len(sorted_N), len(self.resamples.count_BN)
        at_least = np.empty((1 + n_replicates, len(score_G)), dtype=np.int64)
        more = np.empty_like(at_least)
        at_least[0], more[0] = n - first_G, n - after_G
        step = max(1, _COUNTED // max(1, n))
        for start in range(0, n_replicates, step):
            drawn = self.resamples.count_BN[start : start + step][:, self._order]
            below = np.concatenate([np.zeros((len(drawn), 1), np.int32), drawn.cumsum(1, dtype=np.int32)], 1)
            rows = slice(1 + start, 1 + start + len(drawn))
            at_least[rows] = below[:, -1:] - below[:, first_G]
            more[rows] = below[:, -1:] - below[:, after_G]
        return at_least, more


def detection(
    planted: Mapping[str, Floats], clean: CleanScores, rng: np.random.Generator
) -> dict[str, dict[str, Estimate]]:
    """Measure how well a score finds the pairs of each attack among the clean ones.

    Args:
        planted: attack -> float64 [P], the scores of its pairs, finite, at least one.
        clean: the scores of the pairs left alone, at least one.
        rng: resamples the planted pairs; the clean ones are resampled in ``clean``.

    Returns:
        Attack -> metric -> estimate, for all of ``METRICS``; intervals are percentiles of the stratified bootstrap.
    """
    groups = {attack: np.unique(-score_P, return_inverse=True) for attack, score_P in planted.items()}
    at_least, more = clean.n_above(np.concatenate([-negated_G for negated_G, _ in groups.values()]))
    measured, start = {}, 0
    for attack, (negated_G, group_P) in groups.items():
        columns = slice(start, start := start + len(negated_G))
        n_here = _resampled_groups(group_P, len(negated_G), len(at_least) - 1, rng)
        values = from_counts(n_here, at_least[:, columns], more[:, columns], len(clean.score_N))
        measured[attack] = {name: _estimate(values[name]) for name in METRICS}
    return measured


def _resampled_groups(group_P: NDArray[np.intp], n_groups: int, n_replicates: int, rng: np.random.Generator) -> Counts:
    """Count the planted pairs at every distinct score: int64 [1 + B, G], the data itself first."""
    n_here = np.empty((1 + n_replicates, n_groups), dtype=np.int64)
    n_here[0] = np.bincount(group_P, minlength=n_groups)
    for row in n_here[1:]:
        row[:] = np.bincount(group_P[rng.integers(0, len(group_P), len(group_P))], minlength=n_groups)
    return n_here


def from_counts(n_here: Counts, at_least: Counts, more: Counts, n_clean: int) -> Mapping[str, Floats]:
    """Compute every metric for every replicate.

    Args:
        n_here: int64 [B, G], planted pairs at each of the distinct scores, highest score first.
        at_least: int64 [B, G], clean pairs that score at least as high.
        more: int64 [B, G], clean pairs that score higher.
        n_clean: clean pairs, N.

    Returns:
        Metric -> float64 [B].
    """
    n_planted = int(n_here[0].sum())
    n_removed = max(1, int(REMOVED * (n_planted + n_clean) + 1e-9))
    found = n_here.cumsum(1)
    share_here = n_here / n_planted
    precision = found / np.maximum(found + at_least, 1)
    return {
        "auroc": 1 - (share_here * (at_least + more)).sum(1) / (2 * n_clean),
        "average_precision": (share_here * precision).sum(1),
        "fpr_at_95_tpr": _fpr_at(0.95, found, at_least, n_planted, n_clean),
        "fpr_at_100_tpr": _fpr_at(1.0, found, at_least, n_planted, n_clean),
        "recall_at_1_removed": _recall_within(n_removed, n_here, at_least, more),
    }


def _fpr_at(tpr: float, found: Counts, at_least: Counts, n_planted: int, n_clean: int) -> Floats:
    """Return the share of clean pairs at or above the highest threshold that finds the share ``tpr``."""
    needed = int(np.ceil(tpr * n_planted - 1e-9))
    first = (found >= needed).argmax(1)
    fpr: Floats = np.take_along_axis(at_least, first[:, None], 1)[:, 0] / n_clean
    return fpr


def _recall_within(n_removed: int, n_here: Counts, at_least: Counts, more: Counts) -> Floats:
    """Return the share of planted pairs among the ``n_removed`` highest scores; the last tie in its share."""
    found = n_here.cumsum(1)
    before, after = found - n_here + more, found + at_least
    taken = np.clip((n_removed - before) / np.maximum(after - before, 1), 0.0, 1.0)
    recall: Floats = (n_here * taken).sum(1) / n_here.sum(1)
    return recall


def _estimate(value_B: Floats) -> Estimate:
    """Return row 0 with the percentile interval of the others."""
    if len(value_B) == 1:
        return Estimate(value=float(value_B[0]), low=float("nan"), high=float("nan"))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(value_B[1:], [tail, 1 - tail])
    return Estimate(value=float(value_B[0]), low=float(low), high=float(high))
