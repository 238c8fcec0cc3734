"""Risk: the one order of every list, over all reasons to look at a pair.

Each reason gives its own number; a pair's risk is led by the reason that speaks loudest, and ``risk_reason`` names it.
Risk is not calibrated: ``suspicion`` and ``fdr`` are what a promise can rest on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from roclip_audit.sanitize.anomaly import n_less


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """The combined ranking.

    Attributes:
        risk_N: float64 [N] in [0, 1], higher = more reason to look.
        reasons: the reason that leads, one a pair.
    """

    risk_N: Tensor
    reasons: list[str]


def combine(score_by_reason: Mapping[str, Tensor]) -> Risk:
    """Combine the scores of several reasons.

    Args:
        score_by_reason: reason -> float64 [N], higher = more suspicious.
    """
    names = list(score_by_reason)
    share_SN = torch.stack([n_less(score) / max(1, len(score) - 1) for score in score_by_reason.values()])
    risk_N, leading_N = share_SN.max(0)
    return Risk(risk_N=risk_N.double(), reasons=[names[leading] for leading in leading_N.tolist()])
