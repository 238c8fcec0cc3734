"""Risk: the one order of every list, over all reasons to look at a pair.

Suspicion knows the pairing only, as judged by heads that never saw it. Two more things raise its odds. A *trait*, fine
structure shared with the images of similar captions (``sanitize.traits``), is a p-value, which becomes the largest
factor by which it can raise odds,

    factor(p) = 1 / (-e p ln p)   for p < 1/e

of which only the part beyond ``ORDINARY_P`` counts: many sound pairs share a frame or a family. And what heads that
*were* trained on every pair could not learn is suspicious (the small-loss rule of learning with noisy labels): with u
the share of the pairs that fit better in them less the share that fit worse, the odds change by ``LEARNED ** u``. An
attack that repeats itself is learned, so this is a small factor either way. With s the suspicion

    odds of risk = odds(s) x factor(trait) / factor(ORDINARY_P) x LEARNED ** u

Where the caption fits, nothing is wrong with the pairing, and yet the pair may be planted: a patch on pictures of the
target itself, one picture under many captions or in forty variations. So what is rare enough counts by itself: a pair
that shares more of a patch than all but a share x of the pairs ranks at least with the 16 x oddest ones (``AS_RARE``),
and likewise for texture (both where ``trait_p`` is at most ``TRAIT_P``), for captions of the same picture that say
something else and for versions of one picture (``sanitize.copies``). What carries a stamp (``sanitize.stamps``) ranks
beside a quarter as many oddest pairings, the clearest first. Rank for rank, so that where a data set is full of copies
and families, they move little.

Versions count from ``LEAST_VERSIONS`` on, and up to ``copies.MOST_OF_DATA``: a picture that fills more of the data is
what the data is about, and any attack of the literature takes less. Below 160 pairs they do not count.

Risk is not calibrated: ``suspicion`` and ``fdr`` are what a promise can rest on.

Sources: Sellke, Bayarri and Berger 2001, Calibration of p values for testing precise null hypotheses, American
Statistician 55, equation 3 (factor); Han et al. 2018, Co-teaching, arXiv 1804.06872 (small loss).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from roclip_audit.core.ranks import count_at_least, rank_of
from roclip_audit.core.schema import LEAST_VERSIONS, TRAIT_P
from roclip_audit.sanitize.copies import MOST_OF_DATA, CountedCopies
from roclip_audit.sanitize.stamps.search import Stamps
from roclip_audit.sanitize.suspicion import Calibrated
from roclip_audit.sanitize.traits import Traits

ORDINARY_P = 0.01
LEARNED = math.e
AS_RARE = {"stamp": 0.25, "patch": 16.0, "texture": 16.0, "conflicts": 2.0, "versions": 6.0}
"""How many times rarer than an odd pairing each has to be to rank as high."""
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


def combine(
    calibrated: Calibrated, trained_cosine_N: Tensor | None, traits: Traits, stamps: Stamps, copies: CountedCopies
) -> Risk:
    """Combine suspicion with what does not depend on the pairing.

    Args:
        calibrated: suspicion of every pair.
        trained_cosine_N: [N], cosine of image and caption under heads that were trained on the pair; None if there are
            no such heads.
        traits: shared fine structure of every image.
        stamps: what repeats under captions that are alike.
        copies: how often every picture occurs.
    """
    odds_N = torch.logit(torch.from_numpy(calibrated.suspicion_N).clamp(LEAST_SUSPICION, 1 - 1e-9))
    raised_N = log_factor(traits.p_N)
    pairing_N = odds_N + raised_N
    if trained_cosine_N is not None:
        unlearned_N = rank_of(-trained_cosine_N) - rank_of(trained_cosine_N)
        pairing_N += math.log(LEARNED) * unlearned_N
    patch_N = as_rare(traits.patch_N, pairing_N, AS_RARE["patch"])
    texture_N = as_rare(traits.texture_N, pairing_N, AS_RARE["texture"])
    trait_N = torch.where(traits.p_N <= TRAIT_P, torch.maximum(patch_N, texture_N), -torch.inf)
    stamp_N = as_rare(stamps.strength_N, pairing_N, AS_RARE["stamp"])
    trait_N = torch.where(stamps.number_N > 0, torch.maximum(trait_N, stamp_N), trait_N)
    copies_N = torch.maximum(
        _lifted(copies.n_conflicts_N, pairing_N, 1, math.inf, AS_RARE["conflicts"]),
        _lifted(copies.n_versions_N, pairing_N, LEAST_VERSIONS, MOST_OF_DATA * len(pairing_N), AS_RARE["versions"]),
    )
    share = min(max(calibrated.contamination.estimate, LEAST_SUSPICION), 0.5)
    # Where nothing was raised, the pairing is all there is to say.
    by_trait_N = torch.where(raised_N > 0, raised_N, -torch.inf)
    leading_N = (by_trait_N > odds_N - math.log(share / (1 - share))).long()
    lifted_N = torch.maximum(trait_N, copies_N)
    by_itself_N = torch.where(trait_N >= copies_N, REASONS.index("trait"), REASONS.index("duplicates"))
    leading_N = torch.where(lifted_N > pairing_N, by_itself_N, leading_N)
    return Risk(
        risk_N=torch.sigmoid(torch.maximum(pairing_N, lifted_N)),
        reasons=[REASONS[reason] for reason in leading_N.tolist()],
    )


def _lifted(count_N: Tensor, odds_N: Tensor, least: int, most: float, times: float) -> Tensor:
    """Return the odds that counts in [least, most] rank with, the others -inf: float64 [N]."""
    counts_N = (count_N >= least) & (count_N <= most)
    return torch.where(counts_N, as_rare(torch.where(counts_N, count_N, 0), odds_N, times), -torch.inf)


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
