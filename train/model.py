"""Build an open_clip model to train, from scratch or from a checkpoint, and save it so that open_clip loads it.

A model is named by a built-in architecture of open_clip (``RN50``, ``ViT-B-32``), one of the small ones beside this
file (``resnet-64`` for 64 pixels, ``resnet-32``, ``vit-64``, ``vit-32``), or a JSON with the fields of ``model_cfg``.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors.torch import save_file
from torch import nn

from roclip_audit.core.checkpoint import CONFIG_NAME, import_open_clip, load_model, random_weights_expected
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import write_atomic, write_json
from roclip_audit.core.seeding import derive_seed
from roclip_audit.core.tokens import Tokenize

WEIGHTS_NAME: Final = "open_clip_model.safetensors"
TWO_TOWERS: Final = frozenset({"CLIP", "CustomTextCLIP"})
"""Classes of open_clip whose ``model(image, text)`` returns the features of either side and the scale."""
SMALL: Final = Path(__file__).parent / "models"
_BUILD_FAILURES: Final = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    AssertionError,
    ImportError,
    OSError,
)
"""What open_clip raises on a configuration that it cannot build, or for want of what that names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainableModel:
    """A model with all that training needs to know about it.

    Attributes:
        model: of open_clip; ``model(image, text)`` returns unit vectors and the scale.
        config: what ``open_clip_config.json`` holds.
        image_px: side of its input.
        mean, std: of the pixels, 0 to 1.
        tokenize: captions to token ids.
    """

    model: nn.Module
    config: dict[str, Any]
    image_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tokenize: Tokenize

    @property
    def dim(self) -> int:
        """D, the length of the features."""
        return int(self.config["model_cfg"]["embed_dim"])


def small_models() -> tuple[str, ...]:
    """Return the names of the models that ship."""
    return tuple(sorted(path.stem for path in SMALL.glob("*.json")))


def model_config(name: str) -> dict[str, Any]:
    """Return the ``model_cfg`` that a name means.

    Raises:
        ConfigError: nothing has this name, or the file is no model.
    """
    if name in small_models():
        return _read(SMALL / f"{name}.json")
    if name.endswith(".json"):
        return _read(Path(name).expanduser())
    open_clip = import_open_clip()
    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if config is None:
        near = [known for known in open_clip.list_models() if known.lower().startswith(name.lower()[:4])][:8]
        raise ConfigError(
            f"no model {name!r}; one of {', '.join(small_models())}, an architecture of open_clip"
            f"{' (' + ', '.join(near) + ')' if near else ''}, or a JSON file"
        )
    return cast("dict[str, Any]", config)


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a model ({error})") from error
    config = config.get("model_cfg", config) if isinstance(config, dict) else None
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        raise ConfigError(f"{path}: a model has embed_dim, vision_cfg and text_cfg")
    return config


def new_model(name: str, folder: Path, *, seed: int) -> TrainableModel:
    """Build a model with random weights that depend on the seed only.

    Args:
        name: see the module.
        folder: gets ``open_clip_config.json``, from which open_clip builds the model.
        seed: of the run.

    Raises:
        ConfigError: nothing has this name, open_clip cannot build it, or its tokenizer is not there.
    """
    open_clip = import_open_clip()
    config = model_config(name)
    write_json(folder / CONFIG_NAME, {"model_cfg": config, "preprocess_cfg": {}})
    with torch.random.fork_rng(devices=[]), random_weights_expected():
        torch.manual_seed(derive_seed(seed, "init"))
        try:
            tokenizer = _tokenizer(name, config, folder)
            model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        except _BUILD_FAILURES as error:
            raise ConfigError(f"model {name!r}: open_clip cannot build it ({error})") from error
    return _described(model, config, tokenizer, folder)


def _tokenizer(name: str, config: dict[str, Any], folder: Path) -> object:
    """Return the tokenizer of a model whose configuration is in the folder; a foreign one has its files there, too."""
    try:
        return import_open_clip().get_tokenizer(f"local-dir:{folder}")
    except (ImportError, OSError, ValueError) as error:
        source, why = config["text_cfg"].get("hf_tokenizer_name"), str(error).partition("\n")[0]
        if not source:
            raise
        raise ConfigError(
            f"model {name!r}: its tokenizer needs the package transformers (pip install transformers) and, in "
            f"{folder}, the tokenizer's files, those of {source} on Hugging Face ({why})"
        ) from error


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files of a foreign tokenizer from one model folder into another: all but open_clip's own, if any."""
    for file in source.glob("*"):
        if file.is_file() and not file.name.startswith((".", "open_clip_")):
            shutil.copy(file, folder)


def model_from_checkpoint(spec: str, folder: Path) -> TrainableModel:
    """Load a model as ``scan --encoder`` does, to train it further.

    Raises:
        ConfigError, EncoderError: as ``core.checkpoint.load_model``.
    """
    loaded = load_model(spec)
    model = loaded.model.train().requires_grad_(True)
    return _described(model, json.loads(loaded.architecture), loaded.tokenizer, folder)


def _described(model: nn.Module, config: dict[str, Any], tokenizer: object, folder: Path) -> TrainableModel:
    """Gather what training needs, and write the configuration into the folder."""
    if type(model).__name__ not in TWO_TOWERS:
        raise ConfigError(f"a {type(model).__name__} cannot be trained here; only models of two towers: CLIP, SigLIP")
    settings = dict(cast(Any, model).visual.preprocess_cfg)
    settings.pop("size", None)
    whole = {"model_cfg": config, "preprocess_cfg": settings}
    write_json(folder / CONFIG_NAME, whole)
    size = cast(Any, model).visual.image_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if sides[0] != sides[1]:
        raise ConfigError(f"the model takes {sides[0]} x {sides[1]} pixels; only square inputs can be trained")
    context = int(getattr(tokenizer, "context_length", None) or 77)
    return TrainableModel(
        model=model,
        config=whole,
        image_px=sides[0],
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        tokenize=Tokenize(tokenizer, context),
    )


def save_weights(model: nn.Module, folder: Path) -> None:
    """Write the weights beside the configuration, atomically; ``local-dir:FOLDER`` then names the model."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    write_atomic(folder / WEIGHTS_NAME, lambda path: save_file(state, path))


def is_text_parameter(name: str) -> bool:
    """Tell whether a parameter belongs to the text tower: neither the image tower's nor the scale."""
    return not name.startswith("visual.") and name not in {"logit_scale", "logit_bias"}
