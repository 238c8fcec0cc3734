"""Is the share of suspicious pairs in a group more than groups of sound data show by themselves?

Groups of sound pairs differ: a topic that the encoder sees badly has many suspicious pairs. Against a plain binomial
such topics would be campaigns. So the null is an empirical one: the number of suspicious units k of n is beta-binomial,

    k ~ Binomial(n, r),  r ~ Beta(mean (1 - rho) / rho, (1 - mean) (1 - rho) / rho)

``mean`` is the share of suspicious pairs outside of campaigns, ``rho`` (0 = binomial) how much the groups of the kind
differ there, by maximum likelihood. Each group gets P(k or more); Holm's correction over all groups of all kinds holds
the chance of any false campaign below the level, however the groups overlap.

Sources: Efron 2010, Large-Scale Inference, chapter 6 (empirical null); Holm 1979, Scand. J. Statist. 6. Differs from
them: the empirical null is a beta-binomial, fitted to all groups outside of what is being declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

MIN_RHO: Final = 0.03  # groups of sound openclipart and icons have 0.01 to 0.04
MAX_RHO: Final = 0.5
_GRID: Final = 120


@dataclass(frozen=True, slots=True)
class Null:
    """Shares of suspicious units that groups have by themselves: mean in (0, 1), rho in (0, 1)."""

    mean: float
    rho: float

    @property
    def beta(self) -> tuple[float, float]:
        """The two parameters of the beta distribution."""
        weight = (1.0 - self.rho) / self.rho
        return self.mean * weight, (1.0 - self.mean) * weight


def _log_pmf(n: torch.Tensor, k: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    choose = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return choose + _log_beta(k + a, n - k + b) - _log_beta(a, b)


def _log_beta(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def tail(n: int, k: int, null: Null) -> float:
    """Return P(k or more of n units are suspicious)."""
    if k <= 0:
        return 1.0
    a, b = (torch.tensor(value, dtype=torch.float64) for value in null.beta)
    at = torch.arange(k, n + 1, dtype=torch.float64)
    total = torch.logsumexp(_log_pmf(torch.tensor(n, dtype=torch.float64), at, a, b), 0)
    return min(1.0, float(total.exp()))


def fit_null(n_G: np.ndarray, k_G: np.ndarray, mean: float) -> Null:
    """Fit how much groups differ, by maximum likelihood over a grid of rho; never below MIN_RHO.

    Args:
        n_G: int [G], units of every group.
        k_G: int [G], suspicious ones.
        mean: share of suspicious pairs.
    """
    mean = float(np.clip(mean, 1e-6, 1 - 1e-6))
    if not len(n_G):
        return Null(mean, MIN_RHO)
    rho_R = torch.logspace(float(np.log10(MIN_RHO)), float(np.log10(MAX_RHO)), _GRID, dtype=torch.float64)
    n, k = torch.from_numpy(n_G).double()[:, None], torch.from_numpy(k_G).double()[:, None]
    weight_R = (1 - rho_R) / rho_R
    likelihood_R = _log_pmf(n, k, mean * weight_R, (1 - mean) * weight_R).sum(0)
    return Null(mean, float(rho_R[int(likelihood_R.argmax())]))


def holm(p_G: np.ndarray) -> np.ndarray:
    """Return Holm's corrected p-values: float64 [G], at most 1, in the order of the given ones."""
    order = np.argsort(p_G, kind="stable")
    steps = np.arange(len(p_G), 0, -1)
    corrected = np.empty(len(p_G))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p_G[order] * steps))
    return corrected
