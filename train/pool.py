"""The caption pool of RoCLIP: a ring of caption embeddings, oldest overwritten first.

P rows, D embedding, N captions of the global batch. Every rank holds the same pool, because every rank puts in the
gathered batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

NOBODY: Final = -1
"""Owner of a row that no pair filled."""
TIE: Final = 1e-6
"""Cosines this near are the same caption, computed twice."""


class CaptionPool:
    """A FIFO of P caption embeddings with the pair that each came from.

    Args:
        size: P, at least 1.
        dim: D.
        strict: behave as the released code: the rows begin as unnormalised noise that can win a match; of a batch that
            does not fit at the end only the head is stored and the pointer returns to 0. Otherwise rows that were
            never filled cannot win, and a batch wraps around.
        generator: draws the noise.
        device: where the rows lie.

    Source: RoCLIP (arXiv 2303.06854), section 4; the queue is that of NNCLR (Dwibedi et al. 2021, arXiv 2104.14548).
    """

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        strict: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.strict = strict
        noise_PD = torch.randn(size, dim, generator=generator)
        self.rows_PD = (noise_PD if strict else torch.zeros(size, dim)).to(device)
        self.owner_P = torch.full((size,), NOBODY, dtype=torch.int64, device=device)
        self.cursor = 0
        self.n_valid = size if strict else 0

    def __len__(self) -> int:
        return len(self.rows_PD)

    @torch.no_grad()
    def put(self, text_ND: Tensor, owner_N: Tensor) -> None:
        """Store a batch of captions over the oldest ones.

        Args:
            text_ND: [N, D] unit vectors; only the last P are kept if N > P (strict: the first P).
            owner_N: [N] pairs they belong to.
        """
        size = len(self)
        text_ND = text_ND.detach().to(self.rows_PD.dtype)
        if self.strict:
            n_fitting = min(len(text_ND), size - self.cursor)
            place = slice(self.cursor, self.cursor + n_fitting)
            self.rows_PD[place], self.owner_P[place] = text_ND[:n_fitting], owner_N[:n_fitting]
            self.cursor = 0 if self.cursor + len(text_ND) >= size else self.cursor + n_fitting
            return
        text_ND, owner_N = text_ND[-size:], owner_N[-size:]
        place_N = (self.cursor + torch.arange(len(text_ND), device=self.rows_PD.device)) % size
        self.rows_PD[place_N], self.owner_P[place_N] = text_ND, owner_N
        self.cursor = (self.cursor + len(text_ND)) % size
        self.n_valid = min(size, self.n_valid + len(text_ND))

    @torch.no_grad()
    def nearest(self, image_ND: Tensor, owner_N: Tensor | None = None, *, centred: bool = False) -> Tensor:
        """Return [N] the row of the pool that is nearest to each image by cosine.

        Args:
            image_ND: [N, D] unit vectors.
            owner_N: [N] pairs; a row that belongs to the pair itself cannot win. None: any row can.
            centred: compare each row's cosine with its mean over the images, so that a caption that is near to all of
                them (a hub) wins none for that reason.

        Raises:
            RuntimeError: no row was filled yet.
        """
        if not self.n_valid:
            raise RuntimeError("the caption pool is empty: fill it before the first matched epoch")
        rows_PD = F.normalize(self.rows_PD, dim=-1)
        cosine_NP = image_ND.detach().to(rows_PD.dtype) @ rows_PD.T
        if centred and len(image_ND) > 1:
            cosine_NP = cosine_NP - cosine_NP.mean(dim=0, keepdim=True)
        if not self.strict:
            cosine_NP = cosine_NP.masked_fill((self.owner_P == NOBODY)[None, :], float("-inf"))
        if owner_N is not None:
            own_NP = owner_N[:, None] == self.owner_P[None, :]
            cosine_NP = cosine_NP.masked_fill(own_NP, -4.0)  # still above an empty row
        return cosine_NP.argmax(dim=1)

    @torch.no_grad()
    def rank_share(self, image_ND: Tensor, text_ND: Tensor, owner_N: Tensor) -> Tensor:
        """Return [N] q: the share of the pool's captions that are nearer to each image than its own; 0 is best.

        Cosines are compared with their mean over the images, as in ``nearest``; ties do not beat.

        Args:
            image_ND: [N, D] unit vectors.
            text_ND: [N, D] unit vectors, the images' own captions.
            owner_N: [N] pairs; rows that belong to the pair itself do not take part.
        """
        image_ND, text_ND = image_ND.to(self.rows_PD.dtype), text_ND.to(self.rows_PD.dtype)
        pool_NP = image_ND @ F.normalize(self.rows_PD, dim=-1).T
        batch_NN = image_ND @ text_ND.T
        own_N = batch_NN.diagonal() - batch_NN.mean(dim=0)
        takes_part_NP = (self.owner_P != NOBODY)[None, :] & (self.owner_P[None, :] != owner_N[:, None])
        nearer_NP = (pool_NP - pool_NP.mean(dim=0) > own_N[:, None] + TIE) & takes_part_NP
        return nearer_NP.sum(dim=1) / takes_part_NP.sum(dim=1).clamp(min=1)

    def state(self) -> dict[str, Tensor]:
        """Return everything as tensors, for a checkpoint."""
        return {
            "rows": self.rows_PD,
            "owner": self.owner_P,
            "cursor": torch.tensor(self.cursor),
            "n_valid": torch.tensor(self.n_valid),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` returned."""
        self.rows_PD.copy_(state["rows"])
        self.owner_P.copy_(state["owner"])
        self.cursor, self.n_valid = int(state["cursor"]), int(state["n_valid"])
