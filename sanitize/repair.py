"""Re-paired controls: mismatched pairs made on purpose, by giving an image the caption of another pair."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def repair(stratum_N: Tensor, avoid: tuple[Tensor, ...], n_controls: int, rng: np.random.Generator) -> Tensor:
    """Draw, for every pair, other pairs whose captions it is re-paired with.

    Args:
        stratum_N: int64 [N]; partners come from the same stratum (the same folds, so that caption and image are as
            new to the heads as the observed ones).
        avoid: int64 [N] arrays; a partner must differ in each of them if at all possible (caption, near-duplicate
            group, caption cluster).
        n_controls: partners per pair, R.
        rng: drawn from.

    Returns:
        int64 [N, R], never the pair itself unless it is alone in its stratum.
    """
    n = len(stratum_N)
    control_NR = torch.arange(n)[:, None].repeat(1, n_controls)
    for stratum in torch.unique(stratum_N).tolist():
        rows = torch.nonzero(stratum_N == stratum)[:, 0]
        if len(rows) < 2:
            continue
        control_NR[rows] = _draw(rows, avoid, n_controls, rng)
    return control_NR


def _draw(
    rows: Tensor, avoid: tuple[Tensor, ...], n_controls: int, rng: np.random.Generator, tries: int = 16
) -> Tensor:
    """Draw partners within one stratum, drawing again where one must be avoided."""
    place_BR = torch.arange(len(rows))[:, None]
    # A shift by 1 to n - 1 places never meets the pair itself.
    drawn_BR = (place_BR + torch.from_numpy(rng.integers(1, len(rows), (len(rows), n_controls)))) % len(rows)
    for _ in range(tries):
        clash_BR = torch.zeros_like(drawn_BR, dtype=torch.bool)
        for number_N in avoid:
            number_B = number_N[rows]
            clash_BR |= number_B[drawn_BR] == number_B[:, None]
        if not clash_BR.any():
            break
        again_BR = (place_BR + torch.from_numpy(rng.integers(1, len(rows), (len(rows), n_controls)))) % len(rows)
        drawn_BR = torch.where(clash_BR, again_BR, drawn_BR)
    return rows[drawn_BR]
