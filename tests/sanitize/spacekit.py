"""Random spaces, and the contest in them by brute force: every candidate compared in float64, one by one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from roclip_audit.sanitize.space import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A space with captions that repeat, near-duplicate groups and controls within the folds."""

    space: Space
    caption_N: Tensor
    group_N: Tensor
    control_NR: Tensor


def unit(*shape: int, rng: torch.Generator) -> Tensor:
    return normalize(torch.randn(*shape, generator=rng), dim=-1)


def draw_space(
    n: int,
    *,
    n_views: int = 2,
    dim: int = 5,
    n_folds: int = 1,
    repeats: float = 0.3,
    n_controls: int = 2,
    seed: int = 0,
) -> Drawn:
    """Draw a space; a share ``repeats`` of the pairs has another pair's caption, and as many another's group."""
    rng = torch.Generator().manual_seed(seed)
    fold_N = torch.randint(n_folds, (n,), generator=rng)
    numbers = []
    for _ in range(2):
        number_N = torch.arange(n)
        if n:
            again = torch.rand(n, generator=rng) < repeats
            number_N[again] = torch.randint(n, (int(again.sum()),), generator=rng)
        numbers.append(number_N)
    caption_N, group_N = numbers
    text_ND = unit(max(n, 1), dim, rng=rng)[caption_N]  # equal captions, equal vectors
    image_NVD = unit(n, n_views, dim, rng=rng)
    control_NR = torch.arange(n)[:, None].repeat(1, n_controls)
    for row in range(n):
        may = (fold_N == fold_N[row]) & (caption_N != caption_N[row]) & (group_N != group_N[row])
        others = torch.nonzero(may)[:, 0]
        if len(others):
            control_NR[row] = others[torch.randint(len(others), (n_controls,), generator=rng)]
    space = Space(name="drawn", image_NVD=image_NVD, text_ND=text_ND, fold_N=fold_N)
    return Drawn(space=space, caption_N=caption_N, group_N=group_N, control_NR=control_NR)


def brute_ranks(drawn: Drawn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return caption_q_NVR, image_q_NVR, n_nearer_NV and n_captions_N as ``space.contest`` defines them."""
    space, readings = drawn.space, 1 + drawn.control_NR.shape[1]
    n, n_views = space.image_NVD.shape[:2]
    score = torch.einsum("nvd,md->nvm", space.image_NVD.double(), space.text_ND.double()).tolist()
    fold_of, control = space.fold_N.tolist(), drawn.control_NR.tolist()
    caption_q, image_q = torch.zeros(n, n_views, readings).double(), torch.zeros(n, n_views, readings).double()
    n_nearer, n_captions = torch.zeros(n, n_views, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    for row in range(n):
        fold = [x for x in range(n) if fold_of[x] == fold_of[row]]
        for reading, partner in enumerate([row, *control[row]]):
            captions = _rivals(fold, drawn.caption_N.tolist(), row, partner)
            images = _rivals(fold, drawn.group_N.tolist(), row, partner)
            for view in range(n_views):
                own = score[row][view][partner] + 1e-9
                nearer = sum(score[row][view][x] > own for x in captions)
                closer = sum(score[x][view][partner] > own for x in images)
                caption_q[row, view, reading] = nearer / max(1, len(captions))
                image_q[row, view, reading] = closer / max(1, len(images))
                if reading == 0:
                    n_nearer[row, view], n_captions[row] = nearer, len(captions)
    return caption_q, image_q, n_nearer, n_captions


def _rivals(fold: list[int], number: list[int], *rows: int) -> list[int]:
    """Return the first pair of every number in the fold, those of ``rows`` left out."""
    first = {number[x]: x for x in reversed(fold)}
    left_out = {number[row] for row in rows}
    return [x for one, x in first.items() if one not in left_out]
