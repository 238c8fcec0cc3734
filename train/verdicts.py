"""What the contest said before: of every pair the worst of late, and of pictures that occur several times the mean.

A glimpse that shows what was planted lets its pair win. So a pair that lost lately is not believed at once: its rank
share is at least ``MEMORY`` of what it was, contest by contest. All captions of one picture share the running mean of
theirs. N pairs of a batch, A pairs of the data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

RATE: Final = 0.3
"""Weight of an epoch in the running mean, shared by the occurrences of the picture."""
UNKNOWN: Final = -1.0
MEMORY: Final = 0.7
"""What is left of a pair's rank share after another contest."""
USUAL: Final = 0.5
"""Share of the pairs from which on it is usual that a picture has several captions, and no reason for doubt."""


class Verdicts:
    """Rank shares remembered, one a picture or a pair. Every rank holds the same, for it sees the whole batch.

    Args:
        n_pairs: A; until ``number`` is called, every pair has a picture of its own.
        device: where they lie.
    """

    def __init__(self, n_pairs: int, device: torch.device) -> None:
        self.are_numbered = False
        self.number_A = torch.arange(n_pairs, device=device)
        self._n_times_A = torch.ones_like(self.number_A)
        self._stands_out_A = torch.zeros_like(self.number_A, dtype=torch.bool)
        self.mean_A = torch.full((n_pairs,), UNKNOWN, device=device)
        self.worst_A = torch.zeros(n_pairs, device=device)

    def number(self, number_A: Tensor) -> None:
        """Say which pairs show the same picture: int64 [A], from 0, equal where they do."""
        self.number_A.copy_(number_A)
        self._n_times_A = torch.bincount(self.number_A, minlength=len(self.number_A))
        is_repeated_A = self._n_times_A[self.number_A] > 1
        self._stands_out_A = is_repeated_A & (is_repeated_A.float().mean() < USUAL)
        self.are_numbered = True  # last: what is interrupted before is done again

    def are_repeats(self, pair_N: Tensor) -> Tensor:
        """Return [N] bool: the pair's picture occurs several times, which most pairs' pictures do not."""
        return self._stands_out_A[pair_N]

    def joined(self, q_N: Tensor, pair_N: Tensor) -> Tensor:
        """Take note of rank shares; return what counts: the worst of late, its mean for a repeated picture.

        Args:
            q_N: [N] rank shares of a batch, 0 to 1.
            pair_N: [N] their pairs, each once.
        """
        q_N = torch.maximum(q_N, MEMORY * self.worst_A[pair_N])
        self.worst_A[pair_N] = q_N
        picture_N = self.number_A[pair_N]
        n_times_N = self._n_times_A[picture_N]
        seen, place_N, n_seen = picture_N.unique(return_inverse=True, return_counts=True)
        # In float64, where the sum of a few shares is exact in any order, and so equal on all ranks.
        sums = torch.zeros(len(seen), dtype=torch.float64, device=q_N.device)
        mean = (sums.index_add_(0, place_N, q_N.double()) / n_seen).float()
        old = self.mean_A[seen]
        kept = (1 - RATE) ** (n_seen / self._n_times_A[seen])
        self.mean_A[seen] = torch.where(old == UNKNOWN, mean, kept * old + (1 - kept) * mean)
        return torch.where(n_times_N > 1, self.mean_A[picture_N], q_N)

    def state(self) -> dict[str, Tensor]:
        """Return everything as tensors, for a checkpoint."""
        numbers = {"number": self.number_A} if self.are_numbered else {}
        return {**numbers, "mean": self.mean_A, "worst": self.worst_A}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` returned."""
        if "number" in state:
            self.number(state["number"])
        self.mean_A.copy_(state["mean"])
        self.worst_A.copy_(state["worst"])
