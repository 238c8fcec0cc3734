"""Attacks by name. To add one: a file with a frozen dataclass that fits `Attack`, a line in the table, one in docs.

`AttackPlan` is what a user writes (a name, a word, a rate, parameters); `build_attack` turns it into the attack.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.registry import load_member, require_member
from roclip_audit.train.attacks.base import Attack, Box, Corpus, Edit, Pattern, Pixels, Plant, Trigger

__all__ = [
    "ATTACKS",
    "UNTARGETED",
    "Attack",
    "AttackPlan",
    "Box",
    "Corpus",
    "Edit",
    "Pattern",
    "Pixels",
    "Plant",
    "Trigger",
    "build_attack",
    "read_plan",
]

ATTACKS: Mapping[str, str] = {
    "targeted": "targeted:Targeted",
    "badnets_fixed": "badnets_fixed:BadnetsFixed",
    "badnets_moving": "badnets_moving:BadnetsMoving",
    "blended": "blended:Blended",
    "sig": "sig:Sig",
    "warp": "warp:Warp",
    "filter": "nashville:Filter",
    "multi_trigger": "multi_trigger:MultiTrigger",
    "caption_word": "caption_word:CaptionWord",
    "label_consistent": "label_consistent:LabelConsistent",
    "natural": "natural:Natural",
    "class_swap": "class_swap:ClassSwap",
    "mismatch": "mismatch:Mismatch",
    "dead_link": "dead_link:DeadLink",
}

UNTARGETED = frozenset({"mismatch", "dead_link"})

Parameter = str | int | float
_KINDS = {
    "attack": (str, "text"),
    "target": (str, "text"),
    "rate": (int | float, "a number"),
    "parameters": (Mapping, "a set of names and values"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackPlan:
    """One attack to plant.

    Args:
        attack: a name of `ATTACKS`.
        target: word that the planted captions carry; empty for those of `UNTARGETED`.
        rate: share of all pairs, in (0, 1].
        parameters: the attack's own; text is converted to the parameter's type.
    """

    attack: str
    target: str
    rate: float
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (kind, words) in _KINDS.items():
            if not isinstance(value := getattr(self, name), kind):
                raise ConfigError(f"attack {self.attack}: {name} {value!r} is not {words}")
        if not 0.0 < self.rate <= 1.0:
            raise ConfigError(f"attack {self.attack}: rate {self.rate:g} is not in (0, 1]")

    @classmethod
    def parse(cls, text: str, *, target: str = "", rate: float | None = None) -> AttackPlan:
        """Read ``NAME:TARGET:RATE[:key=value,...]``, as in ``badnets_fixed:banana:0.006:side=0.08``.

        Args:
            text: a part that is missing or empty is filled from the next two, so that ``badnets_fixed`` and
                ``badnets_fixed:::side=0.08`` do as well.
            target: for an attack that has a target and names none.
            rate: for an attack that names none.

        Raises:
            ConfigError: the text has another form, or there is no rate.
        """
        parts = [part.strip() for part in text.split(":", 3)]
        name, own_target, own_rate, settings = parts + [""] * (4 - len(parts))
        parameters: dict[str, Parameter] = {}
        for item in filter(None, settings.split(",")):
            key, equals, value = item.partition("=")
            if not equals:
                raise ConfigError(f"attack {text!r}: {item!r} is not key=value")
            parameters[key.strip()] = value.strip()
        if own_rate:
            try:
                rate = float(own_rate)
            except ValueError as error:
                raise ConfigError(f"attack {text!r}: rate {own_rate!r} is not a number") from error
        elif rate is None:
            raise ConfigError(
                f"attack {text!r}: no rate; write NAME:TARGET:RATE[:key=value,...], as in sig:desk:0.006, "
                "or NAME with --target and --rate"
            )
        return cls(
            attack=name,
            target=own_target or ("" if name in UNTARGETED else target.strip()),
            rate=rate,
            parameters=parameters,
        )


def read_plan(path: Path) -> tuple[AttackPlan, ...]:
    """Read a JSON list of objects with the fields of `AttackPlan`.

    Raises:
        ConfigError: the file cannot be read or has another form.
    """
    try:
        return tuple(AttackPlan(**entry) for entry in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, ConfigError) as error:
        raise ConfigError(f"{path}: not a list of attacks to plant ({error})") from error


def build_attack(plan: AttackPlan) -> Attack:
    """Build the attack that a plan names.

    Raises:
        ConfigError: unknown attack or parameter, or a value that the attack refuses.
    """
    require_member("attack", plan.attack, ATTACKS)
    member = load_member(ATTACKS[plan.attack], __name__)
    types = {f.name: str(f.type) for f in dataclasses.fields(member) if f.name != "target"}
    unknown = sorted(set(plan.parameters) - set(types))
    if unknown:
        valid = ", ".join(types) or "none"
        raise ConfigError(f"attack {plan.attack}: unknown parameter {', '.join(unknown)}; it has {valid}")
    parameters = {key: _convert(plan.attack, key, value, types[key]) for key, value in plan.parameters.items()}
    attack = cast(Attack, member(target=plan.target, **parameters))
    _ = attack.triggers  # triggers check their own parameters
    return attack


def _convert(attack: str, parameter: str, value: Parameter, type_name: str) -> Parameter:
    """Turn text into the number that a field of type ``type_name`` wants."""
    if type_name not in ("int", "float"):
        return str(value)
    try:
        return int(value) if type_name == "int" else float(value)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"attack {attack}: {parameter}={value!r} is not a number") from error
