"""Load an open_clip model by specification, never running code out of a checkpoint and never accepting random weights.

==================  =================================================================================================
``ARCH/TAG``        a built-in architecture and one of its published weights, downloaded by open_clip
``hf-hub:ORG/NAME`` a model on the hub
``local-dir:PATH``  a folder with ``open_clip_config.json`` and weights
``ARCH@FILE``       a checkpoint (.pt, .pth, .bin, .ckpt, .safetensors) for a built-in architecture
``FILE``            a checkpoint beside its ``open_clip_config.json``
==================  =================================================================================================
"""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from safetensors import SafetensorError
from torch import nn

from roclip_audit.core.errors import ConfigError, EncoderError
from roclip_audit.core.torchvision_compat import ensure_torchvision_importable

CONFIG_NAME = "open_clip_config.json"
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")

# What open_clip, torch and safetensors raise on missing, foreign or damaged configurations and weights.
_LOAD_FAILURES = (
    RuntimeError,
    ValueError,
    OSError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ImportError,
    pickle.UnpicklingError,
    SafetensorError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a model's architecture and weights come from; one of ``tag``, ``file`` or a schema in ``config``."""

    config: str
    """What open_clip calls the model name: ARCH, ``hf-hub:...`` or ``local-dir:...``."""
    tag: str | None = None
    file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in float32, ready for evaluation, with all that belongs to it."""

    name: str
    model: nn.Module
    preprocess: Any
    """torchvision transforms, from a PIL image to a normalised tensor."""
    image_px: int
    tokenizer: Any
    context_length: int
    architecture: str
    """The configuration as JSON: what the weights alone do not say, such as the number of heads."""


def import_open_clip() -> ModuleType:
    """Import open_clip; every import of it goes through here, because torchvision may need help first."""
    ensure_torchvision_importable()
    import open_clip

    return cast(ModuleType, open_clip)


def resolve(spec: str) -> Source:
    """Find what a specification means, without loading anything.

    Raises:
        ConfigError: it names no folder, file, architecture or tag that exists.
    """
    if spec.startswith("hf-hub:"):
        return Source(config=spec)
    if spec.startswith("local-dir:"):
        folder = Path(spec.removeprefix("local-dir:")).expanduser()
        if not (folder / CONFIG_NAME).is_file():
            raise ConfigError(f"{folder}: no {CONFIG_NAME} there; name a folder that open_clip saved")
        return Source(config=f"local-dir:{folder}")
    if (path := Path(spec).expanduser()).is_file():
        return _beside_config(_checked(path))
    if path.is_dir():
        raise ConfigError(f"{spec} is a folder: write local-dir:{spec}")
    arch, at, file = spec.partition("@")
    if at:
        return Source(config=_architecture(arch), file=_checked(Path(file).expanduser()))
    arch, slash, tag = spec.rpartition("/")
    arch, tag = (arch, tag) if slash else (spec, "")
    return Source(config=_architecture(arch), tag=_tag(arch, tag))


def _checked(file: Path) -> Path:
    if not file.is_file():
        raise ConfigError(f"{file}: no such checkpoint file")
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"{file}: a checkpoint ends in {', '.join(SUFFIXES)}")
    return file


def _beside_config(file: Path) -> Source:
    if not (file.parent / CONFIG_NAME).is_file():
        raise ConfigError(f"{file}: which architecture? Write ARCH@{file}, or put its {CONFIG_NAME} beside it")
    return Source(config=f"local-dir:{file.parent}", file=file)


def _architecture(arch: str) -> str:
    known = import_open_clip().list_models()
    if arch not in known:
        near = [name for name in known if arch.lower()[:5] in name.lower()][:8]
        raise ConfigError(f"open_clip has no architecture {arch!r}" + (f"; near it: {', '.join(near)}" if near else ""))
    return arch


def _tag(arch: str, tag: str) -> str:
    open_clip = import_open_clip()
    published = open_clip.get_pretrained_cfg(arch, tag) if tag else None
    if not published:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(arch)) or "none"
        raise ConfigError(f"{arch} has no published weights {tag!r}; there are: {tags}")
    wants_quick_gelu = bool(published.get("quick_gelu", False))
    if wants_quick_gelu != bool(open_clip.get_model_config(arch).get("quick_gelu", False)):
        other = f"{arch}-quickgelu" if wants_quick_gelu else arch.removesuffix("-quickgelu")
        raise ConfigError(f"the weights {tag} were trained with another activation than {arch} has: use {other}/{tag}")
    return tag


def load_model(spec: str) -> LoadedModel:
    """Load the model of a specification in float32, in evaluation mode.

    Raises:
        ConfigError: see ``resolve``.
        EncoderError: the configuration or the weights are missing, damaged, of another architecture, or need code to
            be run to load.
    """
    source = resolve(spec)
    open_clip = import_open_clip()
    try:
        model = _create(open_clip, source)
        tokenizer = open_clip.get_tokenizer(source.config)
        settings = open_clip.transform.PreprocessCfg(**cast(Any, model).visual.preprocess_cfg)
        preprocess = open_clip.transform.image_transform_v2(settings, is_train=False)
        architecture = json.dumps(open_clip.get_model_config(source.config), sort_keys=True, default=str)
        return LoadedModel(
            name=spec,
            model=model.eval().requires_grad_(False),
            preprocess=preprocess,
            image_px=max(settings.input_size[1:]),
            tokenizer=tokenizer,
            context_length=int(getattr(tokenizer, "context_length", None) or 77),
            architecture=architecture,
        )
    except _LOAD_FAILURES as error:
        raise EncoderError(f"encoder {spec}: cannot be loaded ({type(error).__name__}: {error})") from error


def _is_no_false_alarm(record: logging.LogRecord) -> bool:
    """Drop open_clip's warnings of random weights."""
    message = record.getMessage()
    return "initialized randomly" not in message and "no CLIP weights found" not in message


@contextmanager
def random_weights_expected() -> Iterator[None]:
    """Keep open_clip from warning of random weights where the real ones are loaded afterwards, or trained."""
    logging.getLogger().addFilter(_is_no_false_alarm)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(_is_no_false_alarm)


def _create(open_clip: ModuleType, source: Source) -> nn.Module:
    if source.file is None:
        model = open_clip.create_model(source.config, source.tag, require_pretrained=True, weights_only=True)
    else:
        with random_weights_expected():
            model = open_clip.create_model(source.config, load_weights=False, pretrained_text=False)
        open_clip.load_checkpoint(model, str(source.file), strict=True, weights_only=True)
    return cast(nn.Module, model)
