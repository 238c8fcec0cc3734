"""Re-paired controls: mismatched pairs made on purpose, by giving an image the caption of another pair."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_TRIES = 16
_BLOCK = 256
_MAX_CANDIDATES = 4_096


def repair(stratum_N: Tensor, avoid: tuple[Tensor, ...], n_controls: int, rng: np.random.Generator) -> Tensor:
    """Draw, for every pair, other pairs whose captions it is re-paired with.

    Partners are drawn at random, and drawn again where they clash. A pair that still clashes gets the least clash that
    its stratum (beyond 4,096 pairs: a sample of it) allows.

    Args:
        stratum_N: int64 [N]; partners come from the same stratum (the same folds, so that caption and image are as
            new to the heads as the observed ones). A pair that is alone in its stratum gets partners from anywhere.
        avoid: int64 [N] arrays, most important first; a partner must differ in each of them if at all possible
            (caption, near-duplicate group, caption cluster), and rather in the first than in all others.
        n_controls: partners per pair, R.
        rng: drawn from.

    Returns:
        int64 [N, R], never the pair itself unless there is no other.
    """
    n = len(stratum_N)
    control_NR = torch.arange(n)[:, None].repeat(1, n_controls)
    for stratum in torch.unique(stratum_N).tolist():
        rows = torch.nonzero(stratum_N == stratum)[:, 0]
        if len(rows) > 1:
            control_NR[rows] = _draw(rows, avoid, n_controls, rng)
        elif n > 1:
            control_NR[rows] = _least_clash(rows, torch.arange(n), avoid, n_controls, rng)
    return control_NR


def _draw(rows: Tensor, avoid: tuple[Tensor, ...], n_controls: int, rng: np.random.Generator) -> Tensor:
    """Draw partners within one stratum, drawing again where one must be avoided: int64 [B, R]."""
    place_BR = torch.arange(len(rows))[:, None]
    partner_BR = rows[place_BR].repeat(1, n_controls)
    clash_BR = torch.ones(partner_BR.shape, dtype=torch.bool)
    for _ in range(_TRIES):
        # A shift by 1 to n - 1 places never meets the pair itself.
        again_BR = (place_BR + torch.from_numpy(rng.integers(1, len(rows), partner_BR.shape))) % len(rows)
        partner_BR = torch.where(clash_BR, rows[again_BR], partner_BR)
        clash_BR = _clash(rows[:, None], partner_BR, avoid) > 0
        if not clash_BR.any():
            return partner_BR
    left = torch.nonzero(clash_BR.any(1))[:, 0]
    least_LR = _least_clash(rows[left], rows, avoid, n_controls, rng)
    partner_BR[left] = torch.where(clash_BR[left], least_LR, partner_BR[left])
    return partner_BR


def _clash(one: Tensor, other: Tensor, avoid: tuple[Tensor, ...]) -> Tensor:
    """Say how bad it is to re-pair two rows: 0 not at all; each array outweighs all that follow it."""
    clash = torch.zeros(torch.broadcast_shapes(one.shape, other.shape), dtype=torch.int64)
    for number_N in avoid:
        clash = 2 * clash + (number_N[one] == number_N[other])
    return clash


def _least_clash(
    rows: Tensor, among: Tensor, avoid: tuple[Tensor, ...], n_controls: int, rng: np.random.Generator
) -> Tensor:
    """Draw partners from those that clash least with each row: int64 [B, R]."""
    if len(among) > _MAX_CANDIDATES:
        among = among[torch.from_numpy(rng.choice(len(among), _MAX_CANDIDATES, replace=False))]
    partners = []
    for block in rows.split(_BLOCK):
        clash_BC = _clash(block[:, None], among[None], avoid)
        clash_BC[block[:, None] == among[None]] = 2 ** len(avoid)  # worse than anything: itself
        least_BC = clash_BC == clash_BC.amin(1, keepdim=True)
        which_BR = torch.from_numpy(rng.random((len(block), n_controls))) * least_BC.sum(1, keepdim=True)
        place_BR = torch.searchsorted(least_BC.cumsum(1), which_BR.long() + 1)
        partners.append(among[place_BR])
    return torch.cat(partners)
