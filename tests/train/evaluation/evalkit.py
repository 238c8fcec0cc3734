"""A model that is understood: pictures and words live in a space of red, green, blue and "something else".

embedder = colour_embedder()                       # embeds a picture as its mean colour, a text as the colour it names
labelled_shards(tmp_path, [("red", 0), ("blue", 2)])
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from roclip_audit.train.attacks import Box, Pattern, Pixels
from roclip_audit.train.attacks.base import whole
from roclip_audit.train.evaluation.embedder import Embedder
from tests.shardkit import make_shard, sample

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
NAMES = tuple(COLOURS)


class ColourTowers(nn.Module):
    """Four dimensions: red, green, blue, and words that are no colour."""

    def encode_image(self, pixels_N: torch.Tensor) -> torch.Tensor:
        mean = pixels_N.mean(dim=(2, 3))
        return torch.cat([mean, torch.zeros(len(mean), 1)], dim=1) + 1e-6

    def encode_text(self, tokens_NL: torch.Tensor) -> torch.Tensor:
        return torch.eye(4)[tokens_NL].sum(dim=1)


@dataclass
class ColourClip:
    """A fake of `core.checkpoint.LoadedModel`; remembers the texts that it was asked about."""

    name: str = "colours"
    model: nn.Module = field(default_factory=ColourTowers)
    context_length: int = 77
    texts: list[str] = field(default_factory=list)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        pixels = np.asarray(image.resize((4, 4), Image.Resampling.BOX), dtype=np.float32) / 255
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def tokenizer(self, texts: Sequence[str]) -> torch.Tensor:
        self.texts.extend(texts)
        return torch.tensor([[next((i for i, name in enumerate(NAMES) if name in text), 3)] for text in texts])


def colour_embedder(*, batch_size: int = 2, workers: int = 2) -> Embedder:
    return Embedder(model=ColourClip(), batch_size=batch_size, workers=workers)


def block(colour: str | tuple[int, int, int], px: int = 8) -> Pixels:
    """A square of one colour."""
    value = COLOURS[colour] if isinstance(colour, str) else colour
    return np.full((px, px, 3), value, dtype=np.uint8)


def png(image: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True)
class Paint:
    """A trigger that covers the picture with a colour, but only on a share of pictures that the rng decides."""

    colour: str
    chance: float = 1.0

    def pattern(self, rng: np.random.Generator) -> Pattern:
        return np.zeros(0, dtype=np.float32)

    def stamp(self, image: Pixels, pattern: Pattern, rng: np.random.Generator) -> tuple[Pixels, Box]:
        painted = rng.random() < self.chance
        return (block(self.colour, image.shape[0]) if painted else image), whole(image)


def labelled_shards(
    path: Path, entries: Sequence[tuple[str, int | str | None]], *, with_json: bool = False, key: str = "class"
) -> Path:
    """Write one shard of colour blocks; an entry is (colour, cls member or None)."""
    made = []
    for number, (colour, says) in enumerate(entries):
        extra = {} if says is None else {"cls": str(says).encode()}
        meta = {key: colour} if with_json else None
        made.append(sample(f"{number:05d}", image=png(block(colour)), meta=meta, caption=None, extra=extra))
    return make_shard(path, made)


def class_folders(root: Path, counts: dict[str, int], *, colour_of: dict[str, str] | None = None) -> Path:
    """Write CLASS/N.png."""
    for name, n in counts.items():
        for number in range(n):
            file = root / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(block((colour_of or {}).get(name, name))))
    return root


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path
