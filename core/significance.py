"""How sure is a share? Binomial tails, corrected for the number of groups that were asked, and Wilson's interval."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

NEGLIGIBLE = 1e-18  # terms of the tail below this share of its sum are left out


def binomial_tail(k: int, n: int, p: float) -> float:
    """Return P(X >= k) for X ~ Binomial(n, p), to about 12 digits, also far out in the tail.

    Sums the terms outward from the first one of the tail, which takes some hundred steps where the tail is thin. Where
    it is not, the other tail is summed.

    Args:
        k: successes, 0 to n.
        n: trials, at least 0.
        p: chance of a success, 0 to 1.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not (0 <= k <= n and 0.0 <= p <= 1.0):
        raise ValueError(f"binomial_tail({k}, {n}, {p}): k must be in 0..n and p in 0..1")
    if k == 0 or p == 1.0:
        return 1.0
    if p == 0.0:
        return 0.0
    if k <= n * p:
        return max(0.0, 1.0 - binomial_tail(n - k + 1, n, 1.0 - p)) if n - k + 1 <= n else 1.0
    log_first = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    log_first += k * math.log(p) + (n - k) * math.log1p(-p)
    total = term = 1.0
    odds = p / (1.0 - p)
    for i in range(k, n):
        term *= (n - i) / (i + 1) * odds
        total += term
        if term < NEGLIGIBLE * total:
            break
    return min(1.0, math.exp(log_first + math.log(total)))


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return the adjusted p-values: reporting all groups at or below x keeps the share of false ones below x.

    Args:
        p_values: [G], 0 to 1.

    Returns:
        [G] in the order given, 0 to 1, never below the p-value.

    Source: Benjamini and Hochberg, J. R. Stat. Soc. B 57 (1995).
    """
    p_G = np.asarray(p_values, dtype=np.float64)
    order_G = np.argsort(p_G, kind="stable")
    scaled_G = p_G[order_G] * (p_G.size / np.arange(1, p_G.size + 1))
    adjusted_G = np.empty_like(p_G)
    adjusted_G[order_G] = np.minimum(np.minimum.accumulate(scaled_G[::-1])[::-1], 1.0)
    return adjusted_G


def wilson_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share: it holds its level also for few trials and for shares near 0 and 1.

    The ends are the shares p with ``|k/n - p| = z sqrt(p (1 - p) / n)``, z the normal quantile. No correction for
    continuity.

    Args:
        k: successes, 0 to n.
        n: trials, at least 0; without any the interval is (0, 1).
        confidence: level, inside (0, 1).

    Returns:
        Lower and upper end, 0 to 1; the lower one is 0 where k is 0, the upper one 1 where k is n.

    Raises:
        ValueError: an argument is out of its range.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927); method 3 of Newcombe, Statistics in Medicine 17 (1998).
    """
    if not (0 <= k <= n and 0.0 < confidence < 1.0):
        raise ValueError(f"wilson_interval({k}, {n}, {confidence}): k must be in 0..n and confidence inside (0, 1)")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1.0 + confidence) / 2.0)
    share, weight = k / n, 1.0 + z * z / n
    centre = (share + z * z / (2 * n)) / weight
    half = z / weight * math.sqrt(share * (1.0 - share) / n + z * z / (4.0 * n * n))
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)
