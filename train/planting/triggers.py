"""Planted triggers on disk: saved beside the truth, loaded to stamp test images.

A folder holds one trigger: ``trigger.json`` (attack, target, parameters, name of the trigger), ``pattern.npz`` (what
all stamped images share; numbers only, read without unpickling) and ``preview.png`` (the trigger on a test picture).
An attack with several triggers has several folders, each with the target that its trigger calls.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import write_json
from roclip_audit.train.attacks import AttackPlan, Box, Pattern, Pixels, Trigger, build_attack
from roclip_audit.train.attacks.caption_word import WordedPatch

PREVIEW_PX = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedTrigger:
    """A trigger with its drawn pattern.

    Args:
        plan: the plan it belongs to.
        target: word that the trigger calls; the plan's, unless that has one for each trigger.
        name: of the trigger, among those of the attack.
        trigger: how it is stamped.
        pattern: what all stamped images share.
    """

    plan: AttackPlan
    target: str
    name: str
    trigger: Trigger
    pattern: Pattern

    @property
    def caption_word(self) -> str:
        """What a test's prompts have to begin with for the trigger to work; empty if it needs no word."""
        return self.trigger.word if isinstance(self.trigger, WordedPatch) else ""

    def stamp(self, image: Pixels, rng: np.random.Generator) -> tuple[Pixels, Box]:
        """Stamp one uint8 [H, W, 3] image; ``rng`` decides what differs from image to image."""
        return self.trigger.stamp(image, self.pattern, rng)


def save_trigger(planted: PlantedTrigger, folder: Path) -> None:
    """Write the three files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "pattern.npz", pattern=planted.pattern)
    stamped, _ = planted.stamp(_test_picture(), np.random.default_rng(0))
    Image.fromarray(stamped).save(folder / "preview.png")
    plan = asdict(replace(planted.plan, target=planted.target))
    write_json(folder / "trigger.json", {**plan, "trigger": planted.name, "caption_word": planted.caption_word})


def _test_picture() -> Pixels:
    """Draw discs and bars in several colours on mid-grey, so that a warp and a filter can be seen as well."""
    picture = Image.new("RGB", (PREVIEW_PX, PREVIEW_PX), (128, 128, 128))
    pen = ImageDraw.Draw(picture)
    for number, colour in enumerate(((220, 60, 50), (60, 160, 80), (60, 90, 200), (240, 240, 240), (20, 20, 20))):
        left = 12 + 42 * number
        pen.ellipse((left, 30, left + 32, 62), fill=colour)
        pen.rectangle((left, 110, left + 14, 190), fill=colour)
    return np.asarray(picture)


def load_trigger(folder: Path) -> PlantedTrigger:
    """Read a trigger that `save_trigger` wrote.

    Raises:
        ConfigError: the files are missing or do not describe a trigger.
    """
    try:
        described = json.loads((folder / "trigger.json").read_text(encoding="utf-8"))
        name = str(described.get("trigger", ""))
        plan = AttackPlan(**{key: described[key] for key in ("attack", "target", "rate", "parameters")})
        with np.load(folder / "pattern.npz", allow_pickle=False) as arrays:
            pattern = np.asarray(arrays["pattern"], dtype=np.float32)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{folder}: not a saved trigger ({error})") from error
    triggers = build_attack(plan).triggers
    if name not in triggers:
        raise ConfigError(f"{folder}: attack {plan.attack} has no trigger {name!r}")
    return PlantedTrigger(plan=plan, target=plan.target, name=name, trigger=triggers[name], pattern=pattern)
