"""Contrastive heads: two small networks that give frozen image and text features a common space.

Shape legend: B batch, V views, F image features, G text features, D aligned space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from roclip_audit.core.errors import ConfigError

MIN_BATCHES, MIN_BATCH = 6, 32  # more steps on the same few pairs only make the heads memorise (docs/experiments.md)
_MOMENT_SAMPLE = 20_000
MAX_LOGIT_SCALE = math.log(100.0)


class Rows(Protocol):
    """Features read by row: a tensor, or arrays that stay on disk."""

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """Return the given rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsConfig:
    """How the heads are built and trained.

    Attributes:
        hidden: width of the hidden layer.
        dim: dimensions of the common space, D.
        epochs: passes over the training pairs; one pass shows every view once.
        max_steps: optimiser steps at most: beyond it the heads are trained on a sample of the data.
        batch_size: pairs per step at most; a small data set is cut into ``MIN_BATCHES`` batches or more.
        learning_rate: peak; linear warm-up over a tenth of the run, then cosine to zero.
        weight_decay: AdamW's.
        temperature: start of the learned temperature.
    """

    hidden: int = 768
    dim: int = 256
    epochs: int = 8
    max_steps: int = 2_000
    batch_size: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if min(self.hidden, self.dim, self.epochs, self.batch_size, self.max_steps) < 1:
            raise ConfigError("heads: hidden, dim, epochs, batch_size and max_steps must be at least 1")


class Head(nn.Module):
    """Standardise features, pass them through one hidden layer, and put them on the unit sphere."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, config: HeadsConfig, rng: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.hidden = nn.Linear(len(mean), config.hidden, device="meta").to_empty(device="cpu")
        self.out = nn.Linear(config.hidden, config.dim, device="meta").to_empty(device="cpu")
        for layer in (self.hidden, self.out):
            bound = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound, generator=rng)
            nn.init.uniform_(layer.bias, -bound, bound, generator=rng)

    def forward(self, features: Tensor) -> Tensor:
        """Map [..., features] to unit vectors [..., D]."""
        centred = (features.float() - self.mean) / self.scale
        return functional.normalize(self.out(functional.gelu(self.hidden(centred))), dim=-1)


class Heads(nn.Module):
    """The image head and the text head of one fold."""

    def __init__(self, image: Head, text: Head) -> None:
        super().__init__()
        self.image = image
        self.text = text

    @classmethod
    def untrained(cls, image_NVF: Tensor, text_NG: Tensor, config: HeadsConfig, rng: torch.Generator) -> Self:
        """Build heads that standardise by these features' mean and spread."""
        image_NF = image_NVF.float().flatten(0, 1)
        moments = [(x.mean(0), x.std(0).clamp_min(1e-4)) for x in (image_NF, text_NG.float())]
        return cls(*(Head(mean, scale, config, rng) for mean, scale in moments))


def info_nce(image_BD: Tensor, text_BD: Tensor, caption_B: Tensor, log_scale: Tensor) -> Tensor:
    """Return the symmetric InfoNCE loss; pairs with the same caption are not each other's negatives."""
    logit_BB = log_scale.clamp(max=MAX_LOGIT_SCALE).exp() * image_BD @ text_BD.T
    same_BB = (caption_B[:, None] == caption_B[None]).fill_diagonal_(False)
    logit_BB = logit_BB.masked_fill(same_BB, -torch.inf)
    target_B = torch.arange(len(image_BD))
    return (functional.cross_entropy(logit_BB, target_B) + functional.cross_entropy(logit_BB.T, target_B)) / 2


def train_heads(
    image_NVF: Rows, text_NG: Rows, caption_N: Tensor, rows: Tensor, config: HeadsConfig, seed: int
) -> Heads:
    """Train heads on the given rows; every step shows every pair of the batch in all views.

    The same rows, seed and configuration give the same heads on one processor.

    Args:
        image_NVF: [N, V, F], raw features of every view.
        text_NG: [N, G].
        caption_N: int64 [N], equal for equal captions.
        rows: int64, the rows to train on.
        config: see HeadsConfig.
        seed: of the weights and the order.

    Returns:
        Heads in evaluation mode.
    """
    rng = torch.Generator().manual_seed(seed)
    sample = rows[torch.randperm(len(rows), generator=rng)[:_MOMENT_SAMPLE]]
    heads = Heads.untrained(image_NVF[sample], text_NG[sample], config, rng)
    log_scale = torch.tensor(-math.log(config.temperature), requires_grad=True)
    groups: list[dict[str, Any]] = [
        {"params": list(heads.parameters())},
        {"params": [log_scale], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    size = min(config.batch_size, max(len(rows) // MIN_BATCHES, min(MIN_BATCH, len(rows))))
    n_steps = min(config.epochs * (len(rows) // size), config.max_steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warm_cosine(step, n_steps))
    order, at = rows[torch.randperm(len(rows), generator=rng)], 0
    for _ in range(n_steps):
        if at + size > len(order):
            order, at = rows[torch.randperm(len(rows), generator=rng)], 0
        batch, at = order[at : at + size], at + size
        loss = _batch_loss(heads, image_NVF[batch], text_NG[batch], caption_N[batch], log_scale)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return heads.eval().requires_grad_(False)


def untrained_heads(image_NVF: Rows, text_NG: Rows, n: int, config: HeadsConfig, seed: int) -> Heads:
    """Build heads that know nothing: random projections of the standardised features of ``n`` rows."""
    rng = torch.Generator().manual_seed(seed)
    sample = torch.randperm(n, generator=rng)[:_MOMENT_SAMPLE]
    return Heads.untrained(image_NVF[sample], text_NG[sample], config, rng).eval().requires_grad_(False)


def _batch_loss(heads: Heads, image_BVF: Tensor, text_BG: Tensor, caption_B: Tensor, log_scale: Tensor) -> Tensor:
    text_BD = heads.text(text_BG)
    image_BVD = heads.image(image_BVF)
    losses = [info_nce(image_BVD[:, view], text_BD, caption_B, log_scale) for view in range(image_BVD.shape[1])]
    return torch.stack(losses).mean()


def _warm_cosine(step: int, n_steps: int) -> float:
    warm = max(1, n_steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))
