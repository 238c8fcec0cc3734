"""Evidence: everything that is measured of a pair, from the spaces and the neighbourhood to one row of numbers.

Every measurement rises with suspicion. The statistic that suspicion is calibrated on is a power mean of the rank shares
q over spaces, views and both directions. An exponent near 0 (geometric mean) is led by the best view and is best for
plain mismatch, a high one by the worst view and is best for triggers that only one view shows; docs/experiments.md has
the numbers behind the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.groups import one_of_each
from roclip_audit.core.neighbours import nearest
from roclip_audit.core.parallel import map_ordered
from roclip_audit.core.ranks import evenly_spaced, rank_of
from roclip_audit.sanitize.align import Neighbourhood
from roclip_audit.sanitize.contest import ContestConfig, never_wins_probability, sampled_wins, win_probability
from roclip_audit.sanitize.space import Ranks, Space

N_RIVALS = 5
_BLOCK = 1_024
N_LED_TO = 16  # images that a caption leads to, and captions that an image leads to


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceConfig:
    """What is measured beside the contest.

    Attributes:
        n_neighbours: neighbours per modality that are kept.
        density_k: neighbours of the density detectors, k.
        n_reference: captions (or images) that neighbour agreement is ranked against.
        power: exponent of the mean over spaces, views and directions.
        pass_weights: weights of the alignment passes in that mean; a joint encoder has only the last.
        beside_weight: weight of a joint encoder that is asked beside them: as much as both.
        neighbour_weight: weight of the neighbours' verdicts in it.
    """

    n_neighbours: int = 8
    density_k: int = 16
    n_reference: int = 1_024
    power: float = 0.5
    pass_weights: tuple[float, ...] = (1.0, 2.0)
    beside_weight: float = 3.0
    neighbour_weight: float = 1.0

    def __post_init__(self) -> None:
        if (
            min(self.n_neighbours, self.density_k, self.n_reference) < 1
            or self.power <= 0
            or min(*self.pass_weights, self.beside_weight, self.neighbour_weight) <= 0
        ):
            raise ConfigError("evidence: counts must be at least 1, power and weights above 0")


def statistic(
    ranks: Sequence[Ranks], agreement: Sequence[Tensor], config: EvidenceConfig, beside: Ranks | None = None
) -> Tensor:
    """Return the power mean of the rank shares: float64 [N, 1 + R] in [0, 1], the observed pairing first.

    Args:
        ranks: of every alignment pass, the last one last.
        agreement: float64 [N, 1 + R] each, the shares of ``neighbour_evidence.disagreement``; may be empty.
        config: exponent and weights.
        beside: of a joint encoder that was asked as well.
    """
    weights = list(config.pass_weights[-len(ranks) :])
    if beside is not None:
        ranks, weights = [*ranks, beside], [*weights, config.beside_weight]
    parts = [
        torch.stack([q_NVR**config.power for q_NVR in (one.caption_q_NVR, one.image_q_NVR)]).mean((0, 2))
        for one in ranks
    ]
    if agreement:
        parts.append(torch.stack([share_NR**config.power for share_NR in agreement]).mean(0))
        weights.append(config.neighbour_weight)
    weight_S = torch.tensor(weights, dtype=torch.float64)
    mean: Tensor = torch.einsum("s,snr->nr", weight_S / weight_S.sum(), torch.stack(parts)) ** (1 / config.power)
    return mean


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestOutcome:
    """The contest of the last space, read off for every pair; arrays of length N."""

    q: np.ndarray
    q_caption: np.ndarray
    q_by_view_NV: np.ndarray
    worst_view: np.ndarray
    win_probability: np.ndarray
    win_probability_64: np.ndarray
    win_probability_1024: np.ndarray
    wins: np.ndarray
    never_wins_probability: np.ndarray
    never_wins: np.ndarray


def read_contest(
    space: Space, ranks: Ranks, caption_N: Tensor, config: ContestConfig, rng: np.random.Generator
) -> ContestOutcome:
    """Read wins and never-wins off the ranks: in closed form, or by holding the contests (``config.sampled``)."""
    q_NV = ranks.caption_q_NVR[:, :, 0]
    worst = q_NV.argmax(1)
    n_nearer = ranks.n_nearer_NV.gather(1, worst[:, None])[:, 0].numpy()
    n_captions = ranks.n_captions_N.numpy()
    win = win_probability(n_nearer, n_captions, config.pool_size)
    if config.sampled:
        wins = _hold_contests(space, worst, caption_N, config, rng)
        never = (wins == 0).astype(np.float64)
        win = wins / config.rounds
    else:
        wins, never = win * config.rounds, never_wins_probability(win, config.rounds)
    return ContestOutcome(
        q=q_NV.amax(1).numpy(),
        q_caption=ranks.image_q_NVR[:, :, 0].amax(1).numpy(),
        q_by_view_NV=q_NV.numpy(),
        worst_view=worst.numpy(),
        win_probability=win,
        win_probability_64=win_probability(n_nearer, n_captions, 64),
        win_probability_1024=win_probability(n_nearer, n_captions, 1024),
        wins=wins.astype(np.float64),
        never_wins_probability=never,
        never_wins=never >= 0.5,
    )


def _in_folds(fold_N: Tensor, caption_N: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return (rows, one row per distinct caption) of every fold."""
    folds = []
    for fold in torch.unique(fold_N).tolist():
        rows = torch.nonzero(fold_N == fold)[:, 0]
        folds.append((rows, one_of_each(rows, caption_N)))
    return folds


def _hold_contests(
    space: Space, worst_N: Tensor, caption_N: Tensor, config: ContestConfig, rng: np.random.Generator
) -> np.ndarray:
    wins_N = torch.zeros(len(caption_N), dtype=torch.int64)
    for rows, candidates in _in_folds(space.fold_N, caption_N):
        place = torch.full((int(caption_N.max()) + 1,), -1, dtype=torch.int64)
        place[caption_N[candidates]] = torch.arange(len(candidates))
        image_BD = space.image_NVD[rows, worst_N[rows]]
        own_B = (image_BD * space.text_ND[rows]).sum(1)
        wins_N[rows] = sampled_wins(image_BD, space.text_ND[candidates], own_B, place[caption_N[rows]], config, rng)
    return wins_N.numpy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rivals:
    """The captions nearest to every image in its worst view, the own one left out.

    Attributes:
        row_NK: int64 [N, N_RIVALS], a row that carries the caption; -1 where there are fewer.
        cosine_NK: float32 [N, N_RIVALS], -inf where there are fewer.
        own_N: float32 [N], the own caption's cosine in the same view.
    """

    row_NK: Tensor
    cosine_NK: Tensor
    own_N: Tensor


def find_rivals(space: Space, worst_view: np.ndarray, caption_N: Tensor, *, workers: int) -> Rivals:
    """Find the captions of the fold that beat the own one by most (or come closest to it)."""
    n = len(caption_N)
    row_NK = torch.full((n, N_RIVALS), -1, dtype=torch.int64)
    cosine_NK, own_N = torch.full((n, N_RIVALS), -torch.inf), torch.zeros(n)
    worst_N = torch.from_numpy(worst_view)
    for rows, candidates in _in_folds(space.fold_N, caption_N):
        image_BD = space.image_NVD[rows, worst_N[rows]]
        own_N[rows] = (image_BD * space.text_ND[rows]).sum(1)
        cosine, index = nearest(
            image_BD,
            space.text_ND[candidates],
            N_RIVALS,
            query_group_N=caption_N[rows],
            base_group_M=caption_N[candidates],
            workers=workers,
        )
        cosine_NK[rows] = cosine
        row_NK[rows] = torch.where(index >= 0, candidates[index.clamp_min(0)], -1)
    return Rivals(row_NK=row_NK, cosine_NK=cosine_NK, own_N=own_N)


def sight(
    space: Space, near: Neighbourhood, control_NR: Tensor, *, known_N: Tensor | None = None, workers: int
) -> Tensor:
    """Say how much the space sees of a caption and of an image, for every pairing: float64 [N, 1 + R], observed first.

    The images that are nearest to a caption in the space (copies of its own excluded) carry captions; where those are
    like it, the space knows what the caption speaks of. A part number or an artist's name leads anywhere. The same the
    other way round for the image; the two are ranked and added. Higher = sees more.

    Args:
        space: the space.
        near: its pairs.
        control_NR: int64 [N, R], the pairs whose captions the controls have.
        known_N: [N], ``grouping.known_share``, ranked and added as well; None if the space was learned elsewhere and
            may know more words than these captions teach.
        workers: threads; changes nothing in the result.
    """
    by_caption_N, by_image_N = torch.zeros(len(near.caption_N)), torch.zeros(len(near.caption_N))
    for rows, candidates in _in_folds(space.fold_N, near.caption_N):
        means = [space.image_NVD[some].mean(1) for some in rows.split(_BLOCK)]
        image_BD = functional.normalize(torch.cat(means), dim=1)
        group_B, caption_B = near.group_N[rows], near.caption_N[rows]
        _, index = nearest(
            space.text_ND[rows], image_BD, N_LED_TO, query_group_N=group_B, base_group_M=group_B, workers=workers
        )
        by_caption_N[rows] = _likeness(near.text_ND, rows, rows, index)
        _, index = nearest(
            image_BD,
            space.text_ND[candidates],
            N_LED_TO,
            query_group_N=caption_B,
            base_group_M=near.caption_N[candidates],
            workers=workers,
        )
        by_image_N[rows] = _likeness(near.image_ND, rows, candidates, index)
    of_caption_N = rank_of(by_caption_N)
    if known_N is not None:
        of_caption_N = of_caption_N + rank_of(known_N)
    captions_of_NR = torch.cat([torch.arange(len(control_NR))[:, None], control_NR], dim=1)
    return of_caption_N[captions_of_NR] + rank_of(by_image_N)[:, None]


def _likeness(vector_ND: Tensor, rows: Tensor, candidates: Tensor, index_BK: Tensor) -> Tensor:
    """Return how much more alike rows are to the candidates found than to candidates on average: [B]."""
    mean_D = vector_ND[candidates].mean(0)
    likeness = []
    for some, index_bK in zip(rows.split(_BLOCK), index_BK.split(_BLOCK), strict=True):
        known_bK = (index_bK >= 0).float()
        found_bKD = vector_ND[candidates[index_bK.clamp_min(0)]] * known_bK[:, :, None]
        centre_bD = found_bKD.sum(1) / known_bK.sum(1).clamp_min(1)[:, None]
        likeness.append((vector_ND[some] * (centre_bD - mean_D)).sum(1))
    return torch.cat(likeness)


def cosine_z(space: Space, caption_N: Tensor, n_pool: int, *, workers: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the own cosine in the whole view, and how far it lies below the pool's mean, in the pool's deviations.

    The pool: up to ``n_pool`` evenly spaced captions of the fold.
    """
    own_N = (space.image_NVD[:, 0] * space.text_ND).sum(1)
    z_N = torch.zeros(len(own_N))
    for rows, candidates in _in_folds(space.fold_N, caption_N):
        pool_PD = space.text_ND[candidates[evenly_spaced(len(candidates), n_pool)]]

        def against(block: Tensor, pool_PD: Tensor = pool_PD) -> Tensor:
            score_BP = space.image_NVD[block, 0] @ pool_PD.T
            return (score_BP.mean(1) - own_N[block]) / score_BP.std(1, correction=0).clamp_min(1e-6)

        blocks = rows.split(1_024)
        for block, z in zip(blocks, map_ordered(against, blocks, workers=workers), strict=True):
            z_N[block] = z
    return own_N.numpy(), z_N.numpy()
