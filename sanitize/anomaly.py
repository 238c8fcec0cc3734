"""Anomaly: one number for how unusual a pair is for reasons that do not depend on its match.

Three respects are ranked over the run, each as the share of the other pairs that are strictly less unusual:

    density     sum of the ranks of the density scores (k-distance, LID, SLOF, DAO): sparse surroundings
    captions    distinct captions in the pair's group of near-duplicate images: one picture under many captions
    copies      pairs in that group: hundreds of near-identical pictures, a campaign or a boilerplate

    anomaly = the largest of the three shares

so 0.98 reads "in one respect at least, more unusual than 98 % of the run". A pair that shares the least value of a
respect has 0 there; where no image is repeated, density alone decides.

It is **not calibrated**: re-pairing, which makes labels for suspicion, does not change density or copies, so nothing
tells how many of the unusual pairs are bad. It ranks what to look at, and a clean run has pairs near 1 as well. Only
ranks enter: a detector's scale does not matter, nor does how far out a pair is. The detectors overlap in what they see,
so their ranks are summed rather than treated as independent evidence.

Source: own construction. Duplicates under many captions are the targeted poisoning of Carlini and Terzis 2022 (arXiv
2106.09667) and RoCLIP's threat model; hundreds of near-identical images under one caption are the natural backdoor that
Detect-CLIP (arXiv 2502.01385) found in CC3M. Sparse places alone would miss both: a repeated image is in a dense one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from roclip_audit.core.ranks import count_less


def anomaly(scores: Mapping[str, Tensor], n_duplicates_N: Tensor, n_duplicate_captions_N: Tensor) -> Tensor:
    """Combine density and duplicate structure into one uncalibrated number. Cost: one sort per score.

    Args:
        scores: density detector -> float64 [N], finite, higher = more suspicious; may be empty.
        n_duplicates_N: int [N], pairs in the group of near-duplicate images, 1 if the pair stands alone.
        n_duplicate_captions_N: int [N], distinct captions in that group.

    Returns:
        float64 [N] in [0, 1], higher = more unusual.

    Raises:
        ValueError: the lengths differ or a score is not finite.
    """
    n_pairs = len(n_duplicates_N)
    if any(one.shape != (n_pairs,) for one in (n_duplicate_captions_N, *scores.values())):
        raise ValueError(f"anomaly: {n_pairs} duplicate counts, but not as many of something else")
    if broken := [name for name, score in scores.items() if not bool(score.isfinite().all())]:
        raise ValueError(f"anomaly: scores of {', '.join(broken)} are not finite")
    density_N = torch.zeros(n_pairs, dtype=torch.int64)
    for score in scores.values():
        density_N += count_less(score, score)
    respects = [count_less(one, one) for one in (density_N, n_duplicate_captions_N, n_duplicates_N)]
    return torch.stack(respects).amax(0).double() / max(1, n_pairs - 1)
