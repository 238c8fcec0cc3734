"""Risk: the one order of every list, over all reasons to look at a pair.

Suspicion knows the pairing only. Two more reasons speak for themselves, each by a p-value: a *trait*, fine structure
shared with the images of similar captions (``sanitize.traits``), and *duplicates*, a picture that occurs more often or
under more captions than other pictures. A p-value becomes the largest factor by which it can raise odds,

    factor(p) = 1 / (-e p ln p)   for p < 1/e

of which only the part beyond ``ORDINARY_P`` counts: many sound pairs share a frame or a family. With s the suspicion

    odds of risk = odds(s) x factor(trait) / factor(ORDINARY_P) x factor(duplicates) / factor(ORDINARY_P)

Copies count only where their captions are doubtful as well (mean rank of the group's suspicion, 0 to 1, at least
``DOUBTFUL``): clip art has families of hundreds of stars and cards, each under a caption of its own that fits. So a
trait raises a doubtful pairing to the top and leaves one that fits below it.

Where the caption fits, nothing is wrong with the pairing, and yet the pair may be planted: a patch on pictures of the
target itself, one picture in forty variations. So what is rare enough counts by itself: a pair that shares more of a
patch than all but a share x of the pairs ranks at least with the 8 x oddest ones (``AS_RARE``), and likewise for
texture (both where ``trait_p`` is at most ``TRAIT_P``) and for copies. Rank for rank, so that where a data set is
full of families and copies, they move little.

Risk is not calibrated: ``suspicion`` and ``fdr`` are what a promise can rest on.

Source of the factor: Sellke, Bayarri and Berger 2001, Calibration of p values for testing precise null hypotheses,
American Statistician 55, equation 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from roclip_audit.core.groups import first_of_each
from roclip_audit.core.ranks import count_at_least, rank_of, share_at_least
from roclip_audit.core.schema import TRAIT_P
from roclip_audit.sanitize.grouping import duplicates
from roclip_audit.sanitize.suspicion import Calibrated
from roclip_audit.sanitize.traits import Traits

ORDINARY_P = 0.01
AS_RARE = {"patch": 8.0, "texture": 16.0, "copies": 6.0}
"""How many times rarer than an odd pairing each has to be to rank as high."""
DOUBTFUL = 0.7
LEAST_SUSPICION = 1e-4  # below it pairings fit equally well
REASONS = ("pairing", "trait", "duplicates")


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """The combined ranking.

    Attributes:
        risk_N: float64 [N] in (0, 1), higher = more reason to look.
        reasons: what raised the odds most, one of REASONS a pair.
    """

    risk_N: Tensor
    reasons: list[str]


def combine(calibrated: Calibrated, traits: Traits, group_N: Tensor, caption_N: Tensor) -> Risk:
    """Combine suspicion with what does not depend on the pairing.

    Args:
        calibrated: suspicion of every pair.
        traits: shared fine structure of every image.
        group_N: int64 [N], equal for near-duplicate images.
        caption_N: int64 [N], equal for equal captions.
    """
    suspicion_N = torch.from_numpy(calibrated.suspicion_N)
    odds_N = torch.logit(suspicion_N.clamp(LEAST_SUSPICION, 1 - 1e-9))
    n_copies_N = torch.bincount(group_N)[group_N].double()
    doubt_N = torch.bincount(group_N, weights=rank_of(suspicion_N))[group_N] / n_copies_N
    copies_p_N = torch.where(doubt_N >= DOUBTFUL, duplicates_p(group_N, caption_N), 1.0)
    raised_SN = torch.stack([log_factor(p_N) for p_N in (traits.p_N, copies_p_N)])
    share = min(max(calibrated.contamination.estimate, LEAST_SUSPICION), 0.5)
    pairing_N = odds_N + raised_SN.sum(0)
    patch_N = as_rare(traits.patch_N, pairing_N, AS_RARE["patch"])
    texture_N = as_rare(traits.texture_N, pairing_N, AS_RARE["texture"])
    trait_N = torch.where(traits.p_N <= TRAIT_P, torch.maximum(patch_N, texture_N), -torch.inf)
    copies_N = as_rare(n_copies_N, pairing_N, AS_RARE["copies"])
    lifted_N = torch.maximum(trait_N, copies_N)
    by_reason_SN = torch.cat([(odds_N - math.log(share / (1 - share)))[None], raised_SN])
    # Where nothing was raised, the pairing is all there is to say.
    by_reason_SN[1:].masked_fill_(raised_SN <= 0, -torch.inf)
    by_itself_N = torch.where(trait_N >= copies_N, REASONS.index("trait"), REASONS.index("duplicates"))
    leading_N = torch.where(lifted_N > pairing_N, by_itself_N, by_reason_SN.argmax(0))
    return Risk(
        risk_N=torch.sigmoid(torch.maximum(pairing_N, lifted_N)),
        reasons=[REASONS[reason] for reason in leading_N.tolist()],
    )


def as_rare(value_N: Tensor, odds_N: Tensor, times: float) -> Tensor:
    """Return the odds of the pair that is as high among all odds as a pair's value among all values, ``times`` lower.

    Args:
        value_N: [N]; the rarer the higher.
        odds_N: float64 [N].
        times: factor on the rank.

    Returns:
        float64 [N]; where times the rank leaves the data set, the lowest odds.
    """
    place_N = (times * count_at_least(value_N, value_N)).ceil().long().clamp(max=len(value_N)) - 1
    return odds_N.sort(descending=True).values[place_N]


def log_factor(p_N: Tensor) -> Tensor:
    """Return the logarithm of factor(p) / factor(ORDINARY_P), at least 0: float64 [N]."""
    p_N = p_N.clamp(1e-300, 1 / math.e)
    bound_N = -1 - p_N.log() - (-p_N.log()).log()
    ordinary = -1 - math.log(ORDINARY_P) - math.log(-math.log(ORDINARY_P))
    return (bound_N - ordinary).clamp_min(0.0)


def duplicates_p(group_N: Tensor, caption_N: Tensor) -> Tensor:
    """Return the share of distinct pictures with as many copies, or as many captions, doubled: float64 [N] in (0, 1].

    A picture that occurs once has 1.
    """
    copies_N, captions_N = duplicates(group_N, caption_N)
    one_each = first_of_each(group_N)
    shares = [share_at_least(count_N[one_each], count_N) for count_N in (copies_N, captions_N)]
    p_N = (2 * torch.stack(shares).amin(0)).clamp_max(1.0)
    return torch.where(copies_N > 1, p_N, 1.0)
