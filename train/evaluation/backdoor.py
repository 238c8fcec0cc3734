"""Success of a backdoor: what share of test pictures is called the target once its trigger is on them?

Pictures of the target class itself are left out. The same share without the trigger is the base rate: what the model
would call the target anyway.

Source: CleanCLIP (arXiv 2303.03323) and its code: trigger on all test images except the target class, share predicted
as target.
Differs from it: the trigger is stamped on the picture as it is stored, before the model's preprocessing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roclip_audit.core.seeding import generator
from roclip_audit.train.attacks import Pixels
from roclip_audit.train.evaluation.embedder import Embedder, Features, Indices
from roclip_audit.train.evaluation.pictures import Pictures
from roclip_audit.train.evaluation.proportion import Proportion
from roclip_audit.train.evaluation.zero_shot import Classifier, classify
from roclip_audit.train.planting.triggers import PlantedTrigger


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamping:
    """A trigger and how it is put on test pictures.

    Args:
        name: of the trigger's folder; with the seed and the picture's position it decides what differs from picture to
            picture.
        trigger: what is stamped.
        seed: of the evaluation.
    """

    name: str
    trigger: PlantedTrigger
    seed: int = 0

    def __call__(self, position: int, image: Pixels) -> Pixels:
        """Return the stamped picture, uint8 [H, W, 3]."""
        return self.trigger.stamp(image, generator(self.seed, "eval", self.name, position))[0]


def called_target(features_ND: Features, labels_N: Indices, classifier: Classifier, target: str) -> Proportion:
    """Count the pictures that are called the target though they are of another class.

    Args:
        features_ND: unit vectors.
        labels_N: positions in ``classifier.class_names``.
        classifier: over all classes, the target among them.
        target: word of the attack.
    """
    meant = classifier.named(target)
    others_N = ~np.isin(labels_N, meant)
    called_N = np.isin(classify(features_ND[others_N], classifier.weights_CD)[:, 0], meant)
    return Proportion.of(int(called_N.sum()), len(called_N))


def not_of_class(labels_N: Indices, classifier: Classifier, target: str) -> NDArray[np.intp]:
    """Return the positions of the pictures that are not of the target class."""
    return np.flatnonzero(~np.isin(labels_N, classifier.named(target)))


def backdoor_success(
    embedder: Embedder,
    pictures: Pictures,
    labels_N: Indices,
    *,
    stamping: Stamping,
    classifier: Classifier,
    stage: str = "stamped pictures",
) -> Proportion:
    """Stamp every picture that is not of the target class and count those called the target.

    Args:
        embedder: a model.
        pictures: N test pictures; unreadable ones do not count.
        labels_N: positions in ``classifier.class_names``.
        stamping: the trigger.
        classifier: over all classes, the target among them; its prompts begin with the trigger's caption word, if it
            has one.
        stage: what progress calls it.
    """
    target = stamping.trigger.target
    chosen = not_of_class(labels_N, classifier, target)
    if not len(chosen):
        return Proportion.of(0, 0)
    stamped = embedder.pictures(pictures, stage=stage, chosen=chosen, stamp=stamping)
    return called_target(stamped.features_ND, labels_N[stamped.rows_N], classifier, target)
