"""Planted triggers on disk: saved beside the truth, loaded by `eval` to stamp test images.

A folder holds ``trigger.json`` (attack, target, parameters), ``pattern.npz`` (what all stamped images share; numbers
only, read without unpickling) and ``preview.png`` (the trigger on mid-grey).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import write_json
from roclip_audit.train.attacks import AttackPlan, Box, Pattern, Pixels, Trigger, build_attack

PREVIEW_PX = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedTrigger:
    """A trigger with its drawn pattern.

    Args:
        plan: the plan it belongs to.
        trigger: how it is stamped.
        pattern: what all stamped images share.
    """

    plan: AttackPlan
    trigger: Trigger
    pattern: Pattern

    def stamp(self, image: Pixels, rng: np.random.Generator) -> tuple[Pixels, Box]:
        """Stamp one uint8 [H, W, 3] image; ``rng`` decides what differs from image to image."""
        return self.trigger.stamp(image, self.pattern, rng)


def save_trigger(planted: PlantedTrigger, folder: Path) -> None:
    """Write the three files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = planted.plan
    np.savez(folder / "pattern.npz", pattern=planted.pattern)
    grey = np.full((PREVIEW_PX, PREVIEW_PX, 3), 128, dtype=np.uint8)
    stamped, _ = planted.stamp(grey, np.random.default_rng(0))
    Image.fromarray(stamped).save(folder / "preview.png")
    description = {
        "attack": plan.attack,
        "target": plan.target,
        "rate": plan.rate,
        "parameters": dict(plan.parameters),
    }
    write_json(folder / "trigger.json", description)


def load_trigger(folder: Path) -> PlantedTrigger:
    """Read a trigger that `save_trigger` wrote.

    Raises:
        ConfigError: the files are missing or do not describe a trigger.
    """
    try:
        described = json.loads((folder / "trigger.json").read_text(encoding="utf-8"))
        plan = AttackPlan(**described)
        with np.load(folder / "pattern.npz", allow_pickle=False) as arrays:
            pattern = np.asarray(arrays["pattern"], dtype=np.float32)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder}: not a saved trigger ({error})") from error
    trigger = build_attack(plan).trigger
    if trigger is None:
        raise ConfigError(f"{folder}: attack {plan.attack} stamps nothing")
    return PlantedTrigger(plan=plan, trigger=trigger, pattern=pattern)
