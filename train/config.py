"""Everything that decides what a training run computes, built once at the edge."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from roclip_audit.core.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16"]
Cache = Literal["auto", "stream", "memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The hyper-parameters of a run.

    Attributes:
        model: architecture, see ``train.model``.
        epochs: passes over the data.
        batch_size: pairs in a step, of all ranks together.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW; none for biases, norms and the logit scale.
        betas, eps: of AdamW.
        warmup: share of the run in which the learning rate rises.
        match_every: K of RoCLIP.
        match_after: share of the run before RoCLIP's first matched epoch (fixed mode): a model that has learned nothing
            matches at random, and unlearns what it gets to know in between.
        contest: share of RoCLIP's pool that may be nearer to an image than its own caption, for the pair to be trained
            on as it is (fixed mode, plain epochs); 0 asks nothing.
        pool_share: size of RoCLIP's pool, share of the data.
        crop: least and most area of a strong view, shares of the picture.
        colour: factor on the chances of colour jitter, greyscale and blur of a strong view; 1 is RoCLIP's, 0 none.
        shuffle_buffer: pairs in the shuffle window.
    """

    model: str
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: float = 0.1
    match_every: int = 2
    match_after: float = 0.0
    contest: float = 0.1
    pool_share: float = 0.02
    crop: tuple[float, float] = (0.08, 1.0)
    colour: float = 1.0
    shuffle_buffer: int = 200_000

    def __post_init__(self) -> None:
        whole = {"epochs": self.epochs, "batch size": self.batch_size, "match every": self.match_every}
        for name, value in {**whole, "shuffle buffer": self.shuffle_buffer}.items():
            if value < 1:
                raise ConfigError(f"{name} {value}: must be at least 1")
        if self.batch_size < 2:
            raise ConfigError("batch size 1: a contrastive loss needs at least 2 pairs")
        if not self.lr > 0 or not self.weight_decay >= 0:
            raise ConfigError(f"lr {self.lr:g}, weight decay {self.weight_decay:g}: must be above 0, and at least 0")
        shares = ("warmup", "match_after", "contest", "pool_share", "colour")
        if wrong := [name for name in shares if not 0 <= getattr(self, name) <= 1]:
            raise ConfigError(f"{wrong[0].replace('_', ' ')} {getattr(self, wrong[0]):g}: must be a share, 0 to 1")
        if not self.pool_share:
            raise ConfigError("pool share 0: must be above 0")

    def as_json(self) -> dict[str, object]:
        """Return the recipe as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        out: run folder.
        recipe: hyper-parameters.
        method: a name of ``methods.METHODS``.
        strict: as the published code does, its defects included (roclip only).
        augment: image and text augmentation in every epoch.
        start_from: a model to train further, as ``scan --encoder`` names one; empty trains from scratch.
        seed: same pairs, settings and seed give the same model.
        precision: of the forward pass; auto is bf16 where it is faster.
        cache: keep all decoded pictures in memory, or stream them; auto keeps them up to 4 GB.
        device: auto, cpu, cuda.
        workers: threads that prepare batches.
        compile: let torch compile the towers.
        checkpoint_s: write a checkpoint at least so often, and after every epoch that is long beside the writing.
        tensorboard: log for TensorBoard as well.
    """

    out: Path
    recipe: Recipe
    method: str = "clip"
    strict: bool = False
    augment: bool = True
    start_from: str = ""
    seed: int = 0
    precision: Precision = "auto"
    cache: Cache = "auto"
    device: str = "auto"
    workers: int = 2
    compile: bool = False
    checkpoint_s: float = 600.0
    tensorboard: bool = False
