"""Everything that an evaluation reads, read once and checked before the first model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks.captions import TEMPLATES
from roclip_audit.train.evaluation.attack_truth import AttackTruth, read_attack_truth
from roclip_audit.train.evaluation.class_names import read_class_names, same_class
from roclip_audit.train.evaluation.config import EvalConfig
from roclip_audit.train.evaluation.labelled import Labelled, read_labelled
from roclip_audit.train.evaluation.retrieval import Pairs, draw_pairs
from roclip_audit.train.evaluation.zero_shot import read_templates


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What models are evaluated on; None where it was not given.

    Args:
        class_names: classes of the test pictures, or of ``--classes``.
        templates: of the prompts.
        data: test pictures; their labels are positions in ``class_names``.
        probe_train: pictures to train the probe on.
        probe_labels: theirs, on the scale of the test labels; a class that the test lacks has a number above.
        pairs: for retrieval.
        truth: of the attacks.
    """

    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    data: Labelled | None = None
    probe_train: Labelled | None = None
    probe_labels: NDArray[np.intp] | None = None
    pairs: Pairs | None = None
    truth: AttackTruth | None = None

    @property
    def added_words(self) -> tuple[str, ...]:
        """Target words that are not among the class names."""
        added: list[str] = []
        for word in self.truth.target_words if self.truth is not None else ():
            if not any(same_class(word, name) for name in (*self.class_names, *added)):
                added.append(word)
        return tuple(added)


def read_inputs(config: EvalConfig) -> Inputs:
    """Read labels, captions, truth and names; pictures are only found.

    Raises:
        ConfigError: something is missing or does not fit.
        ShardError: a shard is damaged.
    """
    classes = read_class_names(config.classes) if config.classes is not None else None
    templates = read_templates(config.templates) if config.templates is not None else TEMPLATES
    data = _labelled(config, config.data, "--data", classes)
    probe = _labelled(config, config.probe_train, "--probe-train", classes)
    truth = pairs = None
    if config.attack is not None:
        truth = read_attack_truth(config.attack, config.poisoned, max_pixels=config.max_pixels)
        if truth.triggers and data is None:
            raise ConfigError(
                f"--attack {config.attack}: its triggers are stamped on test pictures: give --data LABELLED"
            )
    if config.retrieval is not None:
        pairs = draw_pairs(
            [config.retrieval],
            config.retrieval_pairs,
            seed=config.seed,
            caption_key=config.caption_key,
            max_pixels=config.max_pixels,
        )
    return Inputs(
        class_names=data.class_names if data is not None else classes or (),
        templates=templates,
        data=data,
        probe_train=probe,
        probe_labels=_on_scale_of(data.class_names, probe) if data is not None and probe is not None else None,
        pairs=pairs,
        truth=truth,
    )


def _labelled(config: EvalConfig, spec: str | None, option: str, classes: Sequence[str] | None) -> Labelled | None:
    if spec is None:
        return None
    return read_labelled(spec, option=option, classes=classes, class_key=config.class_key, max_pixels=config.max_pixels)


def _on_scale_of(test_names: Sequence[str], probe: Labelled) -> NDArray[np.intp]:
    """Return the labels of the training pictures as the test counts them; classes go by name."""
    if tuple(test_names) == probe.class_names:
        return probe.labels_N
    position: dict[str, int] = {}
    for index, name in enumerate(test_names):
        first = position.setdefault(name.casefold(), index)
        if first != index:
            raise ConfigError(
                f"--data: classes {first} and {index} are both called {name!r}, so the classes of --probe-train, which "
                "are others, cannot be told by name; give both the same --classes"
            )
    if not any(name.casefold() in position for name in probe.class_names):
        raise ConfigError(
            f"--probe-train: none of its classes is one of --data (they are {probe.class_names[0]!r}, ...)"
        )
    for name in probe.class_names:
        position.setdefault(name.casefold(), len(position))
    return np.asarray([position[name.casefold()] for name in probe.class_names], dtype=np.intp)[probe.labels_N]
