"""The models that are compared: what was named, what it means to `core.checkpoint`, and what the table calls it.

A checkpoint is what ``scan --encoder`` takes (ARCH/TAG, ARCH@FILE, hf-hub:..., local-dir:...), or a folder that
open_clip saved, or the folder of a training run, whose model lies in ``model/``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from roclip_audit.core.checkpoint import CONFIG_NAME, resolve
from roclip_audit.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One model to evaluate.

    Args:
        name: what the table calls it; different for different models.
        spec: what `core.checkpoint.load_model` takes.
        is_undefended: it is the baseline.
    """

    name: str
    spec: str
    is_undefended: bool = False


def checkpoint_spec(named: str) -> str:
    """Turn what a person names into a specification of `core.checkpoint`, without loading anything.

    Raises:
        ConfigError: it names nothing that exists, or a folder without a model.
    """
    folder = Path(named).expanduser()
    spec = named
    if folder.is_dir():
        model = next((path for path in (folder, folder / "model") if (path / CONFIG_NAME).is_file()), None)
        if model is None:
            raise ConfigError(f"{named}: no model there, neither {CONFIG_NAME} nor model/{CONFIG_NAME}")
        spec = f"local-dir:{model}"
    try:
        resolve(spec)
    except ConfigError as error:
        raise ConfigError(
            f"checkpoint {named}: {'' if ':' in named else 'no such folder or file, and '}{error}"
        ) from error
    return spec


def find_checkpoints(named: Sequence[str], undefended: str | None) -> tuple[Checkpoint, ...]:
    """Return the models, the undefended one first, each once.

    Raises:
        ConfigError: see `checkpoint_spec`.
    """
    found: dict[str, Checkpoint] = {}
    for one in ([] if undefended is None else [undefended]) + list(named):
        spec = checkpoint_spec(one)
        found.setdefault(spec, Checkpoint(name=_short(one), spec=spec, is_undefended=one == undefended))
    counts = Counter(one.name for one in found.values())
    return tuple(one if counts[one.name] == 1 else replace(one, name=one.spec) for one in found.values())


def _short(named: str) -> str:
    """Return the last part of a path that says something; a specification that is no path stays."""
    path = Path(named.removeprefix("local-dir:").partition("@")[2] or named.removeprefix("local-dir:")).expanduser()
    if not path.exists():
        return named
    parts = [part for part in path.resolve().parts if part not in ("model", "checkpoints")]
    return parts[-1] if parts else named
