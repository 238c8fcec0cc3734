"""A run small enough for a test: a tiny model of 32 pixels, a few drawn pairs, a recipe of a few steps.

table = make_table(tmp_path / "shards", n_pairs=24)
report = train(make_config(tmp_path / "run", tmp_path / "vit.json", method="roclip", strict=True), table)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from roclip_audit.core.progress import Progress
from roclip_audit.core.shards import expand_shards
from roclip_audit.train.config import Recipe, TrainConfig
from roclip_audit.train.data.pairs import PairTable, read_pairs
from tests.shardkit import make_dataset

VIT: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
RESNET: dict[str, Any] = VIT | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}

RUNS: dict[str, dict[str, Any]] = {
    "clip": {"method": "clip"},
    "roclip-strict": {"method": "roclip", "strict": True},
    "roclip-fixed": {"method": "roclip"},
}
"""The settings of the three runs that every promise about runs is tested on."""


def write_model(path: Path, config: Mapping[str, Any] = VIT) -> Path:
    """Write a model that ``--model`` takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def make_table(folder: Path, n_pairs: int = 24, n_shards: int = 2) -> PairTable:
    """Draw shards and list their pairs."""
    make_dataset(folder, n_pairs, n_shards, px=40)
    return read_pairs(expand_shards([str(folder)]))


def make_config(out: Path, model: Path, **changes: Any) -> TrainConfig:
    """Return the configuration of a run of 2 epochs; ``recipe_...`` changes a field of the recipe."""
    recipe = Recipe(model=str(model), epochs=2, batch_size=8, lr=1e-3, pool_share=0.5, eps=1e-3, shuffle_buffer=12)
    of_recipe = {name.removeprefix("recipe_"): value for name, value in changes.items() if name.startswith("recipe_")}
    rest = {name: value for name, value in changes.items() if not name.startswith("recipe_")}
    settings: dict[str, Any] = {"precision": "fp32", "device": "cpu", "workers": 1} | rest
    return TrainConfig(out=out, recipe=replace(recipe, **of_recipe), **settings)


def weights(run: Path) -> dict[str, Tensor]:
    """Return the weights of a finished run."""
    return load_file(run / "model" / "open_clip_model.safetensors")


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Return random unit vectors."""
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


class StopsAfter:
    """A reporter that interrupts the stage ``train`` after so many steps; implements ``Reporter``."""

    def __init__(self, n_steps: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.n_steps = n_steps
        self._error = error
        self._stage = ""

    @contextmanager
    def stage(self, name: str, total: int, *, unit: str = "pairs") -> Iterator[Progress]:
        self._stage = name
        yield self

    def advance(self, n: int, *, n_errors: int = 0, reused: bool = False, detail: str = "") -> None:
        if self._stage == "train" and not reused:
            self.n_steps -= 1
            if self.n_steps == 0:
                raise self._error

    def note(self, message: str) -> None:
        pass


class FakeEmbedder:
    """Features of pairs made up from their numbers; implements ``Embedder`` and counts what it is asked."""

    def __init__(self, n_pairs: int, dim: int) -> None:
        self.text_ND = unit(n_pairs, dim, seed=11)
        self.image_ND = unit(n_pairs, dim, seed=12)
        self.picture_A = np.arange(n_pairs)
        self.asked: list[int] = []

    def texts(self, pairs: NDArray[np.int64]) -> Tensor:
        self.asked.append(len(pairs))
        return self.text_ND[torch.from_numpy(pairs)]

    def cosines(self) -> Tensor:
        return (self.image_ND * self.text_ND).sum(dim=1)

    def picture_numbers(self) -> NDArray[np.int64]:
        return self.picture_A
