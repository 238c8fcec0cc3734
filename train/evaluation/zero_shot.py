"""Zero-shot classification: each class is the mean of its prompts, and a picture belongs to the nearest class.

    classifier = text_classifier(embedder, names)
    zero_shot_accuracy(features_ND, labels_N, classifier.weights_CD)

Source: CLIP (Radford et al. 2021, arXiv 2103.00020), section 3.1.4 and its ImageNet notebook: the unit vectors of a
class's prompts are averaged and the mean gets unit length again.
Cost: classes times templates texts, once a model.
Letters: N pictures, D dimensions, C classes, T templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roclip_audit.core.errors import ConfigError
from roclip_audit.train.attacks.captions import TEMPLATES
from roclip_audit.train.evaluation.class_names import same_class
from roclip_audit.train.evaluation.embedder import Embedder, Features, Indices
from roclip_audit.train.evaluation.proportion import Proportion

TOP = 5
ROWS_AT_ONCE = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """Class names and their vectors.

    Args:
        class_names: C names; two may be equal.
        weights_CD: unit vectors, in their order.
    """

    class_names: tuple[str, ...]
    weights_CD: Features

    def named(self, word: str) -> Indices:
        """Return the labels of the classes that a word means, whatever its case."""
        return np.asarray([i for i, name in enumerate(self.class_names) if same_class(name, word)], dtype=np.intp)

    def first(self, n_classes: int) -> Classifier:
        """Return the classifier over the first ``n_classes`` of them."""
        return Classifier(class_names=self.class_names[:n_classes], weights_CD=self.weights_CD[:n_classes])


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShot:
    """Zero-shot accuracy.

    Args:
        n_classes: to choose from; chance is one in so many.
        n_templates: prompts per class.
        top1: pictures whose nearest class is theirs.
        top5: pictures whose class is among the five nearest; None if there are no more than five.
        mean_per_class: mean of the top-1 accuracies of the classes that have pictures, 0 to 1.
    """

    n_classes: int
    n_templates: int
    top1: Proportion
    top5: Proportion | None
    mean_per_class: float

    def as_json(self) -> dict[str, object]:
        """Return the numbers as JSON values."""
        return {
            "classes": self.n_classes,
            "templates": self.n_templates,
            "top1": self.top1.as_json(),
            "top5": self.top5.as_json() if self.top5 else None,
            "mean_per_class": self.mean_per_class,
        }


def read_templates(path: Path) -> tuple[str, ...]:
    """Read one prompt template a line, ``{}`` in the place of the class; blank lines are passed over.

    Raises:
        ConfigError: the file cannot be read, is empty, or a line has no ``{}``.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--templates {path}: cannot be read ({error})") from error
    templates = tuple(line for line in lines if line)
    lacking = next((line for line in templates if "{}" not in line), None)
    if not templates or lacking is not None:
        raise ConfigError(f"--templates {path}: " + ("it is empty" if lacking is None else f"no {{}} in {lacking!r}"))
    return templates


def class_weights(
    embedder: Embedder,
    class_names: Sequence[str],
    *,
    templates: Sequence[str] = TEMPLATES,
    prefix: str = "",
    stage: str = "prompts",
) -> Features:
    """Return the vector of each class, unit length, float32 [C, D].

    Args:
        embedder: a model.
        class_names: C names.
        templates: T of them, each with ``{}``.
        prefix: word before every prompt.
        stage: what progress calls it.
    """
    start = f"{prefix} " if prefix else ""
    prompts = [start + template.replace("{}", name) for name in class_names for template in templates]
    features = embedder.texts(prompts, stage=stage)
    mean_CD = features.reshape(len(class_names), len(templates), -1).mean(axis=1)
    unit_CD: Features = mean_CD / np.maximum(np.linalg.norm(mean_CD, axis=1, keepdims=True), 1e-12)
    return unit_CD


def text_classifier(
    embedder: Embedder, class_names: Sequence[str], *, templates: Sequence[str] = TEMPLATES, prefix: str = ""
) -> Classifier:
    """Build a classifier out of class names; see `class_weights`."""
    weights_CD = class_weights(embedder, class_names, templates=templates, prefix=prefix)
    return Classifier(class_names=tuple(class_names), weights_CD=weights_CD)


def classify(features_ND: Features, weights_CD: Features, *, top: int = 1) -> NDArray[np.intp]:
    """Return the ``top`` nearest classes of each picture, nearest first, [N, top]; of equals the first."""
    parts = [np.empty((0, top), dtype=np.intp)]
    for start in range(0, len(features_ND), ROWS_AT_ONCE):
        similarity = features_ND[start : start + ROWS_AT_ONCE] @ weights_CD.T
        parts.append(np.argsort(-similarity, axis=1, kind="stable")[:, :top])
    return np.concatenate(parts)


def zero_shot_accuracy(features_ND: Features, labels_N: Indices, weights_CD: Features, *, top: int = 1) -> Proportion:
    """Count the pictures whose own class is among the ``top`` nearest.

    Args:
        features_ND: unit vectors.
        labels_N: rows of ``weights_CD``.
        weights_CD: of `class_weights`.
        top: 1 to C.
    """
    right_N = (classify(features_ND, weights_CD, top=top) == np.asarray(labels_N)[:, None]).any(axis=1)
    return Proportion.of(int(right_N.sum()), len(right_N))


def mean_per_class(features_ND: Features, labels_N: Indices, weights_CD: Features) -> float:
    """Return the mean over classes, those without pictures left out, of their top-1 accuracy, 0 to 1."""
    right_N = classify(features_ND, weights_CD)[:, 0] == labels_N
    return float(np.mean([right_N[labels_N == label].mean() for label in np.unique(labels_N)]))


def zero_shot(features_ND: Features, labels_N: Indices, classifier: Classifier, *, n_templates: int) -> ZeroShot:
    """Measure a model on labelled pictures."""
    weights_CD = classifier.weights_CD
    n_classes = len(weights_CD)
    return ZeroShot(
        n_classes=n_classes,
        n_templates=n_templates,
        top1=zero_shot_accuracy(features_ND, labels_N, weights_CD),
        top5=zero_shot_accuracy(features_ND, labels_N, weights_CD, top=TOP) if n_classes > TOP else None,
        mean_per_class=mean_per_class(features_ND, labels_N, weights_CD),
    )
