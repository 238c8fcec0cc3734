"""What an evaluation found, and what it proves: a defence is only shown beside an undefended model that fell.

Source of the rule: attacks often fail to implant on small data or small batches (CleanCLIP issues 12 and 13), and then
every defence looks perfect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch comes with them
    from roclip_audit.train.evaluation.pictures import Unread
    from roclip_audit.train.evaluation.probe import ProbeResult
    from roclip_audit.train.evaluation.proportion import Proportion
    from roclip_audit.train.evaluation.retrieval import RetrievalResult
    from roclip_audit.train.evaluation.zero_shot import ZeroShot

LEAST_UNDEFENDED_SUCCESS = 0.5
MAX_UNREAD_LISTED = 100


class Verdict(StrEnum):
    """What an attack says about the defended models."""

    SHOWN = "shown"
    """The undefended model fell to it, so what the others do counts."""
    VOID = "void"
    """It did not work on the undefended model: below a half, or a half was called the target without the trigger."""
    NO_BASELINE = "no baseline"
    """No undefended model was evaluated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """Success of one attack, or of several counted together, on one model.

    Args:
        attack: its name.
        target: word; empty where several are counted together.
        trigger: name of the trigger's folder; empty for targeted poisoning, and where several are counted together.
        n_pooled: attacks counted together; 1 for a single one.
        success: pictures called the target.
        top5: targeted pictures with the word among the five nearest classes; None for backdoors, or up to five classes.
        base: pictures called the target without the trigger; None for targeted poisoning.
    """

    attack: str
    target: str
    trigger: str = ""
    n_pooled: int = 1
    success: Proportion
    top5: Proportion | None = None
    base: Proportion | None = None

    @property
    def label(self) -> str:
        """What tells it from the others."""
        if self.n_pooled > 1:
            return f"{self.attack}, all {self.n_pooled}"
        return f"{self.attack} -> {self.target}" + (f" [{self.trigger}]" if self.trigger else "")

    @property
    def works(self) -> bool:
        """Whether at least half of the pictures are called the target, and it takes the trigger to do that."""
        share, base = self.success.share, self.base.share if self.base is not None else None
        return (share or 0.0) >= LEAST_UNDEFENDED_SUCCESS > (base or 0.0)

    def as_json(self) -> dict[str, object]:
        """Return the numbers as JSON values."""
        return {
            "attack": self.attack,
            "target": self.target or None,
            "trigger": self.trigger or None,
            "pooled": self.n_pooled,
            "success": self.success.as_json(),
            "top5": self.top5.as_json() if self.top5 else None,
            "base_rate": self.base.as_json() if self.base else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelResult:
    """All that was measured of one model; None or empty where the input was not given."""

    name: str
    spec: str
    is_undefended: bool = False
    zero_shot: ZeroShot | None = None
    probe: ProbeResult | None = None
    retrieval: RetrievalResult | None = None
    attacks: tuple[AttackResult, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFacts:
    """What was read of one input.

    Args:
        option: the option that named it.
        n_pictures: pictures to evaluate on, unreadable ones included.
        n_left_out: samples without a class, or without caption or picture.
        unread: pictures that could not be read; they count nowhere.
    """

    option: str
    n_pictures: int
    n_left_out: int
    unread: tuple[Unread, ...]

    def as_json(self) -> dict[str, object]:
        """Return the counts as JSON values, with the first of the unreadable pictures."""
        listed = [{"where": one.where, "reason": one.reason} for one in self.unread[:MAX_UNREAD_LISTED]]
        return {
            "pictures": self.n_pictures,
            "left_out": self.n_left_out,
            "unreadable": len(self.unread),
            "unreadable_first": listed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport:
    """The models side by side.

    Args:
        models: the undefended one first.
        inputs: what was read.
        not_measured: attacks of the truth that no picture can test.
        settings: seed, device, versions.
    """

    models: tuple[ModelResult, ...]
    inputs: tuple[InputFacts, ...]
    not_measured: tuple[str, ...]
    settings: Mapping[str, str | int]

    @property
    def n_unreadable(self) -> int:
        """Pictures of all inputs that could not be read."""
        return sum(len(one.unread) for one in self.inputs)

    def verdict(self, label: str) -> Verdict:
        """Say what the attack with this label proves."""
        undefended = [model for model in self.models if model.is_undefended]
        if not undefended:
            return Verdict.NO_BASELINE
        attack = next(one for one in undefended[0].attacks if one.label == label)
        return Verdict.SHOWN if attack.works else Verdict.VOID

    def as_json(self) -> dict[str, object]:
        """Return everything as JSON values."""
        return {
            "models": [self._model(model) for model in self.models],
            "inputs": {one.option: one.as_json() for one in self.inputs},
            "not_measured": list(self.not_measured),
            "undefended": next((model.name for model in self.models if model.is_undefended), None),
            "unreadable": self.n_unreadable,
            "settings": dict(self.settings),
        }

    def _model(self, model: ModelResult) -> dict[str, object]:
        return {
            "name": model.name,
            "checkpoint": model.spec,
            "undefended": model.is_undefended,
            "zero_shot": model.zero_shot.as_json() if model.zero_shot else None,
            "linear_probe": model.probe.as_json() if model.probe else None,
            "retrieval": model.retrieval.as_json() if model.retrieval else None,
            "attacks": [
                {"label": one.label, **one.as_json(), "verdict": self.verdict(one.label).value} for one in model.attacks
            ],
        }
