"""The contest: an image's own caption competes with random pools of captions for being nearest to the image.

RoCLIP replaces each caption by the pool caption nearest to the image (Yang, Gao, Mirzasoleiman, NeurIPS 2023, arXiv
2303.06854). Offline the same match is a test: put the own caption into the pool and see whether it ever wins. If ``k``
of ``n`` other captions are nearer to the image than its own (rank share ``q = k / n``), the own caption wins against a
pool of ``P`` drawn without replacement with the hypergeometric probability

    w = C(n - k, P) / C(n, P) = prod_{i < P} (1 - k / (n - i)),        about (1 - q)^P

and never wins in ``M`` pools with probability ``(1 - w)^M``. So ``k`` is counted once, exactly, and every (P, M)
follows in closed form. The literal procedure, with real pools, is ``sampled_wins``: the paper's, and the oracle of the
tests.

Shape legend: N pairs, C candidates, D embedding, R readings per query (the observed pairing first, then re-paired
controls), P pool, M pools.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.parallel import map_ordered

TIE = 1e-6
"""Scores closer than this are equal: one score comes from different kernels with different rounding."""
_QUERY_BLOCK = 256
_CANDIDATE_BLOCK = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestConfig:
    """How the contest is read off.

    Attributes:
        pool_size: captions per pool, P. RoCLIP's training pool (2 % of the data) flags most sound pairs when the
            encoder is weak; a few hundred is the useful range.
        rounds: number of pools, M.
        sampled: draw real pools and count wins instead of using the closed form.
        max_candidates: captions (or images) of a fold that every pair is ranked among; beyond it, evenly spaced ones
            stand for all.
        max_control_candidates: the same for re-paired controls.
    """

    pool_size: int = 256
    rounds: int = 32
    sampled: bool = False
    max_candidates: int = 262_144
    max_control_candidates: int = 1_024

    def __post_init__(self) -> None:
        if min(self.pool_size, self.rounds, self.max_candidates, self.max_control_candidates) < 1:
            raise ConfigError("pool size, rounds and candidates must be at least 1")


def count_nearer(
    query_ND: Tensor, candidate_CD: Tensor, own_score_NR: Tensor, not_counted_NRX: Tensor, *, workers: int = 1
) -> Tensor:
    """Count the candidates that are strictly nearer to each query than each of its readings.

    Args:
        query_ND: float32 [N, D] unit vectors (images, or captions for the way back).
        candidate_CD: float32 [C, D] unit vectors, one per distinct caption (or per group of near-duplicate images).
        own_score_NR: float32 [N, R], the score to beat: column 0 the observed partner's, then the controls'.
        not_counted_NRX: int64 [N, R, X], candidates that must not count for a reading: the own one and, for a control,
            the true partner; -1 for none.
        workers: threads; the result is the same for every value.

    Returns:
        int64 [N, R], between 0 and C. Ties, within ``TIE``, do not beat: of captions that the encoder cannot tell
            apart (a script that its vocabulary lacks) none is nearer than the other.
    """

    def count(start: int) -> Tensor:
        rows = slice(start, start + _QUERY_BLOCK)
        own_BR = own_score_NR[rows] + TIE
        count_BR = torch.zeros(own_BR.shape, dtype=torch.int64)
        for first in range(0, len(candidate_CD), _CANDIDATE_BLOCK):
            score_BC = query_ND[rows] @ candidate_CD[first : first + _CANDIDATE_BLOCK].T
            buffer_BC = torch.empty_like(score_BC)  # 0 and 1 as floats: six times faster to sum than truth values
            for reading in range(own_BR.shape[1]):
                nearer_BC = torch.gt(score_BC, own_BR[:, reading, None], out=buffer_BC)
                skip_BX = not_counted_NRX[rows, reading]
                inside_BX = (skip_BX >= first) & (skip_BX < first + nearer_BC.shape[1])
                row_B, slot_B = inside_BX.nonzero(as_tuple=True)
                nearer_BC[row_B, skip_BX[row_B, slot_B] - first] = 0.0
                count_BR[:, reading] += nearer_BC.sum(1).long()
        return count_BR

    starts = range(0, len(query_ND), _QUERY_BLOCK)
    counted = list(map_ordered(count, starts, workers=workers))
    return torch.cat(counted) if counted else torch.zeros(own_score_NR.shape, dtype=torch.int64)


def count_nearer_both_ways(
    image_ND: Tensor,
    text_ND: Tensor,
    own_score_N: Tensor,
    candidates: tuple[Tensor, Tensor],
    not_counted: tuple[Tensor, Tensor],
    *,
    workers: int = 1,
) -> tuple[Tensor, Tensor]:
    """Count for every pair the captions nearer to its image and the images nearer to its caption, from one product.

    Candidates are put first, so that rows and columns behind them are counted for but never compete.

    Args:
        image_ND: float32 [N, D] unit vectors.
        text_ND: float32 [N, D] unit vectors, row-aligned.
        own_score_N: float32 [N], the score to beat.
        candidates: (images, texts), int64 [C] each: the distinct rows that compete.
        not_counted: (image_N, text_N), int64 [N] each: the place among the candidates of the one that must not count
            for a pair, its own; -1 for none.
        workers: threads; the result is the same for every value.

    Returns:
        (texts_nearer_N, images_nearer_N), int64 [N] each; ties as in ``count_nearer``.
    """
    n = len(image_ND)
    n_images, n_texts = len(candidates[0]), len(candidates[1])
    row_N, column_N = _first(candidates[0], n), _first(candidates[1], n)
    image_ND, text_ND = image_ND[row_N], text_ND[column_N]
    row_score_N, column_score_N = own_score_N[row_N] + TIE, own_score_N[column_N] + TIE
    row_skip_N, column_skip_N = not_counted[1][row_N], not_counted[0][column_N]

    def count(start: int) -> tuple[Tensor, Tensor]:
        rows = slice(start, min(start + _QUERY_BLOCK, n))
        n_competing = max(0, min(rows.stop, n_images) - start)
        n_columns = n if n_competing else n_texts
        by_row_B = torch.zeros(rows.stop - start, dtype=torch.int64)
        by_column_N = torch.zeros(n_columns if n_competing else 0, dtype=torch.int64)
        for first in range(0, n_columns, _CANDIDATE_BLOCK):
            columns = slice(first, min(first + _CANDIDATE_BLOCK, n_columns))
            score_BC = image_ND[rows] @ text_ND[columns].T
            buffer_BC = torch.empty_like(score_BC)
            width = max(0, min(columns.stop, n_texts) - first)
            if width:
                beaten_B1 = row_score_N[rows, None]
                nearer_BC = torch.gt(score_BC[:, :width], beaten_B1, out=buffer_BC[:, :width])
                _clear(nearer_BC, row_skip_N[rows] - first, of_rows=True)
                by_row_B += nearer_BC.sum(1).long()
            if n_competing:
                beaten_1C = column_score_N[None, columns]
                nearer_BC = torch.gt(score_BC[:n_competing], beaten_1C, out=buffer_BC[:n_competing])
                _clear(nearer_BC, column_skip_N[columns] - start, of_rows=False)
                by_column_N[columns] = nearer_BC.sum(0).long()
        return by_row_B, by_column_N

    texts_nearer_N, images_nearer_N = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    starts = range(0, n, _QUERY_BLOCK)
    for start, (by_row_B, by_column_N) in zip(starts, map_ordered(count, starts, workers=workers), strict=True):
        texts_nearer_N[row_N[start : start + len(by_row_B)]] = by_row_B
        if len(by_column_N):
            images_nearer_N += by_column_N
    back_N = torch.empty_like(images_nearer_N)
    back_N[column_N] = images_nearer_N
    return texts_nearer_N, back_N


def _first(rows: Tensor, n: int) -> Tensor:
    """Return all of ``n`` rows, the given ones first."""
    rest = torch.ones(n, dtype=torch.bool)
    rest[rows] = False
    return torch.cat([rows, torch.nonzero(rest)[:, 0]])


def _clear(nearer_BC: Tensor, place: Tensor, *, of_rows: bool) -> None:
    """Set the entry at ``place`` of every row (or column) to 0; places outside the block are none of it."""
    inside = torch.nonzero((place >= 0) & (place < nearer_BC.shape[1 if of_rows else 0]))[:, 0]
    where = (inside, place[inside]) if of_rows else (place[inside], inside)
    nearer_BC[where] = 0.0


def win_probability(n_nearer: np.ndarray, n_candidates: np.ndarray | int, pool_size: int) -> np.ndarray:
    """Return the probability that the own caption wins against one pool drawn without replacement.

    Args:
        n_nearer: int [N], candidates nearer than the own caption, k.
        n_candidates: int or int [N], candidates in all (the own one left out), n.
        pool_size: P; a pool larger than the candidates is all of them.

    Returns:
        float64 [N] in [0, 1].
    """
    k, n = np.broadcast_arrays(np.asarray(n_nearer, dtype=np.float64), np.asarray(n_candidates, dtype=np.float64))
    p = np.minimum(float(pool_size), n)
    possible = n - k >= p
    left = np.where(possible, n - k, p)
    log_win = _log_choose(left, p) - _log_choose(n, p)
    return np.where(possible, np.exp(np.minimum(log_win, 0.0)), 0.0)


def _log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    n_t, k_t = torch.from_numpy(np.ascontiguousarray(n)), torch.from_numpy(np.ascontiguousarray(k))
    return (torch.lgamma(n_t + 1) - torch.lgamma(n_t - k_t + 1) - torch.lgamma(k_t + 1)).numpy()


def never_wins_probability(win: np.ndarray, rounds: int) -> np.ndarray:
    """Return the probability of winning none of ``rounds`` independent pools, ``(1 - w)^M``."""
    never: np.ndarray = np.power(1.0 - np.asarray(win, dtype=np.float64), rounds)
    return never


def sampled_wins(
    query_ND: Tensor,
    candidate_CD: Tensor,
    own_score_N: Tensor,
    own_N: Tensor,
    config: ContestConfig,
    rng: np.random.Generator,
) -> Tensor:
    """Hold the contest literally: draw ``rounds`` pools and count how often the own caption is nearest.

    Every round draws one pool for all images, as a training step would; where the own caption is in the pool already
    it does not compete with itself, and the next one drawn takes its place.

    Returns:
        int64 [N], wins between 0 and ``rounds``.
    """
    n_candidates = len(candidate_CD)
    size = min(config.pool_size, n_candidates - 1)
    wins_N = torch.zeros(len(query_ND), dtype=torch.int64)
    for _ in range(config.rounds):
        pool_P = torch.from_numpy(rng.choice(n_candidates, size=size + 1, replace=False))
        score_NP = query_ND @ candidate_CD[pool_P].T
        own_NP = own_N[:, None] == pool_P[None]
        own_NP[:, -1] |= ~own_NP.any(1)
        best_N = score_NP.masked_fill(own_NP, -torch.inf).amax(1)
        wins_N += best_N <= own_score_N + TIE
    return wins_N
