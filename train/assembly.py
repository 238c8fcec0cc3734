"""Build what a run is made of from its configuration: towers, pictures, captions, method, optimiser."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.progress import Reporter
from roclip_audit.train.config import TrainConfig
from roclip_audit.train.data import augment
from roclip_audit.train.data.loader import CaptionTokens
from roclip_audit.train.data.order import uid_groups
from roclip_audit.train.data.pairs import PairTable
from roclip_audit.train.data.pictures import Pictures, ResidentPictures, StreamedPictures
from roclip_audit.train.distributed import World
from roclip_audit.train.methods import build_method
from roclip_audit.train.methods.base import Method, MethodSettings
from roclip_audit.train.model import TrainableModel, copy_tokenizer, model_from_checkpoint, new_model
from roclip_audit.train.resume import run_key
from roclip_audit.train.towers import PairEmbedder, Towers, uses_bf16

CACHE_BYTES: Final = 4 << 30
"""Largest set of decoded pictures that ``cache="auto"`` keeps in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a run is made of.

    Attributes:
        key: of everything the run depends on.
        towers: the model.
        pictures, tokens: where batches come from.
        embedder: un-augmented features, for the method.
        method: the loss and its memory.
        optimiser: AdamW over the towers.
        group_N: numbers that are equal where uids are, None if no uid repeats.
        all_readable: every picture is known to decode.
    """

    key: str
    towers: Towers
    pictures: Pictures
    tokens: CaptionTokens
    embedder: PairEmbedder
    method: Method
    optimiser: torch.optim.Optimizer
    group_N: NDArray[np.int64] | None
    all_readable: bool


def assemble(config: TrainConfig, table: PairTable, world: World, reporter: Reporter) -> Parts:
    """Build the parts of a run.

    Raises:
        ConfigError: settings that cannot work.
        EncoderError: the model to start from cannot be loaded.
    """
    if config.recipe.batch_size % world.size:
        raise ConfigError(f"batch size {config.recipe.batch_size} cannot be shared by {world.size} processes")
    trainable = _build_model(config, world)
    towers = Towers(
        trainable,
        world,
        bf16=uses_bf16(config.precision, world.device, trainable.image_px),
        compiled=config.compile,
        strong=augment.AugmentConfig.of_strength(config.recipe.crop, config.recipe.colour),
    )
    method = build_method(config.method, _settings(config, len(table), trainable.dim, world.device))
    pictures = _load_pictures(config, table, augment.canvas_px(trainable.image_px), world, reporter)
    tokens = CaptionTokens(table.captions, trainable.tokenize, seed=config.seed)
    return Parts(
        key=run_key(config, table),
        towers=towers,
        pictures=pictures,
        tokens=tokens,
        embedder=PairEmbedder(towers, pictures, tokens, world, len(table), workers=config.workers),
        method=method,
        optimiser=_optimiser(towers.model, config),
        group_N=uid_groups(table.uid_N),
        all_readable=isinstance(pictures, ResidentPictures) and not world.any(not pictures.all_readable),
    )


def _build_model(config: TrainConfig, world: World) -> TrainableModel:
    """Build the model in the run folder; other ranks than the main one in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="roclip-audit-") as scratch:
        folder = config.out / "model"
        if not world.is_main:
            copy_tokenizer(folder, Path(scratch))
            folder = Path(scratch)
        if config.start_from:
            return model_from_checkpoint(config.start_from, folder)
        return new_model(config.recipe.model, folder, seed=config.seed)


def _load_pictures(config: TrainConfig, table: PairTable, side_px: int, world: World, reporter: Reporter) -> Pictures:
    if config.cache == "stream" or (config.cache == "auto" and 3 * side_px**2 * len(table) > CACHE_BYTES):
        return StreamedPictures(table, side_px)
    return ResidentPictures.decoded(table, side_px, device=world.device, workers=config.workers, reporter=reporter)


def _settings(config: TrainConfig, n_pairs: int, dim: int, device: torch.device) -> MethodSettings:
    return MethodSettings(
        n_pairs=n_pairs,
        batch_size=config.recipe.batch_size,
        n_epochs=config.recipe.epochs,
        dim=dim,
        seed=config.seed,
        device=device,
        strict=config.strict,
        match_every=config.recipe.match_every,
        match_after=config.recipe.match_after,
        contest=config.recipe.contest,
        pool_share=config.recipe.pool_share,
        augment=config.augment,
    )


def _optimiser(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW without weight decay on vectors and scalars: norms, biases, the logit scale (as open_clip)."""
    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_plain = parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
        (others if is_plain else decayed).append(parameter)
    recipe = config.recipe
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True)
