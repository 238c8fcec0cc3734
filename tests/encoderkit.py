"""Small randomly initialised open_clip models, saved as open_clip saves them, and pictures to show them.

folder = save_tiny_clip(tmp_path / "clip")                 # causal text tower, class token: both short forms apply
folder = save_tiny_clip(tmp_path / "other", kind="other")  # bidirectional text, average pooling: stock path
encoder = build_encoder(f"local-dir:{folder}")
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from roclip_audit.core.checkpoint import import_open_clip

TINY: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}
OTHER: dict[str, Any] = {
    "embed_dim": 24,
    "custom_text": True,
    "vision_cfg": TINY["vision_cfg"] | {"pool_type": "avg"},
    "text_cfg": TINY["text_cfg"] | {"context_length": 16, "no_causal_mask": True, "pool_type": "last"},
}


def tiny_config(kind: Literal["clip", "other"] = "clip") -> dict[str, Any]:
    """Return the model configuration of one of the two kinds."""
    config: dict[str, Any] = json.loads(json.dumps(TINY if kind == "clip" else OTHER))
    return config


def tiny_model(kind: Literal["clip", "other"] = "clip", *, seed: int = 0) -> torch.nn.Module:
    """Build a model with random weights that depend on the seed only."""
    open_clip = import_open_clip()
    config = tiny_config(kind)
    custom = config.pop("custom_text", False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: torch.nn.Module = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)
        for parameter in model.parameters():  # open_clip's initial weights hardly tell captions apart
            if parameter.ndim > 1:
                parameter.data.mul_(2)
    return model.eval()


def save_tiny_clip(folder: Path, *, kind: Literal["clip", "other"] = "clip", seed: int = 0) -> Path:
    """Save a tiny model as ``open_clip_config.json`` and ``open_clip_model.safetensors``; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": tiny_config(kind), "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    state = {name: tensor.contiguous() for name, tensor in tiny_model(kind, seed=seed).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def pictures(n: int, *, seed: int = 0, sides: tuple[int, int] = (20, 120)) -> list[Image.Image]:
    """Draw ``n`` smooth random RGB pictures of various sizes."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(n):
        coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        width, height = (int(side) for side in rng.integers(*sides, 2))
        drawn.append(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return drawn


CAPTIONS = (
    "a",
    "two dogs",
    "a red disc on white paper",
    "Pinzatrice Rollandin",
    "Cayenne Pepper 1, Simple. Cayenne peppers have very good flavor, but are not too terribly hot (food, vegetable)",
    "IMG_0001.jpg",
    "漢字 and émoji 😀",
    "word " * 120,
)
"""Captions of one to many tokens."""

HOSTILE_CAPTIONS = (
    "",
    " ",
    "\x00\x01\x1b[31m",
    "<start_of_text><end_of_text>",
    "[CLS] [SEP] [PAD]",
    "a" * 20_000,
    "😀" * 3_000,
    "é" * 5_000,
    "&lt;" * 2_000,
    "\u202e\u0301" * 500,
    "a " * 10_000,
)
"""Captions written to break a tokeniser or keep it busy."""
