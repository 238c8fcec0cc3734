"""Begin a run in a folder, or find the place where one goes on; never mix two runs."""

from __future__ import annotations

import json
from dataclasses import asdict

from roclip_audit import __version__
from roclip_audit.core.errors import ConfigError, StoreError
from roclip_audit.core.run import work_key, write_json
from roclip_audit.train.checkpoint import CHECKPOINT_NAME, Saved, read_checkpoint
from roclip_audit.train.config import TrainConfig
from roclip_audit.train.data.pairs import PairTable
from roclip_audit.train.model import model_config

CONFIG_NAME = "config.json"
FINISHED = ("manifest.json", "done")
"""What a scan or a complete training leaves in its folder."""
_HOW = frozenset({"out", "cache", "device", "workers", "compile", "checkpoint_s", "tensorboard"})
"""Settings that say how a run is computed, not what."""


def config_json(config: TrainConfig) -> dict[str, object]:
    """Return the settings that decide what is computed, as JSON values; of a model in a file also what is in it."""
    whole = json.loads(json.dumps(asdict(config), default=str))
    if config.recipe.model.endswith(".json") and not config.start_from:
        whole["recipe"]["model_cfg"] = model_config(config.recipe.model)
    return {name: value for name, value in whole.items() if name not in _HOW}


def run_key(config: TrainConfig, table: PairTable) -> str:
    """Hash everything that a run's result depends on, but the machine."""
    return work_key(__version__, config_json(config), table.fingerprint)


def begin(config: TrainConfig, table: PairTable, *, resume: bool, is_main: bool) -> Saved | None:
    """Write ``config.json`` of a new run, or return the checkpoint of the run to go on with.

    A run that ended before its first checkpoint leaves nothing to go on with; its folder may be used again.

    Raises:
        ConfigError: the folder holds a run, and ``resume`` is false.
        StoreError: there is no checkpoint, or it is of other pairs or settings.
    """
    checkpoint = config.out / CHECKPOINT_NAME
    if not resume:
        if is_main:
            if checkpoint.exists():
                raise ConfigError(f"{config.out}: holds a run; go on with it by --resume, or name another --out")
            if any((config.out / name).exists() for name in FINISHED):
                raise ConfigError(f"{config.out}: holds an audit or a finished training; name another --out")
            write_json(config.out / CONFIG_NAME, {"settings": config_json(config), "data": table.fingerprint})
        return None
    saved = read_checkpoint(checkpoint)
    if saved.key != run_key(config, table):
        raise StoreError(f"{config.out}: is a run of {_difference(config, table)}; resume with what it began with")
    return saved


def _difference(config: TrainConfig, table: PairTable) -> str:
    """Say what is not as it was when the run began."""
    try:
        before = json.loads((config.out / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "other settings"
    if before.get("data") != table.fingerprint:
        return "other pairs (shards, captions or selection)"
    now, then = _flat(config_json(config)), _flat(before.get("settings", {}))
    changed = [f"{name} {then.get(name)!r}, not {now.get(name)!r}" for name in now if now[name] != then.get(name)]
    return f"other settings: {'; '.join(changed)}" if changed else "another version of roclip-audit"


def _flat(settings: dict[str, object]) -> dict[str, object]:
    flat = dict(settings)
    recipe = flat.pop("recipe", {})
    return {**flat, **(recipe if isinstance(recipe, dict) else {})}
